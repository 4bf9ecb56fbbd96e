"""The transaction that a task's body shares with the record of its end: opened here, and ended by `run_attempts`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Engine, NestedTransaction, make_url
from sqlalchemy.engine.url import URL
from sqlalchemy.orm import Session

from orchestra import states
from orchestra.callables import is_async
from orchestra.context import TaskRunContext, task_run_context
from orchestra.engine import interrupts
from orchestra.errors import DbTransactionError
from orchestra.states import State
from orchestra.store.database import database
from orchestra.store.joint import Joint
from orchestra.store.journal import Effect


def block(context: TaskRunContext, bind: Engine | URL | str | None) -> AbstractContextManager[Session]:
    """A block of the transaction of this task run; the first one opens it.

    Raises:
        DbTransactionError: It could not be committed together with the task's end.
    """
    _check(context)
    if bind is not None:
        _check_same(make_url(bind.url if isinstance(bind, Engine) else bind))
    return _block(context)


@contextlib.contextmanager
def _block(context: TaskRunContext) -> Iterator[Session]:
    atomic = context.atomic
    if atomic is None:
        with interrupts.shielded():
            atomic = context.atomic = Atomic(context)
    with atomic.block() as session:
        yield session


class Atomic:
    """The open transaction of one attempt of a task run."""

    def __init__(self, context: TaskRunContext) -> None:
        """Begin it."""
        self._context = context
        self._thread = threading.get_ident()
        #: Blocks that are open now, and those that were left in order.
        self._open = self._kept = 0
        self._joint = Joint(database())

    @contextlib.contextmanager
    def block(self) -> Iterator[Session]:
        """A session, in a savepoint: what raises undoes the block's own rows.

        Raises:
            DbTransactionTimeout: The transaction was open for too long.
        """
        if threading.get_ident() != self._thread:
            raise DbTransactionError(
                f"task {self._context.task.name!r} has opened db_transaction() in another thread; a database session "
                "belongs to one thread: hand plain data over, and write it where the transaction was opened"
            )
        self._open += 1
        savepoint = session = None
        try:
            savepoint = self._joint.connection.begin_nested()
            session = _Session(self._joint)
            yield session
            session.end()
            savepoint.commit()
            self._kept += 1
        except BaseException as error:
            self._undo(session, savepoint)
            if self._joint.is_timeout(error):
                raise self._joint.timeout() from error
            raise
        finally:
            self._open -= 1

    def _undo(self, session: _Session | None, savepoint: NestedTransaction | None) -> None:
        """Roll a block back; with nothing else in it, the transaction ends, and others may write."""
        with interrupts.shielded():
            # It may be gone as a whole, and the connection with it.
            with contextlib.suppress(Exception):
                if session is not None:
                    session.close()
                if savepoint is not None:
                    savepoint.rollback()
            if self._open == 1 and not self._kept:
                self._context.atomic = None
                self._joint.roll_back()

    def also(self, effect: Effect) -> None:
        """Do this in it too, when it is committed."""
        self._joint.effects.append(effect)

    def settle(self, state: State[Any]) -> State[Any]:
        """The body has ended so: record that and commit both, or roll back; gives how the attempt has ended.

        What was committed is noted as `context.recorded`. Signals and a lost claim go to the caller, rolled back.
        """
        context, context.atomic = self._context, None
        with interrupts.shielded():
            try:
                if self._open and state.is_completed():
                    raise DbTransactionError(
                        f"task {context.task.name!r} ended inside of a block of db_transaction(): use it in a `with` "
                        "statement, which is left before the body ends"
                    )
                if not state.is_completed():
                    return state
                final = self._record(state)
                if not final.is_completed():
                    return final
                context.recorded = final
                return state
            except DbTransactionError as error:
                return states.from_body(error)
            finally:
                self.roll_back()

    def _record(self, state: State[Any]) -> State[Any]:
        """Record the end as whoever called the task does: outside of its body."""
        context = self._context
        assert context.record is not None
        context.joint = self._joint
        token = task_run_context.set(None)
        try:
            final = context.record(state, self._joint)
        finally:
            task_run_context.reset(token)
            context.joint = None
        assert final is not None
        return final

    def roll_back(self) -> None:
        """Undo everything; does nothing where it was committed."""
        # A body over its time may still be at work in a thread that cannot be stopped.
        in_use = self._open > 0 and threading.get_ident() != self._thread
        with interrupts.shielded():
            self._joint.roll_back(in_use=in_use)


class _Session(Session):
    """A session whose rows are committed when the task ends, and not before."""

    def __init__(self, joint: Joint) -> None:
        super().__init__(
            joint.connection,
            join_transaction_mode="create_savepoint",
            expire_on_commit=False,
            close_resets_only=False,
        )

    def commit(self) -> None:
        """Refused: the user would take for committed what is not.

        Raises:
            DbTransactionError: Always.
        """
        raise DbTransactionError(
            "session.commit() was called inside db_transaction(), where nothing is committed before the task ends: "
            "leave it out; session.flush() sends what is pending to the database"
        )

    def end(self) -> None:
        """Send what is pending, and close."""
        super().commit()
        self.close()


def _check(context: TaskRunContext) -> None:
    """Whether this task run's end could be committed together with the user's rows."""
    task = context.task
    if is_async(task.fn):
        raise DbTransactionError(
            f"task {task.name!r} is a coroutine function, and db_transaction() would hold up its event loop, on SQLite "
            "also all else that runs in it: make it a plain `def`, which async flows call as well"
        )
    if task.persist_result is False:
        raise DbTransactionError(
            f"task {task.name!r} says persist_result=False: its end is not recorded, so its rows cannot be committed "
            "together with it"
        )
    if context.record is None:
        raise DbTransactionError(
            f"the end of task {task.name!r} is not recorded in this process: it was called in the body of another "
            "task, or runs in a process pool. Call it from the flow; submit it to threads or to workers"
        )


def _check_same(wanted: URL) -> None:
    ours = make_url(database().url)
    if _place(wanted) != _place(ours):
        raise DbTransactionError(
            f"{_shown(wanted)} is not the database of orchestra, which is {_shown(ours)}: rows in two databases cannot "
            "be committed together. Keep them in one (ORCHESTRA_DATABASE_URL), or make the task repeatable by "
            "runtime.task_run.idempotency_key"
        )


def _place(url: URL) -> tuple[Any, ...]:
    """What tells one database from another, whoever connects to it, by whatever driver."""
    kind = url.get_backend_name()
    if kind == "sqlite":
        return kind, Path(url.database or ":memory:").resolve()
    return kind, url.query.get("host", url.host), url.port or 5432, url.database


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)
