"""Rows of flow runs that are carried out in the process that called them (runner "local").

Their claim is made with the row and renewed while the body runs; another orchestra process marks lapsed ones Crashed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock, identifiers, settings
from orchestra.errors import DbTransactionError, FlowRunNotFound, IllegalTransition
from orchestra.failpoints import failpoint
from orchestra.serializers import clean_text
from orchestra.states import State, StateType
from orchestra.store import blobs, events, history
from orchestra.store.claims import Claim
from orchestra.store.database import Database, insert, now
from orchestra.store.joint import Joint
from orchestra.store.tables import Kind, Phase, flow_runs, flows, phase_is, phase_is_not, states, steps, transactions
from orchestra.store.wake import RUN, STEP, note
from orchestra.transaction_rules import UNSETTLED, Durable


@dataclass(frozen=True, slots=True)
class NewLocalRun:
    """A flow run that begins here. Times are in seconds."""

    id: str
    name: str
    flow_name: str
    path: str
    owner: str
    lease_seconds: float
    entrypoint: str | None = None
    description: str = ""
    version: str | None = None
    parameters: bytes | None = None
    tags: tuple[str, ...] = ()
    parent_run_id: str | None = None
    parent_attempt: int | None = None
    parent_step_key: str | None = None
    root_run_id: str | None = None
    depth: int = 0
    timeout_seconds: float | None = None
    #: Encoded options that differ from those of what stands at `path`.
    options: bytes | None = None


def start_run(db: Database, run: NewLocalRun, state: State[Any]) -> None:
    """Write the row of a run that starts now, claimed by this process, and its flow's. Safe to repeat.

    A crash just after it leaves a run whose lease lapses: Crashed.
    """

    def write(connection: Connection) -> None:
        connection.execute(insert(connection, flows).values(_flow_row(run)).on_conflict_do_nothing())
        row = _run_row(run, state)
        inserted = connection.execute(insert(connection, flow_runs).values(row).on_conflict_do_nothing())
        if inserted.rowcount:
            _keep_state(connection, run.id, state)

    db.write(write)


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that has ended, and is to be carried out again by this process."""

    id: str
    name: str
    #: The run attempt, and the claim number, that it ended with.
    run_attempt: int
    claim_number: int


def claim_again(db: Database, run: Ended, owner: str, lease_seconds: float) -> None:
    """Open the next run attempt of a run that has ended, claimed by this process. Safe to repeat.

    Of several who ask at once, one gets it. A crash before it leaves the run ended, one after it a run whose lease
    lapses: Crashed, and it can be asked for again.

    Args:
        owner: Whose claim it is.
        lease_seconds: For how long it holds unless it is renewed.

    Raises:
        FlowRunNotFound: It was deleted meanwhile.
        IllegalTransition: It has not ended, or somebody else has had it run again meanwhile.
    """
    event_id = events.new_id()

    def write(connection: Connection) -> None:
        row = connection.execute(sa.select(flow_runs).where(flow_runs.c.id == run.id).with_for_update()).first()
        if row is None:
            raise FlowRunNotFound(run.id)
        if row.owner == owner:  # an earlier try, whose commit was not answered
            return
        if row.phase != Phase.DONE or row.claim_number != run.claim_number or row.run_attempt != run.run_attempt:
            raise IllegalTransition(run.id, f"{row.state_name}, and local", "retried: somebody else has just done so")
        connection.execute(_of_run(run.id).values(_claimed_again(run, owner, lease_seconds)))
        asked = events.act("flow-run", "retry-requested", run.id, run.name, id=event_id, run_id=run.id)
        events.record(connection, asked)
        history.record(connection, run.id, StateType.SCHEDULED, "AwaitingRetry", "retried by hand")
        history.record(connection, run.id, StateType.RUNNING, "Retrying")

    failpoint("before_local_retry")
    db.write(write)
    failpoint("after_local_retry")


def _claimed_again(run: Ended, owner: str, lease_seconds: float) -> dict[str, Any]:
    return {
        "phase": Phase.CLAIMED,
        "run_attempt": run.run_attempt + 1,
        "claim_number": run.claim_number + 1,
        "owner": owner,
        "lease_seconds": lease_seconds,
        "lease_until": now() + lease_seconds,
        "state_type": StateType.RUNNING.value,
        "state_name": "Retrying",
        "state_message": None,
        "result": None,
        "result_blob": None,
        "end_time": None,
    }


@dataclass(frozen=True, slots=True)
class KeptStep:
    """A step that ended well in an earlier run attempt, and whose result was kept."""

    run_attempt: int
    #: Of its inputs.
    fingerprint: str
    #: The run that it started, where it is a subflow.
    child_run_id: str | None


def kept_steps(db: Database, run_id: str) -> dict[str, KeptStep]:
    """The steps of a run whose results can be used again, the newest of each key. Results are not read."""
    column = steps.c
    query = (
        sa.select(column.step_key, column.run_attempt, column.inputs_fingerprint, column.child_run_id)
        .where(column.run_id == run_id, column.inputs_fingerprint.is_not(None))
        .where(column.state_type == StateType.COMPLETED, column.inline)
        .order_by(column.run_attempt)
    )
    found = db.read(lambda connection: connection.execute(query).all())
    return {row.step_key: KeptStep(row.run_attempt, row.inputs_fingerprint, row.child_run_id) for row in found}


def set_state(db: Database, run_id: str, owner: str, state: State[Any], *, run_attempt: int) -> None:
    """Write a state that is not final: between two run attempts, or while the run is paused.

    A run that is being cancelled keeps that state, and so does one that is no longer `owner`'s.
    """

    db.write(lambda connection: _write_state(connection, run_id, owner, state, run_attempt))


def _write_state(connection: Connection, run_id: str, owner: str, state: State[Any], run_attempt: int) -> None:
    ours = (flow_runs.c.owner == owner, flow_runs.c.phase == Phase.CLAIMED)
    going_on = _of_run(run_id).where(*ours, flow_runs.c.state_type != StateType.CANCELLING)
    if connection.execute(going_on.values(**_state_values(state), run_attempt=run_attempt)).rowcount:
        _keep_state(connection, run_id, state)


def _keep_state(connection: Connection, run_id: str, state: State[Any]) -> None:
    connection.execute(states.insert().values(_state_row(run_id, state)))
    note(connection, RUN, run_id)


def finish_run(
    db: Database,
    run_id: str,
    owner: str,
    state: State[Any],
    *,
    result: bytes | None = None,
    blob: str | None = None,
    has_remote_steps: bool = False,
) -> bool:
    """Write the final state and give up the claim; false where another process has ended or claimed the run.

    Args:
        blob: Where the result is kept apart: the name of its blob.
        has_remote_steps: Workers may be carrying out steps of it; what they have not begun ends with it.
    """

    def write(connection: Connection) -> bool:
        ended = _of_run(run_id).where(flow_runs.c.owner == owner, flow_runs.c.phase == Phase.CLAIMED)
        values = {**_state_values(state), "phase": Phase.DONE, "lease_until": None, "end_time": clock.now()}
        data, name = blobs.place(connection, result, blob)
        if not connection.execute(ended.values(**values, result=data, result_blob=name)).rowcount:
            return _has_ended(connection, run_id, owner, state)
        _keep_state(connection, run_id, state)
        if has_remote_steps:
            _end_idle(connection, run_id)
        return True

    return db.write(write)


def end_step(joint: Joint, owner: str, row: dict[str, Any], data: bytes | None, blob: str | None) -> None:
    """Write the row of a step that has ended, and commit it with what its body has written.

    Args:
        data: Its encoded result.
        blob: The blob that this was put into ahead.

    Raises:
        DbTransactionError: The run is no longer this process's; nothing was written.
    """
    run_id, held = row["run_id"], (flow_runs.c.owner == owner, flow_runs.c.phase == Phase.CLAIMED)

    def work(connection: Connection) -> None:
        lease = now() + flow_runs.c.lease_seconds
        if not connection.execute(_of_run(run_id).where(*held).values(lease_until=lease)).rowcount:
            raise DbTransactionError(
                f"flow run {run_id} was ended by another process, which took this one for dead; nothing was committed"
            )
        result, name = blobs.place(connection, data, blob)
        values = row | {"result": result, "result_blob": name}
        connection.execute(insert(connection, steps).values(values).on_conflict_do_nothing())
        note(connection, STEP, row["run_id"])

    def is_there(connection: Connection) -> bool:
        # Behind a COMMIT that is still under way.
        connection.execute(sa.select(flow_runs.c.id).where(flow_runs.c.id == run_id).with_for_update())
        return connection.execute(sa.select(steps.c.id).where(steps.c.id == row["id"])).first() is not None

    joint.write(work, is_there)


def write_step(db: Database, row: dict[str, Any], data: bytes | None, blob: str | None) -> None:
    """Write the row of a step that has ended, with a result that is kept in `blob`. Safe to repeat."""

    def write(connection: Connection) -> None:
        result, name = blobs.place(connection, data, blob)
        values = row | {"result": result, "result_blob": name}
        connection.execute(insert(connection, steps).values(values).on_conflict_do_nothing())
        note(connection, STEP, row["run_id"])

    db.write(write)


def renew_leases(db: Database, owners: Sequence[str], lease_seconds: float) -> list[str]:
    """Hold the claims of these owners for another `lease_seconds`; gives those whose runs are being cancelled."""
    held = flow_runs.c.owner.in_(owners) & (flow_runs.c.phase == Phase.CLAIMED)

    def write(connection: Connection) -> list[str]:
        connection.execute(flow_runs.update().where(held).values(lease_until=now() + lease_seconds))
        cancelling = held & (flow_runs.c.state_type == StateType.CANCELLING)
        return list(connection.scalars(sa.select(flow_runs.c.owner).where(cancelling)))

    return db.write(write)


@dataclass(frozen=True, slots=True)
class Dead:
    """A local run whose process died inside of a transaction."""

    id: str
    run_attempt: int
    owner: str
    claim_number: int


def dead_in_transactions(db: Database, is_dead: Callable[[str], bool]) -> list[Dead]:
    """Local runs whose processes are dead, as `mark_dead` finds them, and that have transactions to be rolled back."""
    long_over = flow_runs.c.lease_until < now() - flow_runs.c.lease_seconds
    names = (flow_runs.c.id, flow_runs.c.run_attempt, flow_runs.c.owner, flow_runs.c.claim_number)
    query = sa.select(*names, long_over.label("long_over")).where(_lapsed(), in_transactions())
    found = db.read(lambda connection: connection.execute(query).all())
    return [Dead(*row[:4]) for row in found if row.long_over or is_dead(row.owner)]


def in_transactions() -> sa.ColumnElement[bool]:
    """The condition that a run has transactions that are open, or owe hooks."""
    column = transactions.c
    wanted = [Durable.ACTIVE.value, *(state.value for state in UNSETTLED)]
    same = (column.run_id == flow_runs.c.id, column.run_attempt == flow_runs.c.run_attempt)
    return sa.exists().where(*same, column.state.in_(wanted))


def take_over(db: Database, run: Dead) -> Claim | None:
    """Claim the run of a dead process, to undo what it did; None where another process has. Safe to repeat.

    A crash after it leaves a claim that lapses.
    """
    owner, lease = identifiers.owner(), settings.current().lease_seconds
    number = run.claim_number + 1
    asked_at = clock.monotonic()

    def write(connection: Connection) -> bool:
        taken = (
            _of_run(run.id)
            .where(_lapsed(), flow_runs.c.owner == run.owner)
            .values(owner=owner, claim_number=number, lease_seconds=lease, lease_until=now() + lease)
        )
        if connection.execute(taken).rowcount:
            return True
        ours = sa.select(flow_runs.c.id).where(flow_runs.c.id == run.id, flow_runs.c.owner == owner)
        return connection.execute(ours).first() is not None

    if not db.write(write):
        return None
    return Claim("flow", run.id, run.run_attempt, None, owner, number, lease, asked_at)


def _lapsed() -> sa.ColumnElement[bool]:
    held = (flow_runs.c.runner == "local") & phase_is(flow_runs, Phase.CLAIMED)
    return held & (flow_runs.c.lease_until < now())


def mark_dead(db: Database, is_dead: Callable[[str], bool]) -> int:
    """Mark local runs whose processes are dead as Crashed; returns how many. Safe to repeat.

    Of those whose lease has lapsed these are: `is_dead` says so of the owner's name, or it lapsed a whole lease ago;
    a machine that slept gives its processes that long. Not those that died inside of a transaction.
    """
    held = _lapsed() & ~in_transactions()
    long_over = flow_runs.c.lease_until < now() - flow_runs.c.lease_seconds
    query = sa.select(flow_runs.c.id, flow_runs.c.owner, long_over.label("long_over")).where(held)
    found = db.read(lambda connection: connection.execute(query).all())
    dead = [row for row in found if row.long_over or is_dead(row.owner)]

    def write(connection: Connection) -> int:
        return sum(
            end_dead(connection, held & (flow_runs.c.id == row.id), flow_runs.c.owner == row.owner) for row in dead
        )

    return db.write(write) if dead else 0


def end_dead(connection: Connection, *conditions: sa.ColumnElement[bool]) -> int:
    """Mark runs as those of a dead process, and end what of them waits for workers; returns how many runs."""
    marked = sa.update(flow_runs).where(*conditions).values(**DEAD).returning(flow_runs.c.id)
    ended = list(connection.scalars(marked))
    for run_id in ended:
        history.record(connection, run_id, DEAD["state_type"], DEAD["state_name"], DEAD["state_message"])
        _end_idle(connection, run_id)
    return len(ended)


def end_idle_steps(db: Database, run_id: str, run_attempt: int) -> None:
    """End the steps of a run attempt that no worker has begun, and tell those who have. Safe to repeat."""
    db.write(lambda connection: _end_idle(connection, run_id, steps.c.run_attempt == run_attempt))


def _end_idle(connection: Connection, run_id: str, *conditions: sa.ColumnElement[bool]) -> None:
    """All at once: none of them is to be let go by the end of another."""
    ours = (steps.c.run_id == run_id, *conditions)
    # In the order of asking, as everybody takes them.
    locked = sa.select(steps.c.step_key).where(*ours, phase_is_not(steps, Phase.DONE)).order_by(steps.c.sequence)
    connection.execute(locked.with_for_update()).all()
    ended = {
        "phase": Phase.DONE,
        "state_type": StateType.CANCELLED.value,
        "state_name": "Cancelled",
        "state_message": "its flow run ended before it began",
        "end_time": now(),
    }
    idle = sa.update(steps).where(*ours, phase_is(steps, Phase.READY, Phase.WAITING))
    connection.execute(idle.values(**ended))
    note(connection, STEP, run_id)
    told = {"state_type": StateType.CANCELLING.value, "state_name": "Cancelling"}
    running = [*ours, phase_is(steps, Phase.CLAIMED)]
    connection.execute(sa.update(steps).where(*running).values(**told))
    history.record_steps(connection, run_id, *running, steps.c.kind == Kind.TASK.value, once=True)


#: The columns of a run whose process died.
DEAD: dict[str, Any] = {
    "phase": Phase.DONE,
    "state_type": StateType.CRASHED.value,
    "state_name": "Crashed",
    "state_message": "its process died",
    "end_time": now(),
}


def open_pause(db: Database, owner: str, row: dict[str, Any], state: State[Any]) -> None:
    """Write a pause as an open step, which `resume` completes, and show `owner`'s run so. Safe to repeat."""

    def write(connection: Connection) -> None:
        if connection.execute(insert(connection, steps).values(row).on_conflict_do_nothing()).rowcount:
            _write_state(connection, row["run_id"], owner, state, row["run_attempt"])

    db.write(write)


def end_pause(db: Database, step_id: str) -> bool:
    """End a pause that nobody has resumed in time; false where it has ended otherwise. Safe to repeat."""
    still_open = (steps.c.id == step_id) & (steps.c.phase != Phase.DONE)
    values = {"phase": Phase.DONE, "state_type": "FAILED", "state_name": "TimedOut", "end_time": clock.now()}

    def write(connection: Connection) -> bool:
        connection.execute(steps.update().where(still_open).values(values))
        return connection.scalar(sa.select(steps.c.state_name).where(steps.c.id == step_id)) == "TimedOut"

    return db.write(write)


def pause_ending(db: Database, step_id: str) -> tuple[str, bytes | None] | None:
    """The state type with which a pause has ended, and its encoded answer; None: it goes on."""
    query = sa.select(steps.c.state_type, steps.c.result).where(steps.c.id == step_id, steps.c.phase == Phase.DONE)
    row = db.read(lambda connection: connection.execute(query).first())
    return None if row is None else (row.state_type, row.result if row.state_type == StateType.COMPLETED else None)


def _of_run(run_id: str) -> sa.Update:
    return flow_runs.update().where(flow_runs.c.id == run_id)


def _has_ended(connection: Connection, run_id: str, owner: str, state: State[Any]) -> bool:
    """Whether an earlier try of the same write was committed."""
    query = sa.select(flow_runs.c.owner, flow_runs.c.state_type, flow_runs.c.state_name).where(flow_runs.c.id == run_id)
    row = connection.execute(query).first()
    return row is not None and tuple(row) == (owner, state.type, state.name)


def _flow_row(run: NewLocalRun) -> dict[str, Any]:
    at = clock.now()
    return {
        "id": identifiers.new_run_id(),
        "name": clean_text(run.flow_name),
        "path": clean_text(run.path),
        "description": clean_text(run.description),
        "created_at": at,
        "updated_at": at,
    }


def _run_row(run: NewLocalRun, state: State[Any]) -> dict[str, Any]:
    at = state.timestamp.timestamp()
    return {
        "id": run.id,
        "name": clean_text(run.name),
        "flow_name": clean_text(run.flow_name),
        "path": clean_text(run.path),
        "entrypoint": run.entrypoint,
        "options": run.options,
        "version": run.version,
        "parameters": run.parameters,
        "tags": json.dumps([clean_text(tag) for tag in run.tags]),
        "runner": "local",
        "parent_run_id": run.parent_run_id,
        "parent_attempt": run.parent_attempt,
        "parent_step_key": run.parent_step_key,
        "root_run_id": run.root_run_id or run.id,
        "depth": run.depth,
        "timeout_seconds": run.timeout_seconds,
        "phase": Phase.CLAIMED,
        "owner": run.owner,
        "lease_seconds": run.lease_seconds,
        "lease_until": now() + run.lease_seconds,
        "claim_number": 1,
        "created_at": at,
        "start_time": at,
        **_state_values(state),
    }


def _state_values(state: State[Any]) -> dict[str, Any]:
    return {
        "state_type": state.type.value,
        "state_name": clean_text(state.name),
        "state_message": None if state.message is None else clean_text(state.message),
    }


def _state_row(run_id: str, state: State[Any], step_id: str | None = None) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "step_id": step_id,
        "type": state.type.value,
        "name": clean_text(state.name),
        "message": None if state.message is None else clean_text(state.message),
        "timestamp": state.timestamp.timestamp(),
    }
