"""Parking: a segment ends, and its run waits for steps without holding anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import serializers
from orchestra.errors import CancelledRun, ClaimLost
from orchestra.failpoints import failpoint
from orchestra.states import StateType
from orchestra.store import history
from orchestra.store.announcements import RUN_IS_FREE, Announcement
from orchestra.store.behind import behind
from orchestra.store.claims import Claim, fence, fence_names, is_released
from orchestra.store.database import Database, now
from orchestra.store.journal import Ending, NewStep, chunks, keep_large, write
from orchestra.store.prepared import prepare
from orchestra.store.settle import complete_open
from orchestra.store.tables import Kind, Phase, flow_runs, phase_is, phase_is_not, states, steps

_CHUNK = 1000
#: A deadline that does not come: the run was timed out already, and its body goes on.
NEVER = 1e18
_TIMERS = (Kind.SLEEP.value, Kind.PAUSE.value, Kind.INPUT.value, Kind.SLOT.value)


@dataclass(frozen=True, slots=True)
class Park:
    """What a park waits for."""

    #: Step keys; None: all unfinished steps of the run.
    needed: tuple[str, ...] | None
    #: How many of `needed` must end before the run goes on (1: any of them).
    count: int = 1
    #: What people see meanwhile.
    state_type: StateType = StateType.RUNNING
    state_name: str = "Waiting"
    message: str | None = None
    #: The flow's timeout was raised in its body already: its deadline wakes it no more.
    timed_out: bool = False
    #: A run that is being cancelled waits for its running steps to end; any other park would let it go on.
    ending: bool = False


@dataclass(frozen=True, slots=True)
class Parking:
    """What became of a park."""

    #: False: what it needs is there already; the claim still holds, the segment goes on.
    parked: bool
    announcements: list[Announcement] = field(default_factory=list)
    #: When the run was first seen to wait, by the database's clock, where that is still to be told.
    waits_since: float | None = None


def park(
    database: Database,
    claim: Claim,
    wanted: Park,
    new: Sequence[NewStep] = (),
    *,
    window: Callable[[str], int],
    outcome: bytes | None = None,
) -> Parking:
    """Let a flow run wait, and release its claim, in one transaction; unless what it needs is there.

    The unfinished steps are locked in the order of asking and counted: a step that ends concurrently is either counted
    out before or sees the wait after. A crash before leaves a claimed run whose lease lapses, one after a parked run.

    Args:
        new: Steps not yet written.
        outcome: How the body has ended, if it has; kept whether the run parks or not.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
        CancelRequested: The run is being cancelled, and this is not its end; nothing was written.
    """

    def work(connection: Connection) -> Parking:
        try:
            values = {} if outcome is None else {"outcome": outcome}
            moment = fence(connection, claim, going_on=not wanted.ending, **values)
        except ClaimLost:
            if is_released(connection, claim, Phase.WAITING, Phase.READY):
                return Parking(True)
            raise
        announcements = write(connection, claim, new, window=window, moment=moment)
        if outcome is not None:
            announcements += _end_timers(connection, claim)
        # Where something new is dispatched, a streak begins.
        fresh = any(step.ending is None for step in new)
        return _wait(connection, claim, wanted, announcements, fresh)

    keep_large(database, new)
    failpoint("before_park")
    parking = database.write(work)
    failpoint("after_park")
    if (since := parking.waits_since) is not None:
        # Nice to see: one row behind for each park, in place of one more statement while its rows are locked.
        told = history.row(claim.run_id, wanted.state_type, wanted.state_name, wanted.message, at=since)
        behind().add(states, told)
    return parking


def _end_timers(connection: Connection, claim: Claim) -> list[Announcement]:
    """End the sleeps, pauses and waits for input or slots that a body left behind: nobody waits for them any more."""
    timers = [row.step_key for row in _UNFINISHED.all(connection, fence_names(claim)) if row.kind in _TIMERS]
    if not timers:
        return []
    error = CancelledRun("the flow's body ended without it")
    data, _ = serializers.encode_exception(error)
    ending = Ending(StateType.CANCELLED, "Cancelled", str(error), data)
    return complete_open(connection, claim.run_id, claim.run_attempt, timers, ending)


def _wait(
    connection: Connection, claim: Claim, wanted: Park, announcements: list[Announcement], fresh: bool
) -> Parking:
    unfinished = _lock_unfinished(connection, claim)
    keys = set(unfinished)
    needed = keys if wanted.needed is None else keys.intersection(wanted.needed)
    missing = len(wanted.needed) - len(needed) if wanted.needed is not None else 0
    count = len(needed) if wanted.needed is None else wanted.count - missing
    if not needed or count <= 0:
        return Parking(False, announcements)
    if wanted.needed is not None:
        _flag(connection, claim, sorted(needed))
    values = {
        "b_run": claim.run_id,
        "b_needed": None if wanted.needed is None else count,
        "b_open": len(unfinished),
        "b_number": claim.number,
        "b_type": str(wanted.state_type),
        "b_name": wanted.state_name,
        "b_message": wanted.message,
        "b_timed_out": wanted.timed_out,
        "b_fresh": fresh,
    }
    parked = _PARK.first(connection, values)
    if parked.state_type == StateType.CANCELLING or parked.held is not None:
        return Parking(True, announcements)
    if wanted.state_type == StateType.PAUSED:
        history.record(connection, claim.run_id, wanted.state_type, wanted.state_name, wanted.message)
        return Parking(True, announcements)
    return Parking(True, announcements, parked.moment)


def _lock_unfinished(connection: Connection, claim: Claim) -> list[str]:
    return [row.step_key for row in _UNFINISHED.all(connection, fence_names(claim))]


def _flag(connection: Connection, claim: Claim, needed: Sequence[str]) -> None:
    for part in chunks(needed, _CHUNK):
        connection.execute(
            sa.update(steps)
            .where(
                steps.c.run_id == claim.run_id,
                steps.c.run_attempt == claim.run_attempt,
                steps.c.step_key.in_(part),
            )
            .values(awaited_by=claim.number)
        )


def slot_is_wanted(
    database: Database, claim: Claim, needed: Sequence[str], queues: Sequence[str], *, offered: bool = False
) -> bool:
    """Whether a slot is better freed than held: an awaited step is not claimed, or a READY row waits in these queues.

    Args:
        offered: The awaited steps were announced just now, and other slots are there for them: they do not count.
    """

    def work(connection: Connection) -> bool:
        if not offered and _any_unclaimed(connection, claim, needed):
            return True
        others = steps.c.run_id != claim.run_id if offered else sa.true()
        # Rows of a run that is held want no slot.
        free = {steps: sa.and_(others, RUN_IS_FREE), flow_runs: flow_runs.c.held.is_(None)}
        return any(
            connection.execute(
                sa.select(table.c.phase)
                .where(
                    phase_is(table, Phase.READY),
                    table.c.announce_at.is_not(None),
                    table.c.due_at <= now(),
                    table.c.queue.in_(list(queues)),
                    free[table],
                )
                .limit(1)
            ).first()
            for table in (steps, flow_runs)
        )

    return database.read(work)


def _any_unclaimed(connection: Connection, claim: Claim, needed: Sequence[str]) -> bool:
    query = sa.select(steps.c.step_key).where(
        steps.c.run_id == claim.run_id,
        steps.c.run_attempt == claim.run_attempt,
        steps.c.step_key.in_(list(needed)[:_CHUNK]),
        phase_is(steps, Phase.READY, Phase.WAITING),
        steps.c.kind != Kind.OBSERVATION.value,
    )
    return connection.execute(query.limit(1)).first() is not None


# Made once: building a statement costs more than running it.

_UNFINISHED = prepare(
    sa.select(steps.c.step_key, steps.c.kind)
    .where(
        steps.c.run_id == sa.bindparam("b_run"),
        steps.c.run_attempt == sa.bindparam("b_attempt"),
        phase_is_not(steps, Phase.DONE),
    )
    .order_by(steps.c.sequence)
    .with_for_update()
)
_count = sa.bindparam("b_needed", type_=sa.Integer)
#: What people see stays: the run is being cancelled, or was paused from outside while its segment ran.
_shown = sa.or_(flow_runs.c.state_type == StateType.CANCELLING.value, flow_runs.c.held.is_not(None))
_fresh = sa.bindparam("b_fresh", type_=sa.Boolean)
_PARK = prepare(
    sa.update(flow_runs)
    .where(flow_runs.c.id == sa.bindparam("b_run"))
    .values(
        phase=Phase.WAITING.value,
        wait_needed=_count,
        wait_count=_count,
        wait_open=sa.bindparam("b_open", type_=sa.Integer),
        wait_claim=sa.bindparam("b_number", type_=sa.Integer),
        streak_at=sa.case((_fresh, now()), else_=sa.func.coalesce(flow_runs.c.streak_at, now())),
        streak_parks=sa.case((_fresh, 1), else_=flow_runs.c.streak_parks + 1),
        state_type=sa.case((_shown, flow_runs.c.state_type), else_=sa.bindparam("b_type", type_=sa.String)),
        state_name=sa.case((_shown, flow_runs.c.state_name), else_=sa.bindparam("b_name", type_=sa.String)),
        state_message=sa.case((_shown, flow_runs.c.state_message), else_=sa.bindparam("b_message", type_=sa.Text)),
        deadline_at=sa.case((sa.bindparam("b_timed_out", type_=sa.Boolean), NEVER), else_=flow_runs.c.deadline_at),
    )
    # The bare column: in RETURNING, SQLite 3.40 takes a NULL for `IS NOT NULL`.
    .returning(now().label("moment"), flow_runs.c.state_type, flow_runs.c.held)
)
