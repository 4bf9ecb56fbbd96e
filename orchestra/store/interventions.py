"""What a person does to a run from outside: cancel, retry, pause, resume. All but cancel are one transaction.

One whose COMMIT was not answered is tried again as a whole, and finds its own work done: by what its first try saw, it
tells that from a run that was never in the right state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import serializers, settings
from orchestra.errors import FlowRunNotFound, IllegalTransition
from orchestra.failpoints import failpoint
from orchestra.questions import Question
from orchestra.states import StateType
from orchestra.store import events, history, inputs
from orchestra.store.announcements import RUN_COLUMNS, STEP_COLUMNS, Announcement, of_run, of_steps
from orchestra.store.claims import Claim, fence
from orchestra.store.database import Database, now
from orchestra.store.journal import Ending
from orchestra.store.owed import Debt, owe
from orchestra.store.reruns import rerun_from
from orchestra.store.runs import next_attempt
from orchestra.store.settle import cancelled, complete_open, ending_values
from orchestra.store.tables import Kind, Phase, flow_runs, phase_is, phase_is_not, steps
from orchestra.store.wake import STEP, note

#: Values of `flow_runs.held`: no claim is made while one stands.
PAUSED = "paused"
NONDETERMINISTIC = "nondeterministic"
#: Its deployment, work pool or work queue has no slot for it, or is paused (`run_slots`).
NO_SLOT = "slot"
#: How many steps of a cancelled run end in one transaction.
_PAGE = 1000
#: What a pause is given that asks for nothing.
NOTHING = serializers.encode(None)
#: What nobody works on; the step of a child run ends with its child.
_ENDED_BY_CANCEL = (Kind.TASK.value, Kind.SLEEP.value, Kind.PAUSE.value, Kind.INPUT.value, Kind.SLOT.value)


def cancel(database: Database, run_id: str) -> list[Announcement]:
    """Cancel a run and its children: nothing of them starts any more.

    Steps that nobody works on are CANCELLED at once; running bodies learn it by their heartbeat; each run gets a last
    segment that ends it. A run that never started is CANCELLED at once. Repeating it changes nothing.

    First all runs are marked, parents before children: a parent whose child ends Cancelled must know that it is
    cancelled itself. Then their steps are ended, in transactions of their own: a step that ends meanwhile finds no wait
    to count down, so that neither waits for the other's row. A crash between leaves the rest to the run's last segment.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It has ended already.
    """
    failpoint("before_cancel")
    event_id = events.new_id()
    announcements = database.write(lambda connection: _mark(connection, run_id, event_id))
    failpoint("in_cancel")
    return announcements + cancel_below(database, run_id)


def cancel_below(database: Database, run_id: str) -> list[Announcement]:
    """Cancel the child runs of a run that is being cancelled, and the idle steps of all. Repeating it changes nothing.

    A crash between leaves the rest to the last segments of those that are marked; each does this for its own.
    """
    announcements: list[Announcement] = []
    marked = [run_id]
    for parent in marked:
        for child in database.read(partial(_children, run_id=parent)):
            announcements += database.write(partial(_mark, run_id=child))
            marked.append(child)
    for each in marked:
        _end_steps(database, each)
    return announcements


def _end_steps(database: Database, run_id: str) -> None:
    """End the idle steps of a run that is being cancelled, and tell the running ones. Repeating it changes nothing.

    Page by page, each in a transaction of its own, from the last asked to the first: dependents before what they wait
    for, so that none is let go by an end of these. A crash between leaves the rest to the run's last segment.
    """
    while database.write(lambda connection: _end_page(connection, run_id)):
        pass


def _end_page(connection: Connection, run_id: str) -> bool:
    """End a page of idle steps, or the rest and tell the running ones; returns whether there is more.

    What these endings would let go on ends here as well, and the run waits for nothing: nothing is counted down.
    """
    query = sa.select(flow_runs.c.run_attempt, flow_runs.c.state_type).where(flow_runs.c.id == run_id)
    row = connection.execute(query).one()
    if row.state_type not in (StateType.CANCELLING, StateType.CANCELLED):
        return False
    ours = [steps.c.run_id == run_id, steps.c.run_attempt == row.run_attempt]
    idle = [steps.c.kind.in_(_ENDED_BY_CANCEL), phase_is(steps, Phase.READY, Phase.WAITING)]
    page = sa.select(steps.c.sequence).where(*ours, *idle).order_by(steps.c.sequence.desc()).offset(_PAGE).limit(1)
    rest = connection.scalar(page)
    if rest is not None:
        ours.append(steps.c.sequence > rest)
    # All of them, in the order of asking: as ends and parks take them, so that none waits in a circle.
    locked = sa.select(steps.c.step_key).where(*ours, phase_is_not(steps, Phase.DONE)).order_by(steps.c.sequence)
    connection.execute(locked.with_for_update()).all()
    connection.execute(sa.update(steps).where(*ours, *idle).values(**ending_values(connection, cancelled())))
    note(connection, STEP, run_id)
    if rest is None:
        told = {"state_type": StateType.CANCELLING.value, "state_name": "Cancelling"}
        running = [*ours, phase_is(steps, Phase.CLAIMED)]
        connection.execute(sa.update(steps).where(*running).values(**told))
        history.record_steps(connection, run_id, *running, steps.c.kind == Kind.TASK.value, once=True)
    return rest is not None


def retry(database: Database, run_id: str, *, from_step: str | None = None) -> list[Announcement]:
    """Open a new run attempt of an ended run, or replay one that is held as NonDeterministic.

    Completed steps are kept; what failed, and what depends on it, is run again. Whoever asks a second time finds a run
    that has not ended. A crash before leaves the run ended, one after a run that the sweeper announces.

    Args:
        from_step: The id of the step, a task or a subflow, that is run again although it completed, with all that the
            body asked for behind it (`reruns`); None: what completed is kept.

    Raises:
        FlowRunNotFound: There is no such run.
        TaskRunNotFound: There is no such step.
        IllegalTransition: It has not ended, or cannot be retried from this step.
    """

    first: list[Any] = []
    event_id = events.new_id()

    def work(connection: Connection) -> list[Announcement]:
        row = _lock(connection, run_id)
        first.append(row)
        if row.run_attempt > first[0].run_attempt or _was_released(row, first[0]):
            return [of_run(row), *_announce_again(connection, run_id, row.run_attempt)]
        if row.held == NONDETERMINISTIC and from_step is not None:
            wanted = "retried from a task: it has not ended; mend its code and retry it without that, or cancel it"
            raise IllegalTransition(run_id, row.state_name, wanted)
        if row.held == NONDETERMINISTIC:
            events.record(connection, _asked(row, "retry", event_id))
            return release(connection, run_id)
        if row.phase != Phase.DONE:
            raise IllegalTransition(run_id, row.state_type, "retried before it has ended")
        if from_step is None:
            events.record(connection, _asked(row, "retry", event_id))
            return [next_attempt(connection, run_id, row.run_attempt, 0.0, "retried by hand")]
        rerun = rerun_from(connection, row, from_step)
        events.record(connection, _asked(row, "retry", event_id, from_task_run_id=from_step))
        message = f"retried by hand from {rerun.name}"
        return [next_attempt(connection, run_id, row.run_attempt, 0.0, message, rerun)]

    failpoint("before_retry")
    announcements = database.write(work)
    failpoint("after_retry")
    return announcements


def _was_released(row: Any, before: Any) -> bool:
    """Whether what held a run before has been lifted, and not by a cancel."""
    return before.held is not None and row.held is None and row.state_type != StateType.CANCELLING


def hold(database: Database, run_id: str, *, state_name: str = "Paused") -> None:
    """Pause a run from outside: no segment and no task of it is started until it is resumed; what runs ends.

    Args:
        state_name: What people see meanwhile.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It has ended, is being cancelled, or waits for mended code.
    """
    event_id = events.new_id()

    def work(connection: Connection) -> None:
        row = _lock(connection, run_id)
        if row.phase == Phase.DONE or row.state_type == StateType.CANCELLING:
            raise IllegalTransition(run_id, row.state_type, "paused")
        if row.held == NONDETERMINISTIC:
            # It would hide why the run stands still, and that `retry` is what lets it go on.
            wanted = "paused: nothing of it is started anyway; mend its code and retry it, or cancel it"
            raise IllegalTransition(run_id, row.state_name, wanted)
        values = {"held": PAUSED, "state_type": StateType.PAUSED.value, "state_name": state_name}
        connection.execute(sa.update(flow_runs).where(flow_runs.c.id == run_id).values(**values))
        history.record(connection, run_id, StateType.PAUSED, state_name)
        events.record(connection, _asked(row, "pause" if state_name == "Paused" else "suspend", event_id))

    database.write(work)


def hold_claimed(database: Database, claim: Claim, reason: str, name: str, message: str) -> None:
    """Hold a run from within its segment: the claim is released, and none is made until a person acts.

    Raises:
        ClaimLost: Another claim was made.
    """
    values = {
        "phase": Phase.READY,
        "held": reason,
        "due_at": now(),
        "announce_at": now(),
        "state_type": StateType.PAUSED.value,
        "state_name": name,
        "state_message": message,
    }

    def work(connection: Connection) -> None:
        fence(connection, claim, going_on=True, **values)
        history.record(connection, claim.run_id, StateType.PAUSED, name, message)

    database.write(work)


@dataclass(frozen=True, slots=True)
class OpenPause:
    """A pause that a run's body waits at."""

    step_key: str
    name: str
    question: Question
    #: When it is given up, seconds since the epoch.
    due_at: float | None
    created_at: float


def open_pauses(database: Database, run_id: str) -> tuple[Mapping[str, Any], list[OpenPause]]:
    """A run's row, and the pauses that its body waits at, in the order of asking.

    Raises:
        FlowRunNotFound: There is no such run.
    """

    def look(connection: Connection) -> tuple[Mapping[str, Any], list[OpenPause]]:
        row = connection.execute(sa.select(flow_runs).where(flow_runs.c.id == run_id)).mappings().first()
        if row is None:
            raise FlowRunNotFound(run_id)
        pauses = [] if row["phase"] == Phase.DONE else read_pauses(connection, run_id, row["run_attempt"])
        return dict(row), pauses

    return database.read(look)


def read_pauses(connection: Connection, run_id: str, run_attempt: int, *, lock: bool = False) -> list[OpenPause]:
    """The pauses of a run attempt that have not ended, in the order of asking."""
    query = (
        sa.select(steps.c.step_key, steps.c.name, steps.c.inputs, steps.c.due_at, steps.c.created_at)
        .where(
            steps.c.run_id == run_id,
            steps.c.run_attempt == run_attempt,
            steps.c.kind == Kind.PAUSE.value,
            phase_is_not(steps, Phase.DONE),
        )
        .order_by(steps.c.sequence)
    )
    found = connection.execute(query.with_for_update() if lock else query).all()
    return [
        OpenPause(row.step_key, row.name, Question.decoded(row.inputs), row.due_at, row.created_at) for row in found
    ]


def labels(pauses: Sequence[OpenPause]) -> dict[str, str]:
    """What people call each of a run's pauses, by step key: its key, else its name; both where nothing else has it."""
    named = {pause.step_key: pause.question.key or pause.name for pause in pauses}
    often = Counter(named.values())
    return {step_key: name if often[name] == 1 else step_key for step_key, name in named.items()}


def resume(
    database: Database, run_id: str, answers: Mapping[str, bytes] | None = None, *, token: str | None = None
) -> list[Announcement]:
    """Let a paused run go on, whether its body paused it or someone from outside.

    Of two at once, one finds it paused. A crash before leaves it paused, one after a run that the sweeper announces.

    Args:
        answers: The pauses to end, by step key, and what each is given, encoded; None: those that ask for nothing.
        token: Of the step that does it: a second time it changes nothing.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It is not paused, or not at one of these.
    """

    first: list[tuple[Any, dict[str, bytes]]] = []
    event_id = events.new_id()

    def work(connection: Connection) -> list[Announcement]:
        row = _lock(connection, run_id)
        if token is not None and not inputs.note(connection, run_id, token):
            return [of_run(row), *_announce_again(connection, run_id, row.run_attempt)]
        pauses = _to_end(connection, row, answers)
        first.append((row, pauses))
        before, wanted = first[0]
        # A pause that was reached since is not what was to be ended.
        pauses = {key: given for key, given in pauses.items() if key in wanted}
        if row.held != PAUSED and not pauses:
            if _was_released(row, before) or (len(first) > 1 and _were_given(connection, row, wanted)):
                return [of_run(row), *_announce_again(connection, run_id, row.run_attempt)]
            raise IllegalTransition(run_id, row.state_type, "resumed: it is not paused")
        events.record(connection, _asked(row, "resume", event_id))
        announcements = release(connection, run_id) if row.held == PAUSED else []
        for key, given in pauses.items():
            ending = Ending(StateType.COMPLETED, "Completed", result=given)
            announcements += complete_open(connection, run_id, row.run_attempt, [key], ending)
        return announcements

    failpoint("before_resume")
    announcements = database.write(work)
    failpoint("after_resume")
    return announcements


def _to_end(connection: Connection, row: Any, answers: Mapping[str, bytes] | None) -> dict[str, bytes]:
    """The open pauses that `answers` are for, with what each is given. Locked: their time may be over just now."""
    if row.phase == Phase.DONE or row.state_type == StateType.CANCELLING:
        # The process of a local run may have died while it was paused; a run that is being cancelled does not go on.
        return {}
    found = read_pauses(connection, row.id, row.run_attempt, lock=True)
    if answers is None:
        return {pause.step_key: NOTHING for pause in found if pause.question.schema is None}
    return {pause.step_key: answers[pause.step_key] for pause in found if pause.step_key in answers}


def _were_given(connection: Connection, row: Any, wanted: Mapping[str, bytes]) -> bool:
    """Whether these pauses have ended with just that: an earlier try of the same resume was committed."""
    query = sa.select(steps.c.step_key, steps.c.result).where(
        steps.c.run_id == row.id,
        steps.c.run_attempt == row.run_attempt,
        steps.c.step_key.in_(list(wanted)),
        steps.c.state_type == StateType.COMPLETED.value,
    )
    return bool(wanted) and {key: result for key, result in connection.execute(query)} == dict(wanted)


def _lock(connection: Connection, run_id: str) -> Any:
    row = connection.execute(sa.select(flow_runs).where(flow_runs.c.id == run_id).with_for_update()).first()
    if row is None:
        raise FlowRunNotFound(run_id)
    return row


def release(connection: Connection, run_id: str) -> list[Announcement]:
    """Lift what holds a run; one that waits for steps goes on waiting, another is READY now.

    The messages of its READY tasks were dropped meanwhile: they are announced again. A crash before that is done
    costs a lease.
    """
    waits = sa.and_(phase_is(flow_runs, Phase.WAITING), flow_runs.c.wait_claim.is_not(None))
    claimed = phase_is(flow_runs, Phase.CLAIMED)
    stays = sa.or_(waits, claimed)
    scheduled = sa.and_(flow_runs.c.due_at > now(), flow_runs.c.start_time.is_(None))
    due_at = sa.case((sa.or_(stays, scheduled), flow_runs.c.due_at), else_=now())
    statement = (
        sa.update(flow_runs)
        .where(flow_runs.c.id == run_id)
        .values(
            held=None,
            phase=sa.case((stays, flow_runs.c.phase), else_=Phase.READY.value),
            due_at=due_at,
            announce_at=sa.case((scheduled, flow_runs.c.due_at), else_=now() + settings.current().lease_seconds),
            state_type=sa.case((flow_runs.c.start_time.is_(None), "SCHEDULED"), else_="RUNNING"),
            state_name=sa.case((flow_runs.c.start_time.is_(None), "Scheduled"), (claimed, "Running"), else_="Waiting"),
            state_message=None,
        )
        .returning(*RUN_COLUMNS, flow_runs.c.state_type, flow_runs.c.state_name)
    )
    row = connection.execute(statement).one()
    history.record(connection, run_id, row.state_type, row.state_name)
    run = of_run(row)
    return [run, *_announce_again(connection, run_id, run.run_attempt)]


def _announce_again(connection: Connection, run_id: str, run_attempt: int) -> list[Announcement]:
    """The READY tasks of a run that are due and within the windows of their waves."""
    statement = (
        sa.update(steps)
        .where(
            steps.c.run_id == run_id,
            steps.c.run_attempt == run_attempt,
            steps.c.kind == Kind.TASK.value,
            phase_is(steps, Phase.READY),
            steps.c.due_at <= now(),
            steps.c.announce_at.is_not(None),
        )
        .values(announce_at=now() + settings.current().lease_seconds, announced_at=now())
        .returning(*STEP_COLUMNS)
    )
    return of_steps(connection.execute(statement))


def _children(connection: Connection, run_id: str) -> list[str]:
    """The child runs that go on and are not being cancelled yet."""
    going_on = sa.and_(phase_is_not(flow_runs, Phase.DONE), flow_runs.c.state_type != StateType.CANCELLING.value)
    return list(connection.scalars(sa.select(flow_runs.c.id).where(flow_runs.c.parent_run_id == run_id, going_on)))


def _asked(row: Any, what: str, event_id: str, **payload: str) -> dict[str, Any]:
    """The event of what was asked of a run."""
    return events.act("flow-run", f"{what}-requested", row.id, row.name, id=event_id, run_id=row.id, **payload)


def _mark(connection: Connection, run_id: str, event_id: str | None = None) -> list[Announcement]:
    """Mark one run as being cancelled; the one that was asked for must be there and not have ended otherwise.

    Args:
        event_id: Of the event of its being asked for; None: it is a child of one that was.
    """
    row = _lock(connection, run_id)
    if row.phase != Phase.DONE:
        if event_id is not None:
            events.record(connection, _asked(row, "cancel", event_id))
        return _mark_cancelling(connection, row)
    if event_id is not None and row.state_type != StateType.CANCELLED:
        raise IllegalTransition(run_id, row.state_type, "cancelled")
    return []


def _mark_cancelling(connection: Connection, row: Any) -> list[Announcement]:
    values: dict[str, Any] = {
        "state_type": StateType.CANCELLING.value,
        "state_name": "Cancelling",
        "state_message": None,
        "held": None,
        "wait_claim": None,
        "wait_needed": None,
        "wait_open": None,
        "wait_count": None,
    }
    # One that waits for its first slot was claimed, and nothing of it was done.
    is_unstarted = row.claim_number == 0 or (row.held == NO_SLOT and row.start_time is None)
    never_started = is_unstarted and row.parent_step_key is None
    if never_started:
        values |= {"state_type": StateType.CANCELLED.value, "state_name": "Cancelled"}
        values |= {"phase": Phase.DONE, "end_time": now()}
    elif row.phase != Phase.CLAIMED:
        values |= {"phase": Phase.READY, "due_at": now(), "announce_at": now() + settings.current().lease_seconds}
    statement = sa.update(flow_runs).where(flow_runs.c.id == row.id).values(**values).returning(*RUN_COLUMNS)
    found = connection.execute(statement).one()
    history.record(connection, row.id, values["state_type"], values["state_name"])
    if never_started:
        # Nobody has its code here: a worker runs its hooks.
        return [] if row.has_hooks is False else owe(connection, [debt_of_cancelled(row._mapping)])
    return [] if row.phase == Phase.CLAIMED else [of_run(found)]


def debt_of_cancelled(row: Any, message: str | None = None) -> Debt:
    """The hooks of a run that is cancelled before it was started, given its row.

    Args:
        row: Its columns by name.
        message: Why, for people.
    """
    return Debt(
        row["id"],
        row["run_attempt"],
        "",
        row["flow_name"],
        row["queue"],
        row["priority"],
        StateType.CANCELLED.value,
        "Cancelled",
        message,
    )
