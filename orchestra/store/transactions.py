"""Transactions of flow runs and their hooks: what is written before it can be needed, and each hook's one end.

All of it is written under the claim of whoever carries the run (or the owed hooks of a retry by hand), so that a
process which lost its claim records nothing. Reading needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra.errors import IllegalTransition, TransactionNotFound
from orchestra.failpoints import failpoint
from orchestra.states import StateType
from orchestra.store import blobs, history
from orchestra.store.announcements import Announcement
from orchestra.store.claims import Claim, fence
from orchestra.store.database import Database, insert, insert_for, now
from orchestra.store.journal import Effect, NewStep, keep_large, write
from orchestra.store.owed import Debt, owe
from orchestra.store.prepared import Prepared
from orchestra.store.tables import Phase, flow_runs, steps, transaction_hooks, transaction_keys, transactions
from orchestra.transaction_rules import STANDING, UNSETTLED, Durable, HookKind, HookState

#: The name of a run's final state whose rollback failed, and of one whose failed hooks were retried by hand.
ROLLBACK_FAILED, ROLLED_BACK = "RollbackFailed", "RolledBack"


@dataclass(frozen=True, slots=True)
class NewTransaction:
    """A block that is opened."""

    key: str
    parent_key: str | None
    #: What users call its key.
    name: str | None = None


@dataclass(frozen=True, slots=True)
class NewHook:
    """A hook to be registered. Encoded values are the bytes of `orchestra.serializers`."""

    key: str
    transaction_key: str
    kind: HookKind
    name: str
    sequence: int
    number: int = 0
    #: The step whose task it belongs to; None: of the block itself.
    step_key: str | None = None
    path: str | None = None
    options: bytes | None = None
    function: bytes | None = None
    arguments: bytes | None = None
    stored: bytes | None = None


@dataclass(frozen=True, slots=True)
class TransactionRow:
    """A transaction as it stands. Instants are seconds since the epoch."""

    run_id: str
    run_attempt: int
    key: str
    parent_key: str | None
    name: str | None
    state: str
    stored: bytes | None
    error: bytes | None
    message: str | None
    failed_branch: str | None
    failed_position: int | None
    created_at: float
    end_time: float | None


@dataclass(frozen=True, slots=True)
class HookRow:
    """A hook as it stands. Instants are seconds since the epoch."""

    run_id: str
    run_attempt: int
    key: str
    transaction_key: str
    kind: str
    name: str
    step_key: str | None
    number: int
    path: str | None
    options: bytes | None
    function: bytes | None
    arguments: bytes | None
    stored: bytes | None
    created_at: float
    sequence: int
    state: str
    starts: int
    attempt: int
    due_at: float | None
    message: str | None
    start_time: float | None
    end_time: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a transaction is rolled back, and where in the body its block failed."""

    key: str
    #: The encoded exception, where one left the block, and the reason for people.
    error: bytes | None
    message: str
    branch: str | None = None
    position: int | None = None


# -- written together with steps ---------------------------------------------------------------------------------


def opening(run_id: str, run_attempt: int, new: NewTransaction) -> Effect:
    """Writes a block that is opened. Safe to repeat."""
    values = {
        "run_id": run_id,
        "run_attempt": run_attempt,
        "key": new.key,
        "parent_key": new.parent_key,
        "name": new.name,
        "state": Durable.ACTIVE.value,
    }

    def effect(connection: Connection, moment: float) -> None:
        _OPEN.count(connection, values | {"created_at": moment})

    return effect


def registering(run_id: str, run_attempt: int, hooks: Sequence[NewHook]) -> Effect:
    """Registers hooks. Safe to repeat."""

    def effect(connection: Connection, moment: float) -> None:
        rows = [
            {name: getattr(hook, name) for name in NewHook.__slots__}
            | {"run_id": run_id, "run_attempt": run_attempt, "state": HookState.PENDING.value, "created_at": moment}
            | {"kind": hook.kind.value}
            for hook in hooks
        ]
        connection.execute(insert(connection, transaction_hooks).on_conflict_do_nothing(), rows)

    return effect


def storing(run_id: str, run_attempt: int, key: str, stored: bytes) -> Effect:
    """Keeps what `txn.set` has set so far. Safe to repeat."""

    def effect(connection: Connection, moment: float) -> None:
        this = _of_attempt(transactions, run_id, run_attempt) & (transactions.c.key == key)
        connection.execute(sa.update(transactions).where(this).values(stored=stored))

    return effect


def write_alone(database: Database, claim: Claim, effects: Sequence[Effect]) -> None:
    """Write these under a claim, without any step: for runs whose steps are written behind them.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """

    def work(connection: Connection) -> None:
        moment = fence(connection, claim)
        for effect in effects:
            effect(connection, moment)

    database.write(work)


# -- decisions ---------------------------------------------------------------------------------------------------


def roll_back(
    database: Database,
    claim: Claim,
    keys: Collection[str],
    failure: Failure,
    new: Sequence[NewStep] = (),
    *,
    window: Callable[[str], int],
) -> tuple[set[str], list[Announcement]]:
    """Decide that transactions are rolled back, and why, before the first hook runs. Safe to repeat.

    A crash before it leaves an open block, which fails again in the replay; one after it goes on with the hooks. What
    was committed stays so.

    Args:
        keys: Of the transactions; that of `failure` among them, where it is of a block.
        new: Steps not yet written.

    Returns:
        The keys of those that stay committed, and what to announce.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """

    def work(connection: Connection) -> tuple[set[str], list[Announcement]]:
        moment = fence(connection, claim)
        announcements = write(connection, claim, new, window=window, moment=moment)
        of_run = _of_attempt(transactions, claim.run_id, claim.run_attempt)
        ours = (of_run, transactions.c.key.in_(sorted(keys)))
        stand = set(connection.scalars(sa.select(transactions.c.key).where(*ours, transactions.c.state.in_(STANDING))))
        # What is left of one that was rolled back before, because a block inside it failed, is so too.
        still = transactions.c.state.in_([Durable.ACTIVE.value, Durable.ROLLED_BACK.value, Durable.ROLLBACK_FAILED])
        decided = {"state": Durable.ROLLING_BACK.value, "message": failure.message}
        connection.execute(sa.update(transactions).where(*ours, still).values(**decided))
        connection.execute(
            sa.update(transactions)
            .where(of_run, transactions.c.key == failure.key, transactions.c.error.is_(None))
            .values(error=failure.error, failed_branch=failure.branch, failed_position=failure.position)
        )
        return stand, announcements

    keep_large(database, new)
    failpoint("before_rollback")
    decided = database.write(work)
    failpoint("after_rollback_decided")
    return decided


def commit(
    database: Database,
    claim: Claim,
    keys: Collection[str],
    kept: Sequence[tuple[str, bytes | None]] = (),
    new: Sequence[NewStep] = (),
    *,
    window: Callable[[str], int],
) -> tuple[bool, list[Announcement]]:
    """Decide that transactions are committed, before the first commit hook runs. Safe to repeat.

    A crash before it leaves an open block, which is replayed to its end; after it nothing rolls back any more.

    Args:
        kept: What was staged, by the users' keys.
        new: Steps not yet written.

    Returns:
        Whether there are commit hooks to run, and what to announce.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """

    def work(connection: Connection) -> tuple[bool, list[Announcement]]:
        moment = fence(connection, claim)
        announcements = write(connection, claim, new, window=window, moment=moment)
        of_run = _of_attempt(transactions, claim.run_id, claim.run_attempt)
        ours = (of_run, transactions.c.key.in_(sorted(keys)))
        active = transactions.c.state == Durable.ACTIVE.value
        owed = _has_pending(connection, claim, keys, HookKind.COMMIT)
        values: dict[str, Any] = {"state": Durable.COMMITTING.value}
        if not owed:
            values = {"state": Durable.COMMITTED.value, "end_time": moment}
        if connection.execute(sa.update(transactions).where(*ours, active).values(**values)).rowcount:
            for key, data in kept:
                _keep_key(connection, key, data, moment)
        return owed, announcements

    keep_large(database, new)
    failpoint("before_commit")
    decided = database.write(work)
    failpoint("after_commit_decided")
    return decided


def settle(database: Database, claim: Claim, keys: Collection[str]) -> list[HookRow]:
    """End transactions all of whose hooks have ended; gives the hooks that failed. Safe to repeat.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """

    def work(connection: Connection) -> list[HookRow]:
        moment = fence(connection, claim)
        of_run = _of_attempt(transactions, claim.run_id, claim.run_attempt)
        ours = (of_run, transactions.c.key.in_(sorted(keys)))
        failed = _hooks(connection, claim.run_id, claim.run_attempt, keys, states=(HookState.FAILED,))
        undone = sorted({row.transaction_key for row in failed if row.kind == HookKind.ROLLBACK})
        for state, ended in (
            (Durable.COMMITTING, sa.literal(Durable.COMMITTED.value)),
            (
                Durable.ROLLING_BACK,
                sa.case(
                    (transactions.c.key.in_(undone), Durable.ROLLBACK_FAILED.value), else_=Durable.ROLLED_BACK.value
                ),
            ),
        ):
            connection.execute(
                sa.update(transactions)
                .where(*ours, transactions.c.state == state.value)
                .values(state=ended, end_time=moment)
            )
        return failed

    failpoint("before_settled")
    failed = database.write(work)
    failpoint("after_settled")
    return failed


# -- hooks -------------------------------------------------------------------------------------------------------


def pending_hooks(
    database: Database, run_id: str, run_attempt: int, keys: Collection[str], kind: HookKind
) -> list[HookRow]:
    """The hooks of transactions that are still to be run: those of a commit in order, of a rollback newest first."""
    found = database.read(lambda c: _hooks(c, run_id, run_attempt, keys, kinds=(kind,), states=(HookState.PENDING,)))
    return found[::-1] if kind is HookKind.ROLLBACK else found


def start_hook(database: Database, claim: Claim, hook: HookRow) -> int:
    """Note that a hook is started; gives how often it was, this time included.

    A crash after it, and before its end, has it started again, with the same idempotency key.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """

    def work(connection: Connection) -> int:
        moment = fence(connection, claim)
        start_time = sa.func.coalesce(transaction_hooks.c.start_time, moment)
        # Counted from what was read: a repeated write counts once.
        values = {"starts": hook.starts + 1, "start_time": start_time}
        connection.execute(sa.update(transaction_hooks).where(_this(hook)).values(**values))
        return hook.starts + 1

    failpoint("before_transaction_hook")
    return database.write(work)


def end_hook(database: Database, claim: Claim, hook: HookRow, state: HookState, message: str | None = None) -> None:
    """Record a hook's one end. Safe to repeat.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """

    def work(connection: Connection) -> None:
        moment = fence(connection, claim)
        values = {"state": state.value, "message": message, "end_time": moment, "due_at": None}
        pending = transaction_hooks.c.state == HookState.PENDING.value
        connection.execute(sa.update(transaction_hooks).where(_this(hook), pending).values(**values))

    failpoint("after_transaction_hook")
    database.write(work)
    failpoint("after_transaction_hook_ended")


def postpone_hook(
    database: Database, claim: Claim, hook: HookRow, *, attempt: int, delay: float, message: str | None
) -> None:
    """Note that a hook failed, and is tried again after `delay` seconds, as its try number `attempt`.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """

    def work(connection: Connection) -> None:
        moment = fence(connection, claim)
        values = {"attempt": attempt, "due_at": moment + delay, "message": message, "starts": 0}
        connection.execute(sa.update(transaction_hooks).where(_this(hook)).values(**values))

    database.write(work)


# -- keys --------------------------------------------------------------------------------------------------------


def has_key(database: Database, key: str) -> bool:
    """Whether a committed transaction has kept something under a user's key."""
    query = sa.select(transaction_keys.c.key).where(transaction_keys.c.key == key)
    return database.read(lambda connection: connection.scalar(query)) is not None


def read_key(database: Database, key: str) -> bytes | None:
    """What is kept under a user's key, encoded; None where nothing is."""

    def look(connection: Connection) -> bytes | None:
        query = sa.select(transaction_keys.c.result, transaction_keys.c.result_blob)
        row = connection.execute(query.where(transaction_keys.c.key == key)).first()
        if row is None:
            return None
        return blobs.get(connection, row.result_blob) if row.result_blob else row.result

    return database.read(look)


def keep_key(database: Database, key: str, data: bytes | None) -> None:
    """Keep a staged value under a user's key, in the place of what was there. Safe to repeat."""
    database.write(lambda connection: _keep_key(connection, key, data, None))


def _keep_key(connection: Connection, key: str, data: bytes | None, moment: float | None) -> None:
    result, blob = blobs.place(connection, data)
    values = {"result": result, "result_blob": blob, "created_at": now() if moment is None else moment}
    statement = insert(connection, transaction_keys).values(key=key, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=[transaction_keys.c.key], set_=values))


# -- reading -----------------------------------------------------------------------------------------------------


def load(
    database: Database, run_id: str, run_attempt: int, keys: Collection[str] | None = None
) -> list[TransactionRow]:
    """The transactions of a run attempt, or these of them, in the order of opening."""
    query = sa.select(transactions).where(_of_attempt(transactions, run_id, run_attempt))
    if keys is not None:
        query = query.where(transactions.c.key.in_(sorted(keys)))
    ordered = query.order_by(transactions.c.created_at, transactions.c.key)
    return database.read(lambda connection: [_transaction(row) for row in connection.execute(ordered)])


def hooks(database: Database, run_id: str, run_attempt: int, key: str | None = None) -> list[HookRow]:
    """The hooks of a run attempt, or of one of its transactions, in the order of registration."""
    keys = None if key is None else [key]
    return database.read(lambda connection: _hooks(connection, run_id, run_attempt, keys))


def page(
    database: Database,
    *,
    run_id: str | None = None,
    states: Sequence[str] = (),
    limit: int = 50,
    before: TransactionRow | None = None,
) -> list[TransactionRow]:
    """Transactions, the newest first.

    Args:
        run_id: Of this flow run only.
        states: In one of these (`transaction_rules.Durable`) only.
        limit: At most so many.
        before: The last row of the page before.
    """
    column = transactions.c
    query = sa.select(transactions)
    if run_id is not None:
        query = query.where(column.run_id == run_id)
    if states:
        query = query.where(column.state.in_(list(states)))
    if before is not None:
        place = sa.tuple_(column.created_at, column.run_id, column.key)
        query = query.where(place < sa.tuple_(sa.literal(before.created_at), before.run_id, before.key))
    ordered = query.order_by(column.created_at.desc(), column.run_id.desc(), column.key.desc()).limit(limit)
    return database.read(lambda connection: [_transaction(row) for row in connection.execute(ordered)])


def find(database: Database, run_id: str, key: str | None = None, run_attempt: int | None = None) -> TransactionRow:
    """One transaction of a flow run, in its latest attempt where none is named.

    Args:
        key: As `TransactionRow.key`, with or without its branch: `main/txn-0` or `txn-0`; None: the only one.

    Raises:
        TransactionNotFound: There is none, or more than one fits.
    """
    column = transactions.c
    query = sa.select(transactions).where(column.run_id == run_id)
    if key is not None:
        query = query.where(sa.or_(column.key == key, column.key.endswith(f"/{key}", autoescape=True)))
    if run_attempt is not None:
        query = query.where(column.run_attempt == run_attempt)
    found = database.read(lambda c: [_transaction(row) for row in c.execute(query)])
    latest = max((row.run_attempt for row in found), default=0)
    fitting = [row for row in found if row.run_attempt == latest]
    if len(fitting) != 1:
        raise TransactionNotFound(run_id, key, sorted(row.key for row in fitting))
    return fitting[0]


def unsettled_keys(database: Database, run_id: str, run_attempt: int) -> dict[str, str]:
    """The transactions of a run attempt that are open, or owe hooks: their states by key, in the order of opening."""
    wanted = {Durable.ACTIVE, *UNSETTLED}
    return {row.key: row.state for row in load(database, run_id, run_attempt) if row.state in wanted}


def failed_hooks(
    database: Database,
    run_id: str,
    run_attempt: int,
    kind: HookKind = HookKind.ROLLBACK,
    keys: Collection[str] | None = None,
) -> list[HookRow]:
    """The hooks of a run attempt, or of these transactions, that failed in all their tries."""
    return database.read(lambda c: _hooks(c, run_id, run_attempt, keys, kinds=(kind,), states=(HookState.FAILED,)))


# -- by hand -----------------------------------------------------------------------------------------------------


def retry(database: Database, run_id: str, key: str, run_attempt: int) -> list[Announcement]:
    """Have the failed rollback hooks of a transaction, and of those around and inside it, run again on a worker.

    They are owed as state hooks are: a worker that has the flow's code takes them, or the sweeper sees to it. Safe to
    repeat.

    Returns:
        What to announce.

    Raises:
        TransactionNotFound: There is no such transaction.
        IllegalTransition: Its rollback has not failed, or its run has not ended.
    """

    def work(connection: Connection) -> list[Announcement]:
        run = connection.execute(sa.select(flow_runs).where(flow_runs.c.id == run_id).with_for_update()).first()
        of_run = _of_attempt(transactions, run_id, run_attempt)
        row = connection.execute(sa.select(transactions).where(of_run, transactions.c.key == key)).first()
        if row is None or run is None:
            raise TransactionNotFound(run_id, key, [])
        if row.state == Durable.ROLLING_BACK and run.phase == Phase.DONE:
            return _owe_rollback(connection, run, row)
        if row.state != Durable.ROLLBACK_FAILED:
            raise IllegalTransition(run_id, f"with transaction {key!r} {row.state}", "rolled back again")
        if run.phase != Phase.DONE:
            raise IllegalTransition(run_id, run.state_type, "rolled back again before it has ended")
        failed = Durable.ROLLBACK_FAILED.value
        again = {"state": Durable.ROLLING_BACK.value, "end_time": None}
        connection.execute(sa.update(transactions).where(of_run, transactions.c.state == failed).values(**again))
        hook = transaction_hooks.c
        fresh = {"state": HookState.PENDING.value, "attempt": 1, "starts": 0, "due_at": None, "end_time": None}
        connection.execute(
            sa.update(transaction_hooks)
            .where(
                _of_attempt(transaction_hooks, run_id, run_attempt),
                hook.kind == HookKind.ROLLBACK.value,
                hook.state == HookState.FAILED.value,
            )
            .values(**fresh)
        )
        return _owe_rollback(connection, run, row)

    return database.write(work)


def _owe_rollback(connection: Connection, run: Any, row: Any) -> list[Announcement]:
    debt = Debt(
        run.id,
        row.run_attempt,
        row.key,
        run.flow_name,
        run.queue,
        run.priority,
        StateType.FAILED.value,
        ROLLBACK_FAILED,
        row.message,
    )
    return owe(connection, [debt])


def mend_run(database: Database, run_id: str, run_attempt: int) -> None:
    """Show a run whose failed rollback hooks have succeeded by now as rolled back. Safe to repeat."""
    values = {
        "state_name": ROLLED_BACK,
        "state_message": "all hooks of its rollback have succeeded, after a retry by hand",
    }
    this = (
        flow_runs.c.id == run_id,
        flow_runs.c.run_attempt == run_attempt,
        flow_runs.c.phase == Phase.DONE.value,
        flow_runs.c.state_name == ROLLBACK_FAILED,
    )

    def work(connection: Connection) -> None:
        if connection.execute(sa.update(flow_runs).where(*this).values(**values)).rowcount:
            history.record(connection, run_id, StateType.FAILED, values["state_name"], values["state_message"])

    database.write(work)


# -- the steps of transactions -----------------------------------------------------------------------------------


def stands() -> sa.ColumnElement[bool]:
    """The condition that a finished step is not done again by a retry of its run.

    Those of a block count where that block was committed, in the run attempt in which they were recorded.
    """
    column = transactions.c
    committed = sa.exists().where(
        column.run_id == steps.c.run_id,
        column.run_attempt == steps.c.recorded_attempt,
        column.key == steps.c.transaction_key,
        column.state.in_([Durable.COMMITTING.value, Durable.COMMITTED.value]),
    )
    return sa.and_(steps.c.kind != "transaction", sa.or_(steps.c.transaction_key.is_(None), committed))


def _of_attempt(table: sa.Table, run_id: str, run_attempt: int) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.run_id == run_id, table.c.run_attempt == run_attempt)


def _this(hook: HookRow) -> sa.ColumnElement[bool]:
    ours = _of_attempt(transaction_hooks, hook.run_id, hook.run_attempt)
    return sa.and_(ours, transaction_hooks.c.key == hook.key)


def _has_pending(connection: Connection, claim: Claim, keys: Collection[str], kind: HookKind) -> bool:
    found = _hooks(connection, claim.run_id, claim.run_attempt, keys, kinds=(kind,), states=(HookState.PENDING,))
    return bool(found)


def _hooks(
    connection: Connection,
    run_id: str,
    run_attempt: int,
    keys: Collection[str] | None,
    *,
    kinds: Sequence[HookKind] = (),
    states: Sequence[HookState] = (),
) -> list[HookRow]:
    column = transaction_hooks.c
    query = sa.select(transaction_hooks).where(_of_attempt(transaction_hooks, run_id, run_attempt))
    if keys is not None:
        query = query.where(column.transaction_key.in_(sorted(keys)))
    if kinds:
        query = query.where(column.kind.in_([kind.value for kind in kinds]))
    if states:
        query = query.where(column.state.in_([state.value for state in states]))
    ordered = query.order_by(column.created_at, column.sequence, column.number, column.key)
    return [HookRow(*row) for row in connection.execute(ordered)]


def _transaction(row: Any) -> TransactionRow:
    return TransactionRow(*row)


def _open_for(dialect: str) -> Any:
    names = ("run_id", "run_attempt", "key", "parent_key", "name", "state", "created_at")
    values = {name: sa.bindparam(name, type_=transactions.c[name].type) for name in names}
    return insert_for(dialect, transactions).values(values).on_conflict_do_nothing()


_OPEN = Prepared(_open_for)
