"""A task's own rows and the record of its end, in one commit."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from orchestra import lazy
from orchestra.context import flow_run_context, task_run_context
from orchestra.errors import MissingContextError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Engine
    from sqlalchemy.orm import Session


def db_transaction(bind: Engine | URL | str | None = None) -> AbstractContextManager[Session]:
    """A session whose rows are committed together with the end of the task that runs: both, or neither.

    For `with`, in the body of a task, where orchestra's database is also the user's:

        @task
        def book(order: int) -> None:
            with db_transaction() as session:
                session.add(Booking(order=order))

    Nothing is committed before the body ends. If it raises, all of it is rolled back, and the failure is recorded, or
    the task tried again. If the process dies, whenever that is, the rows are there exactly if the task has ended. A
    second block in the same body goes on with the same transaction; a block that raises undoes its own rows.

    On SQLite the transaction holds the lock that all writers need. So it may be open for a third of the lease, and
    other calls of orchestra that write are refused meanwhile.

    Args:
        bind: The engine, or URL, of the user's database; to make sure that it is orchestra's.

    Raises:
        MissingContextError: No task runs here.
        DbTransactionError: The rows could not be committed together with the task's end; says why.
        DbTransactionTimeout: By the block, or as what the task fails with: the transaction was open for too long.
    """
    context = task_run_context.get()
    if context is None:
        where = "in the body of a flow" if flow_run_context.get() is not None else "outside of any task"
        raise MissingContextError(
            f"db_transaction() was called {where}: it commits together with the end of a task, so put it, and what it "
            "writes, into the body of a @task"
        )
    opened: Any = lazy.load("db_transaction")(context, bind)
    return opened  # type: ignore[no-any-return]
