"""What the sweeper asks: which messages are owed, which timers are over, which counters were wrong.

Everything here may run twice, or in two processes at once: each row is checked again in the transaction that
changes it.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import serializers, settings
from orchestra.errors import AcquireConcurrencySlotTimeoutError, InputTimeout, PauseTimeout
from orchestra.failpoints import failpoint
from orchestra.states import StateType
from orchestra.store import in_flight, leaders
from orchestra.store.announcements import (
    RUN_COLUMNS,
    RUN_IS_FREE,
    STEP_COLUMNS,
    WAKE_SUFFIX,
    Announcement,
    of_hooks,
    of_run,
    of_step,
    of_steps,
)
from orchestra.store.database import Database, instant, now
from orchestra.store.journal import Ending, upstream_failures
from orchestra.store.local_runs import end_dead, in_transactions
from orchestra.store.settle import WAIT_COLUMNS, complete_open, make_ready, wake_if_over
from orchestra.store.tables import Kind, Phase, edges, flow_runs, owed_hooks, phase_is, phase_is_not, queue_marks, steps

__all__ = ["Announcement", "complete_due", "expire_local", "keep_watch", "next_due", "recount", "take_due"]

#: Steps that a message starts; the others end by themselves when they are due.
_CARRIED = (Kind.TASK.value,)
_TIMERS = (Kind.SLEEP.value, Kind.PAUSE.value, Kind.INPUT.value, Kind.SLOT.value)
#: The longest time from one message of a row to the next, in seconds, before jitter, where the lease is no longer.
LONGEST_AHEAD = 600.0


def take_due(database: Database, *, limit: int = 500, lapsed: bool = True) -> list[Announcement]:
    """Take up to `limit` owed messages, longest owed first, and set their next time a lease ahead or more.

    Owed are READY rows that are due and whose `announce_at` has come, and claimed rows whose lease has lapsed. A row
    that was announced before is taken only if its message seems lost: one announced later on its queue was claimed, or
    nothing was claimed there for a lease. The time from one repetition to the next grows to `LONGEST_AHEAD`: where
    nobody consumes a queue, its messages do not pile up.

    A crash before the messages are sent costs a lease: then they are owed again.

    Args:
        lapsed: Take claimed rows too; not for a lease after the database was away (`leaders.may_expire`).
    """
    if not database.read(lambda connection: _owed(connection, limit, lapsed)):
        return []

    def work(connection: Connection) -> list[Announcement]:
        expire = lapsed and leaders.may_expire(connection, settings.current().lease_seconds)
        moment = instant(connection)
        marks = {row.queue: row for row in connection.execute(sa.select(queue_marks))}
        taken: list[Announcement] = []
        for table, row in _owed(connection, limit, expire):
            lost = _seems_lost(row, marks.get(_mark_of(row)), moment)
            _set_ahead(connection, table, row, moment, announced=lost)
            if lost:
                taken.append(_ANNOUNCEMENT_OF[table](row))
        return taken

    return database.write(work)


def complete_due(database: Database) -> list[Announcement]:
    """End the sleeps, pauses and waits for input or slots that are over; wake parked runs whose deadline has come."""
    announcements: list[Announcement] = []
    while over := database.read(lambda connection: list(connection.execute(_OVER))):
        for row in over:
            failpoint("before_timer")
            announcements += database.write(partial(_end_timer, row=row))
            failpoint("after_timer")
    if database.read(lambda connection: connection.execute(_LATE).first()) is not None:
        announcements += database.write(_wake_late)
    return announcements


def recount(database: Database) -> list[Announcement]:
    """Recompute from rows what counters may have got wrong: parked runs, waiting steps, waves that stand still."""
    announcements: list[Announcement] = []
    for run_id in database.read(lambda connection: list(connection.scalars(_PARKED_AND_OVER))):
        announcements += database.write(partial(_recount_run, run_id=run_id))
    # Looked for outside of the write lock: nearly always there is nothing to mend.
    for join in database.read(lambda connection: list(connection.execute(_JOINS_OVER))):
        announcements += database.write(partial(_recount_join, join=join))
    for wave in database.read(_still_waves):
        announcements += database.write(partial(_start_wave, wave=wave))
    return announcements


def next_due(database: Database) -> float | None:
    """The earliest instant (seconds since the epoch) at which a timer is over or a message is owed, if any."""

    def work(connection: Connection) -> float | None:
        queries = (
            sa.select(sa.func.min(steps.c.announce_at)).where(phase_is(steps, Phase.READY)),
            sa.select(sa.func.min(flow_runs.c.announce_at)).where(
                phase_is(flow_runs, Phase.READY), flow_runs.c.held.is_(None)
            ),
        )
        earliest = [connection.scalar(query) for query in queries]
        return min((moment for moment in earliest if moment is not None), default=None)

    return database.read(work)


def expire_local(database: Database) -> int:
    """Mark local runs whose process died as CRASHED; returns how many.

    None for a lease after the database was away: processes that live could not renew. Those that died inside of a
    transaction are left to whoever rolls that back (`leases.mark_dead`).
    """
    lapsed = sa.and_(
        flow_runs.c.runner == "local",
        phase_is(flow_runs, Phase.CLAIMED),
        flow_runs.c.lease_until < now(),
        ~in_transactions(),
    )
    found = sa.select(flow_runs.c.id).where(lapsed).limit(1)
    if database.read(lambda connection: connection.execute(found).first()) is None:
        return 0

    def work(connection: Connection) -> int:
        if not leaders.may_expire(connection, settings.current().lease_seconds):
            return 0
        return end_dead(connection, lapsed)

    return database.write(work)


def keep_watch(database: Database) -> None:
    """Note that a sweeper is there. Where that is not done for a lease, nothing is expired for another."""
    database.write(lambda connection: leaders.may_expire(connection, settings.current().lease_seconds))


# -- owed messages -----------------------------------------------------------------------------------------------


def _owed(connection: Connection, limit: int, lapsed: bool) -> list[tuple[sa.Table, Any]]:
    found: list[tuple[sa.Table, Any]] = []
    for query, table in ((_OWED_RUNS, flow_runs), (_OWED_STEPS, steps), (_OWED_HOOKS, owed_hooks)):
        found.extend((table, row) for row in connection.execute(query.limit(limit)))
    lapsed_rows = ((_LAPSED_RUNS, flow_runs), (_LAPSED_STEPS, steps), (_LAPSED_HOOKS, owed_hooks))
    for query, table in lapsed_rows if lapsed else ():
        found.extend((table, row) for row in connection.execute(query.limit(limit)))
    return found[:limit]


def _mark_of(row: Any) -> str:
    """The queue its message travels on: wake-ups overtake others, and say nothing of them."""
    wake = getattr(row, "claim_number", 0) > 0
    return str(row.queue) + (WAKE_SUFFIX if wake else "")


def _seems_lost(row: Any, mark: Any, moment: float) -> bool:
    if row.phase == Phase.CLAIMED or row.announced_at is None or mark is None:
        return True
    return bool(mark.announced_at > row.announced_at or mark.claimed_at < moment - settings.current().lease_seconds)


def _set_ahead(connection: Connection, table: sa.Table, row: Any, moment: float, *, announced: bool) -> None:
    # Jitter: rows that were announced together are not all announced again together.
    seconds = _seconds_ahead(row, moment) if announced else settings.current().lease_seconds
    ahead = moment + seconds * random.uniform(1.0, 1.25)
    values = {"announce_at": ahead, "announced_at": moment} if announced else {"announce_at": ahead}
    same = [flow_runs.c.id == row.id] if table is flow_runs else _this_step(table, row)
    connection.execute(sa.update(table).where(*same, phase_is_not(table, Phase.DONE)).values(**values))


def _seconds_ahead(row: Any, moment: float) -> float:
    """After how long a message that is sent now may be repeated: a lease, or as long as its row has waited so far."""
    waited = 0.0
    if row.phase == Phase.CLAIMED:
        waited = moment - row.lease_until
    elif row.announced_at is not None:
        waited = moment - row.due_at
    return max(settings.current().lease_seconds, min(waited, LONGEST_AHEAD))


def _this_step(table: sa.Table, row: Any) -> list[sa.ColumnElement[bool]]:
    """The step, or the owed hooks, of a row."""
    column = table.c
    return [column.run_id == row.run_id, column.run_attempt == row.run_attempt, column.step_key == row.step_key]


_OWED_RUNS = (
    sa.select(*RUN_COLUMNS, flow_runs.c.phase, flow_runs.c.announced_at, flow_runs.c.lease_until)
    .where(
        phase_is(flow_runs, Phase.READY),
        flow_runs.c.announce_at <= now(),
        flow_runs.c.due_at <= now(),
        flow_runs.c.runner != "local",
        flow_runs.c.held.is_(None),
    )
    .order_by(flow_runs.c.announce_at)
)
_OWED_STEPS = (
    sa.select(*STEP_COLUMNS, steps.c.phase, steps.c.announced_at, steps.c.lease_until)
    .where(
        phase_is(steps, Phase.READY),
        steps.c.announce_at <= now(),
        steps.c.due_at <= now(),
        steps.c.kind.in_(_CARRIED),
        RUN_IS_FREE,
    )
    .order_by(steps.c.announce_at)
)
_LAPSED_RUNS = (
    sa.select(*RUN_COLUMNS, flow_runs.c.phase, flow_runs.c.announced_at, flow_runs.c.lease_until)
    .where(
        phase_is(flow_runs, Phase.CLAIMED),
        flow_runs.c.lease_until < now(),
        flow_runs.c.announce_at <= now(),
        flow_runs.c.runner != "local",
        flow_runs.c.held.is_(None),
    )
    .order_by(flow_runs.c.lease_until)
)
_LAPSED_STEPS = (
    sa.select(*STEP_COLUMNS, steps.c.phase, steps.c.announced_at, steps.c.lease_until)
    .where(phase_is(steps, Phase.CLAIMED), steps.c.lease_until < now(), steps.c.announce_at <= now(), RUN_IS_FREE)
    .order_by(steps.c.lease_until)
)

_hooks_due = sa.and_(owed_hooks.c.announce_at <= now(), owed_hooks.c.due_at <= now())
_OWED_HOOKS = (
    sa.select(owed_hooks).where(phase_is(owed_hooks, Phase.READY), _hooks_due).order_by(owed_hooks.c.announce_at)
)
_LAPSED_HOOKS = (
    sa.select(owed_hooks)
    .where(phase_is(owed_hooks, Phase.CLAIMED), owed_hooks.c.lease_until < now(), _hooks_due)
    .order_by(owed_hooks.c.lease_until)
)
_ANNOUNCEMENT_OF = {flow_runs: of_run, steps: of_step, owed_hooks: of_hooks}

# -- timers ------------------------------------------------------------------------------------------------------

_OVER = (
    sa.select(*STEP_COLUMNS, steps.c.kind)
    .where(
        phase_is(steps, Phase.READY),
        steps.c.announce_at <= now(),
        steps.c.due_at <= now(),
        steps.c.kind.in_(_TIMERS),
    )
    .order_by(steps.c.announce_at)
    .limit(500)
)


def _end_timer(connection: Connection, row: Any) -> list[Announcement]:
    over = (phase_is(steps, Phase.READY), steps.c.due_at <= now())
    return complete_open(connection, row.run_id, row.run_attempt, [row.step_key], _timer_ending(row), *over)


def _timer_ending(row: Any) -> Ending:
    if row.kind == Kind.SLEEP:
        return Ending(StateType.COMPLETED, "Completed", result=serializers.encode(None))
    if row.kind == Kind.INPUT:
        error: Exception = InputTimeout("the flow run was sent no input in time")
    elif row.kind == Kind.SLOT:
        error = AcquireConcurrencySlotTimeoutError("no slot was free in time; `orchestra gcl ls` shows the limits")
    else:
        error = PauseTimeout("the flow run was paused and not resumed in time")
    data, _ = serializers.encode_exception(error)
    return Ending(StateType.FAILED, "TimedOut", str(error), data)


_late = sa.and_(
    phase_is(flow_runs, Phase.WAITING),
    flow_runs.c.deadline_at.is_not(None),
    flow_runs.c.deadline_at <= now(),
    flow_runs.c.state_type != StateType.CANCELLING.value,
    flow_runs.c.held.is_(None),
)
_LATE = sa.select(flow_runs.c.id).where(_late, flow_runs.c.outcome.is_(None)).limit(1)


def _wake_late(connection: Connection) -> list[Announcement]:
    statement = (
        sa.update(flow_runs)
        .where(_late, flow_runs.c.outcome.is_(None))
        .values(
            phase=Phase.READY,
            due_at=now(),
            announce_at=now() + settings.current().lease_seconds,
            wait_claim=None,
            wait_needed=None,
            wait_open=None,
        )
        .returning(*RUN_COLUMNS)
    )
    return [of_run(row) for row in connection.execute(statement)]


# -- counters ----------------------------------------------------------------------------------------------------

_of_run = sa.and_(steps.c.run_id == flow_runs.c.id, steps.c.run_attempt == flow_runs.c.run_attempt)
_open_steps = (
    sa.select(sa.func.count()).select_from(steps).where(_of_run, phase_is_not(steps, Phase.DONE)).scalar_subquery()
)
_needed_done = (
    sa.select(sa.func.count())
    .select_from(steps)
    .where(_of_run, phase_is(steps, Phase.DONE), steps.c.awaited_by == flow_runs.c.wait_claim)
    .scalar_subquery()
)
_PARKED_AND_OVER = sa.select(flow_runs.c.id).where(
    phase_is(flow_runs, Phase.WAITING),
    flow_runs.c.wait_claim.is_not(None),
    sa.or_(_open_steps == 0, sa.and_(flow_runs.c.wait_count.is_not(None), _needed_done >= flow_runs.c.wait_count)),
)


def _recount_run(connection: Connection, run_id: str) -> list[Announcement]:
    # Completions of this run wait for this row's lock, then count down from what is written here.
    parked = sa.and_(flow_runs.c.id == run_id, phase_is(flow_runs, Phase.WAITING))
    if connection.execute(sa.select(flow_runs.c.id).where(parked).with_for_update()).first() is None:
        return []
    column = flow_runs.c
    statement = (
        sa.update(flow_runs)
        .where(column.id == run_id)
        .values(wait_open=_open_steps, wait_needed=column.wait_count - _needed_done)
        .returning(*WAIT_COLUMNS)
    )
    return wake_if_over(connection, run_id, connection.execute(statement).one())


_waited = (
    sa.select(steps.c.run_id, steps.c.run_attempt, steps.c.join_id)
    .where(phase_is(steps, Phase.WAITING), steps.c.join_id.is_not(None))
    .distinct()
    .subquery()
)


def _an_upstream(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Whether a waited-for join has an upstream like that."""
    same = (steps.c.run_id == edges.c.run_id, steps.c.run_attempt == edges.c.run_attempt)
    return (
        sa.select(edges.c.upstream)
        .join(steps, sa.and_(*same, steps.c.step_key == edges.c.upstream))
        .where(
            edges.c.run_id == _waited.c.run_id,
            edges.c.run_attempt == _waited.c.run_attempt,
            edges.c.target_id == _waited.c.join_id,
            *conditions,
        )
        .correlate(_waited)
        .exists()
    )


#: Joins that are waited for though all their upstreams have ended, or one that must not has failed.
_JOINS_OVER = sa.select(_waited).where(
    sa.or_(
        ~_an_upstream(phase_is_not(steps, Phase.DONE)),
        _an_upstream(edges.c.strict, phase_is(steps, Phase.DONE), steps.c.state_type != StateType.COMPLETED.value),
    )
)


def join_verdict(connection: Connection, join: Any) -> str | None:
    """What a join's upstreams say of its dependents: "" to go on, the key of a failed upstream, None to wait."""
    members = (
        sa.select(edges.c.upstream, edges.c.strict, steps.c.phase, steps.c.state_type)
        .join(
            steps,
            sa.and_(
                steps.c.run_id == edges.c.run_id,
                steps.c.run_attempt == edges.c.run_attempt,
                steps.c.step_key == edges.c.upstream,
            ),
        )
        .where(
            edges.c.run_id == join.run_id, edges.c.run_attempt == join.run_attempt, edges.c.target_id == join.join_id
        )
    )
    rows = list(connection.execute(members))
    failed = [r for r in rows if r.strict and r.phase == Phase.DONE and r.state_type != StateType.COMPLETED]
    if failed:
        return str(failed[0].upstream)
    return None if any(row.phase != Phase.DONE for row in rows) else ""


def _recount_join(connection: Connection, join: Any) -> list[Announcement]:
    """Let the dependents of a join go on, or fail, if its upstreams say so, whatever its counter says."""
    # Before the rows of steps are locked, as everybody does.
    in_flight.lock(connection, join.run_id, join.run_attempt)
    verdict = join_verdict(connection, join)
    if verdict is None:
        return []
    waiting = sa.select(steps.c.step_key).where(
        steps.c.run_id == join.run_id,
        steps.c.run_attempt == join.run_attempt,
        steps.c.join_id == join.join_id,
        phase_is(steps, Phase.WAITING),
    )
    keys = list(connection.scalars(waiting.order_by(steps.c.sequence)))
    if not verdict:
        return make_ready(connection, join.run_id, join.run_attempt, keys)
    ending = upstream_failures(connection, join.run_id, join.run_attempt, [verdict])[verdict]
    return complete_open(connection, join.run_id, join.run_attempt, keys, ending, phase_is(steps, Phase.WAITING))


_UNANNOUNCED_WAVES = (
    sa.select(
        steps.c.run_id,
        steps.c.run_attempt,
        steps.c.wave,
        sa.func.min(steps.c.wave_index).label("first"),
        sa.func.min(steps.c.wave_window).label("window"),
    )
    .where(phase_is(steps, Phase.READY), steps.c.announce_at.is_(None), steps.c.wave.is_not(None))
    .group_by(steps.c.run_id, steps.c.run_attempt, steps.c.wave)
)


def _still_waves(connection: Connection) -> list[Any]:
    return [wave for wave in connection.execute(_UNANNOUNCED_WAVES).all() if _stands_still(connection, wave)]


def _stands_still(connection: Connection, wave: Any) -> bool:
    """Whether no row of a wave is announced or claimed, so that nothing will announce the rest."""
    moving = sa.select(steps.c.step_key).where(
        steps.c.run_id == wave.run_id,
        steps.c.run_attempt == wave.run_attempt,
        steps.c.wave == wave.wave,
        phase_is(steps, Phase.READY, Phase.CLAIMED),
        steps.c.announce_at.is_not(None),
    )
    return connection.execute(moving.limit(1)).first() is None


def _start_wave(connection: Connection, wave: Any) -> list[Announcement]:
    if in_flight.is_bounded(wave.wave):
        return in_flight.restart(connection, wave.run_id, wave.run_attempt, wave.first, wave.window)
    statement = (
        sa.update(steps)
        .where(
            steps.c.run_id == wave.run_id,
            steps.c.run_attempt == wave.run_attempt,
            steps.c.wave == wave.wave,
            steps.c.wave_index >= wave.first,
            steps.c.wave_index < wave.first + steps.c.wave_window,
            phase_is(steps, Phase.READY),
            steps.c.announce_at.is_(None),
        )
        .values(announce_at=now() + settings.current().lease_seconds, announced_at=now())
        .returning(*STEP_COLUMNS)
    )
    return of_steps(connection.execute(statement))
