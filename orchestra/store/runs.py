"""Flow runs: creating them, starting child runs, ending them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from orchestra import clock, identifiers, settings
from orchestra.errors import ClaimLost, FlowRunNotFound, IdempotencyConflict
from orchestra.failpoints import failpoint
from orchestra.serializers import decode
from orchestra.states import StateType
from orchestra.store import blobs, history, pass_ons, transactions
from orchestra.store.announcements import RUN_COLUMNS, Announcement, of_run
from orchestra.store.claims import FENCE_STATEMENTS, Claim, Claimed, fence, is_released
from orchestra.store.database import Database, insert, insert_for, instant, now
from orchestra.store.journal import Ending, NewStep, keep_large, write
from orchestra.store.owed import Debt, owe
from orchestra.store.pass_ons import PassOn
from orchestra.store.prepared import Prepared, prepare
from orchestra.store.reruns import Rerun
from orchestra.store.settle import ENDING, complete_open, ending_names
from orchestra.store.tables import Phase, flow_runs, flows, phase_is_not, steps
from orchestra.store.waits import Park, Parking, park
from orchestra.store.wake import RUN, note


@dataclass(slots=True)
class NewRun:
    """A flow run to be."""

    flow_name: str
    path: str
    name: str
    #: Encoded parameters.
    parameters: bytes
    id: str = field(default_factory=identifiers.new_run_id)
    #: Encoded options that differ from those of what stands at `path`.
    options: bytes | None = None
    entrypoint: str | None = None
    description: str = ""
    queue: str = ""
    priority: int | None = None
    #: Seconds until it is due.
    delay: float = 0.0
    #: When it is due, seconds since the epoch; counts if given.
    due_at: float | None = None
    idempotency_key: str | None = None
    #: The key was made from the step of a flow body that starts the run.
    key_of_step: bool = False
    tags: Sequence[str] = ()
    version: str | None = None
    timeout_seconds: float | None = None
    runner: str = "celery"
    #: What is to be told how it ends, in a canvas of a user's own.
    pass_on: PassOn | None = None
    parent_run_id: str | None = None
    parent_attempt: int | None = None
    parent_step_key: str | None = None
    root_run_id: str | None = None
    depth: int = 0
    #: Whether the flow has hooks for an end; None: whoever submits it does not know.
    has_hooks: bool | None = None
    deployment_id: str | None = None
    #: Its name was chosen: the flow's template does not make another one.
    named: bool = False
    #: How it has ended before it began; it is written as a run that has.
    failed: Ending | None = None
    #: JSON: over the job variables of the deployment.
    job_variables: str | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """All that a run will do, where that is known before it starts: its whole journal, and how its body ended."""

    steps: Sequence[NewStep]
    #: As `flow_runs.outcome`.
    outcome: bytes
    #: Of a queue, how many rows of a wave are announced ahead.
    window: Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Created:
    """A run that was created, or found under its idempotency key."""

    row: Mapping[str, Any]
    created: bool
    announcements: list[Announcement]


def create(database: Database, new: NewRun, planned: Planned | None = None) -> Created:
    """Write a flow run as READY. Once this has returned, the run is not lost, whatever dies.

    With an idempotency key, a run of the same flow that has it already is returned, whatever its state.

    Args:
        new: The run.
        planned: Its steps are written too, in the same transaction, and the run waits for them, as if a segment had
            asked for them and ended.

    Raises:
        IdempotencyConflict: That run has other parameters.
    """

    def work(connection: Connection) -> Created:
        moment = instant(connection)
        _keep_flow(connection, new, moment)
        row = _run_row(new, moment) | ({} if planned is None else _planned_values(planned, moment))
        made = _CREATE.mapping(connection, _EMPTY_ROW | row)
        found = made or _same_run(connection, new)
        if new.pass_on is not None:
            pass_ons.keep(connection, found["id"], new.pass_on)
        if made is None:
            return Created(found, False, [])
        note(connection, RUN, new.id)
        if planned is not None and planned.steps:
            history.record(connection, new.id, made["state_type"], made["state_name"])
            first = Claim("flow", new.id, 1, None, "", made["claim_number"], 0.0, 0.0)
            return Created(made, True, write(connection, first, planned.steps, window=planned.window, moment=moment))
        due = made["due_at"] <= moment
        announcement = _first(new, made["due_at"])
        return Created(made, True, [announcement] if due else [])

    failpoint("before_submit_commit")
    created = database.write(work, durable=True)
    failpoint("after_submit_commit")
    return created


def deployment_of(database: Database, run_id: str) -> str | None:
    """The id of the deployment whose run it is; None where it is none's, or is gone."""
    query = sa.select(flow_runs.c.deployment_id).where(flow_runs.c.id == run_id)
    return database.read(lambda connection: connection.scalar(query))


def parameters_of(database: Database, run_id: str) -> dict[str, Any]:
    """The parameters of a run, decoded."""
    found: dict[str, Any] = decode(read(database, run_id)["parameters"])
    return found


def add(connection: Connection, new: NewRun, moment: float) -> Announcement | None:
    """Write a run that is due as READY, within a transaction; None where its idempotency key was used before."""
    _keep_flow(connection, new, moment)
    row = _run_row(new, moment) | ({} if new.failed is None else _failed_values(new.failed, moment))
    made = _CREATE.mapping(connection, _EMPTY_ROW | row)
    note(connection, RUN, new.id)
    if made is None or new.failed is not None:
        return None
    return _first(new, made["due_at"])


def _first(new: NewRun, due_at: float) -> Announcement:
    """The first announcement of a run."""
    return Announcement("flow", new.id, 1, None, new.flow_name, new.queue, new.priority, due_at, version=new.version)


def start_child(
    database: Database,
    parent: Claim,
    step: NewStep,
    child: NewRun,
    new: Sequence[NewStep],
    *,
    window: Callable[[str], int],
    owner: str | None,
) -> tuple[Claimed | None, list[Announcement]]:
    """Write a child run and its parent's step, in one transaction; claimed at once where `owner` is given, else READY.

    A crash after it leaves two runs that are each taken up alone: the parent finds its step open, and waits.

    Raises:
        ClaimLost: The parent's claim was taken over; nothing was written.
    """

    def work(connection: Connection) -> tuple[RowMapping | None, list[Announcement]]:
        moment = fence(connection, parent, going_on=True, streak_at=None, streak_parks=0)
        announcements = write(connection, parent, [*new, step], window=window, moment=moment)
        _keep_flow(connection, child, moment)
        row = _run_row(child, moment)
        if owner is not None:
            row |= _claimed_values(owner, moment, child.timeout_seconds)
        connection.execute(insert(connection, flow_runs).values(row).on_conflict_do_nothing())
        note(connection, RUN, child.id)
        query = sa.select(flow_runs).where(flow_runs.c.id == child.id)
        made = connection.execute(query).mappings().one()
        if owner is None:
            found = connection.execute(sa.select(*RUN_COLUMNS).where(flow_runs.c.id == child.id)).one()
            return None, [*announcements, of_run(found)]
        return made, announcements

    keep_large(database, new)
    asked_at = clock.monotonic()
    failpoint("before_dispatch")
    made, announcements = database.write(work)
    failpoint("after_dispatch")
    if made is None or made["owner"] != owner:
        return None, announcements
    claim = Claim("flow", child.id, 1, None, made["owner"], made["claim_number"], made["lease_seconds"], asked_at)
    return Claimed(claim, dict(made)), announcements


def finish(
    database: Database,
    claim: Claim,
    ending: Ending,
    new: Sequence[NewStep],
    *,
    window: Callable[[str], int],
    debt: Debt | None = None,
) -> list[Announcement]:
    """Write a flow run's final state, and end the step of its parent, in one transaction.

    All its submitted work must have ended. A lost answer is recognised. A cancel that was acknowledged before stands.

    Args:
        debt: The hooks that this end calls for.

    Returns:
        What to announce: the parent, where it waits for this, and what its outcome is owed to.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
        CancelRequested: The run is being cancelled, which its segment did not know; nothing was written.
    """

    def work(connection: Connection) -> list[Announcement]:
        statement = _FINISH if claim.cancelled else _FINISH_UNLESS_CANCELLED
        parent = statement.first(connection, ending_names(connection, claim, ending))
        if parent is None:
            if is_released(connection, claim, Phase.DONE):
                return []
            # Raises for a lost claim; else the run is being cancelled, and its end is another one.
            fence(connection, claim, going_on=True)
            raise ClaimLost(f"the claim {claim.number} on flow run {claim.run_id} was taken over")
        history.record(connection, claim.run_id, ending.state_type, ending.state_name, ending.message)
        announcements = write(connection, claim, new, window=window, moment=parent.moment)
        if parent.passes_on:
            announcements += pass_ons.due(connection, claim.run_id)
        if debt is not None:
            announcements += owe(connection, [debt])
        return announcements + _end_parent_step(connection, parent, ending)

    keep_large(database, [ending, *new])
    failpoint("before_finish")
    announcements = database.write(work)
    failpoint("after_finish")
    return announcements


def rename(database: Database, claim: Claim, name: str) -> None:
    """Give a claimed run the name that its flow makes of its parameters. A crash before makes it anew.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """
    database.write(lambda connection: fence(connection, claim, name=name, named=True))


def hooks_ran(database: Database, claim: Claim) -> None:
    """Note that the on_running hooks of a claimed run have run in this run attempt. A crash before runs them again.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """

    def work(connection: Connection) -> None:
        fence(connection, claim, hooks_attempt=claim.run_attempt)

    failpoint("before_hooks_ran")
    database.write(work)


def body_ended(
    database: Database, claim: Claim, outcome: bytes, new: Sequence[NewStep], *, window: Callable[[str], int]
) -> Parking:
    """Keep how a body ended, so that it is not run again, and wait for the rest of its submitted work."""

    return park(database, claim, Park(None), new, window=window, outcome=outcome)


def end_step(database: Database, claim: Claim, key: str, *, result: bytes) -> list[Announcement]:
    """End a step of a claimed run that nobody else works on (a timer), well; what to announce.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """

    def work(connection: Connection) -> list[Announcement]:
        fence(connection, claim)
        ending = Ending(StateType.COMPLETED, "Completed", result=result)
        return complete_open(connection, claim.run_id, claim.run_attempt, [key], ending)

    return database.write(work)


def reopen(
    database: Database,
    claim: Claim,
    *,
    delay: float,
    message: str | None,
    new: Sequence[NewStep] = (),
    window: Callable[[str], int],
) -> Announcement | None:
    """Open the next run attempt of a claimed run whose submitted work has ended, due after `delay` seconds.

    Failed steps stay with the old attempt and become history; completed ones are moved on.
    """

    def work(connection: Connection) -> Announcement | None:
        try:
            moment = fence(connection, claim, going_on=True)
        except ClaimLost:
            if _is_reopened(connection, claim):
                return None
            raise
        write(connection, claim, new, window=window, moment=moment)
        return next_attempt(connection, claim.run_id, claim.run_attempt, delay, message)

    keep_large(database, new)
    failpoint("before_reopen")
    announcement = database.write(work)
    failpoint("after_reopen")
    return announcement


def _is_reopened(connection: Connection, claim: Claim) -> bool:
    query = sa.select(flow_runs.c.run_attempt).where(flow_runs.c.id == claim.run_id, flow_runs.c.owner == claim.owner)
    return (connection.scalar(query) or 0) > claim.run_attempt


def next_attempt(
    connection: Connection,
    run_id: str,
    run_attempt: int,
    delay: float,
    message: str | None,
    rerun: Rerun | None = None,
) -> Announcement:
    """Move a run's completed steps to its next run attempt and make it READY; the transaction holds its row.

    A run that was paused from outside stays so.

    Args:
        rerun: Only what comes before this is moved; None: all.
    """
    held, column = flow_runs.c.held.is_not(None), flow_runs.c
    chosen: dict[str, Any] = {}
    if rerun is not None:
        chosen = {"retried_from": rerun.step_key, "retried_from_attempt": run_attempt + 1}
    connection.execute(
        sa.update(steps)
        .where(
            steps.c.run_id == run_id,
            steps.c.run_attempt == run_attempt,
            steps.c.state_type == StateType.COMPLETED.value,
            transactions.stands(),
            sa.true() if rerun is None else rerun.kept,
        )
        .values(run_attempt=run_attempt + 1)
    )
    statement = (
        sa.update(flow_runs)
        .where(flow_runs.c.id == run_id)
        .values(
            run_attempt=run_attempt + 1,
            phase=Phase.READY,
            due_at=now() + delay,
            announce_at=now() + (delay or settings.current().lease_seconds),
            announced_at=None,
            state_type=sa.case((held, column.state_type), else_=StateType.SCHEDULED.value),
            state_name=sa.case((held, column.state_name), else_="AwaitingRetry"),
            state_message=sa.case((held, column.state_message), else_=message),
            outcome=None,
            result=None,
            result_blob=None,
            end_time=None,
            deadline_at=None,
            lapses=0,
            streak_at=None,
            streak_parks=0,
            **chosen,
        )
        .returning(*RUN_COLUMNS, column.held)
    )
    row = connection.execute(statement).one()
    if row.held is None:
        history.record(connection, run_id, StateType.SCHEDULED, "AwaitingRetry", message)
    return replace(of_run(row), delay=delay)


def read(database: Database, run_id: str) -> Mapping[str, Any]:
    """A flow run's row.

    Raises:
        FlowRunNotFound: There is none with this id.
    """
    row = database.read(lambda connection: _READ.mapping(connection, {"b_run": run_id}))
    if row is None:
        raise FlowRunNotFound(run_id)
    return row


def result_of(database: Database, row: Mapping[str, Any]) -> bytes | None:
    """The encoded result of a flow run, also a large one."""
    if row["result_blob"] is None:
        result: bytes | None = row["result"]
        return result
    return blobs.fetch(database, row["result_blob"])


def unfinished(database: Database, run_id: str, run_attempt: int) -> bool:
    """Whether a run attempt has steps that have not ended."""
    query = sa.select(steps.c.step_key).where(
        steps.c.run_id == run_id, steps.c.run_attempt == run_attempt, phase_is_not(steps, Phase.DONE)
    )
    return database.read(lambda connection: connection.execute(query.limit(1)).first()) is not None


def _end_parent_step(connection: Connection, parent: Any, ending: Ending) -> list[Announcement]:
    """End the step that started a child run; `parent` is the child's row of `_FINISH`."""
    if parent.parent_step_key is None:
        return []
    return complete_open(connection, parent.parent_run_id, parent.parent_attempt, [parent.parent_step_key], ending)


def _same_run(connection: Connection, new: NewRun) -> Mapping[str, Any]:
    column = flow_runs.c
    same = column.id == new.id
    if new.idempotency_key is not None:
        same = sa.or_(same, sa.and_(column.flow_name == new.flow_name, column.idempotency_key == new.idempotency_key))
    row = connection.execute(sa.select(flow_runs).where(same)).mappings().one()
    # A key made from the step that asks is never used for anything else, however its parameters are encoded.
    if row["parameters"] != new.parameters and not new.key_of_step:
        raise IdempotencyConflict(
            f"idempotency key {new.idempotency_key!r} of flow {new.flow_name!r} was used for run {row['id']} with "
            "other parameters; use another key, or the same parameters"
        )
    return dict(row)


#: Flows whose row this process has seen, by the database's address: a run need not write it again.
_known_flows: set[tuple[str, str, str]] = set()


def _keep_flow(connection: Connection, new: NewRun, moment: float) -> None:
    key = (str(connection.engine.url), new.flow_name, new.path)
    if key in _known_flows:
        return
    statement = insert(connection, flows).values(
        id=identifiers.new_run_id(),
        name=new.flow_name,
        path=new.path,
        description=new.description,
        created_at=moment,
        updated_at=moment,
    )
    changed = {"path": new.path, "description": new.description, "updated_at": moment}
    connection.execute(statement.on_conflict_do_update(index_elements=[flows.c.name], set_=changed))
    # A rolled-back transaction leaves the name here without a row; the next process's first run mends that.
    _known_flows.add(key)


def _run_row(new: NewRun, moment: float) -> dict[str, Any]:
    due_at = new.due_at if new.due_at is not None else moment + new.delay
    scheduled = due_at > moment
    return {
        "id": new.id,
        "name": new.name,
        "flow_name": new.flow_name,
        "path": new.path,
        "options": new.options,
        "entrypoint": new.entrypoint,
        "version": new.version,
        "parameters": new.parameters,
        "tags": json.dumps(sorted(new.tags)),
        "idempotency_key": new.idempotency_key,
        "runner": new.runner,
        "passes_on": new.pass_on is not None,
        "parent_run_id": new.parent_run_id,
        "parent_attempt": new.parent_attempt,
        "parent_step_key": new.parent_step_key,
        "root_run_id": new.root_run_id or new.id,
        "depth": new.depth,
        "timeout_seconds": new.timeout_seconds,
        "has_hooks": new.has_hooks,
        "deployment_id": new.deployment_id,
        "named": new.named,
        "job_variables": new.job_variables,
        "phase": Phase.READY.value,
        "due_at": due_at,
        "scheduled_at": due_at,
        "announce_at": due_at if scheduled else moment + settings.current().lease_seconds,
        "announced_at": None if scheduled else moment,
        "queue": new.queue,
        "priority": new.priority,
        "state_type": (StateType.SCHEDULED if scheduled else StateType.PENDING).value,
        "state_name": "Scheduled" if scheduled else "Pending",
        "first_state": "Scheduled" if scheduled else "Pending",
        "created_at": moment,
    }


def _failed_values(failed: Ending, moment: float) -> dict[str, Any]:
    """The columns of a run that has ended before it began."""
    return {
        "phase": Phase.DONE.value,
        "announce_at": None,
        "announced_at": None,
        "state_type": str(failed.state_type),
        "state_name": failed.state_name,
        "first_state": None,
        "state_message": failed.message,
        "result": failed.result,
        "end_time": moment,
    }


def _planned_values(planned: Planned, moment: float) -> dict[str, Any]:
    """The columns of a run that waits for all of its steps; of one without any, which is READY to end."""
    if not planned.steps:
        return {"outcome": planned.outcome}
    return {
        "outcome": planned.outcome,
        "phase": Phase.WAITING.value,
        "announce_at": None,
        "announced_at": None,
        # As if a first segment had planned them: its wait, which completions count down.
        "claim_number": 1,
        "wait_claim": 1,
        "wait_open": len(planned.steps),
        "streak_at": moment,
        "streak_parks": 1,
        "start_time": moment,
        "state_type": StateType.RUNNING.value,
        "state_name": "Waiting",
        "first_state": None,
    }


def _claimed_values(owner: str, moment: float, timeout_seconds: float | None) -> dict[str, Any]:
    lease = settings.current().lease_seconds
    return {
        "phase": Phase.CLAIMED.value,
        "owner": owner,
        "claim_number": 1,
        "lease_seconds": lease,
        "lease_until": moment + lease,
        "announce_at": moment + lease,
        "start_time": moment,
        "deadline_at": moment + timeout_seconds if timeout_seconds is not None else None,
        "state_type": StateType.RUNNING.value,
        "state_name": "Running",
        "first_state": None,
    }


# Made once: building a statement costs more than running it.

_finish = (
    FENCE_STATEMENTS["flow"]
    .values(**ENDING, held=None)
    .returning(
        flow_runs.c.parent_run_id, flow_runs.c.parent_attempt, flow_runs.c.parent_step_key, flow_runs.c.passes_on
    )
)
_FINISH = prepare(_finish)
_FINISH_UNLESS_CANCELLED = prepare(_finish.where(flow_runs.c.state_type != StateType.CANCELLING.value))
_READ = prepare(sa.select(flow_runs).where(flow_runs.c.id == sa.bindparam("b_run")))
#: A new run's row where nothing else is said.
_EMPTY_ROW: dict[str, Any] = {column.name: None for column in flow_runs.c} | {
    "run_attempt": 1, "claim_number": 0, "lapses": 0, "streak_parks": 0, "depth": 0, "tags": "[]",
    "passes_on": False, "named": False,
}  # fmt: skip


def _create_for(dialect: str) -> Any:
    values = {column.name: sa.bindparam(column.name, type_=column.type) for column in flow_runs.c}
    return insert_for(dialect, flow_runs).values(values).on_conflict_do_nothing().returning(*flow_runs.c)


_CREATE = Prepared(_create_for)
