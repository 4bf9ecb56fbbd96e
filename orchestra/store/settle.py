"""What the end of a step lets go on: the next of its wave, its dependents, and the parked run that awaits it.

One way in for every ending: a worker's, the sweeper's (a sleep is over), a person's (resume), a child run's. All of it
happens in the transaction that writes the ending. Rows are locked in the order of asking.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import serializers, settings
from orchestra.errors import CancelledRun, ClaimLost
from orchestra.failpoints import failpoint
from orchestra.graph import window as window_of
from orchestra.states import StateType
from orchestra.store import blobs, cache, history, in_flight
from orchestra.store.announcements import RUN_COLUMNS, STEP_COLUMNS, Announcement, of_run, of_step, of_steps, step_is
from orchestra.store.cache import Keeping
from orchestra.store.claims import FENCE_STATEMENTS, NOT_BEGUN, Claim, fence, fence_names, is_released
from orchestra.store.database import Database, instant, now
from orchestra.store.joint import Joint
from orchestra.store.journal import Effect, Ending, chunks, keep_large, upstream_failures
from orchestra.store.owed import Debt, owe
from orchestra.store.prepared import prepare
from orchestra.store.tables import Phase, edges, flow_runs, joins, phase_is, phase_is_not, steps
from orchestra.store.wake import STEP, note

#: What `wake_if_over` needs to know of a parked run.
WAIT_COLUMNS = (
    flow_runs.c.wait_open,
    flow_runs.c.wait_needed,
    flow_runs.c.phase,
    flow_runs.c.streak_at,
    flow_runs.c.streak_parks,
    now().label("moment"),
)
#: Shortest and longest grace for unfinished companions, in seconds.
GRACE = (0.1, 5.0)
_CHUNK = 1000
#: Up to so many joins are counted down one by one, by a prepared statement.
_FEW = 4

_ENDED_COLUMNS = (
    steps.c.step_key,
    steps.c.state_type,
    steps.c.wave,
    steps.c.wave_index,
    steps.c.wave_window,
    steps.c.awaited_by,
)


@dataclass(frozen=True, slots=True)
class Ended:
    """A step that has just ended, in this transaction."""

    key: str
    succeeded: bool
    wave: str | None
    wave_index: int | None
    wave_window: int | None
    awaited_by: int | None


def _least_window(queue: str) -> int:
    """The window where the live slots are not known."""
    return window_of(0)


def complete(
    database: Database,
    claim: Claim,
    ending: Ending,
    *,
    window: Callable[[str], int] = _least_window,
    debt: Debt | None = None,
    bounded: bool = False,
    cached: Keeping | None = None,
    joint: Joint | None = None,
    effects: Sequence[Effect] = (),
) -> list[Announcement]:
    """Write the ending of a claimed step, and what follows from it, in one transaction.

    A lost answer is recognised: repeating it changes nothing. A crash just after it leaves READY rows that the sweeper
    announces.

    Args:
        window: Of a queue, how many rows of a wave are announced ahead; asked within the transaction, so it must know.
        debt: The hooks that this ending calls for.
        bounded: The step is one of which only some may be in flight.
        cached: What of it is kept for later calls.
        joint: The transaction of its body, which this ends.
        effects: Written together with it.

    Returns:
        What to announce.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """
    assert claim.step_key is not None
    step_key = claim.step_key

    def work(connection: Connection) -> list[Announcement]:
        if bounded:
            in_flight.lock_ending(connection, claim.run_id, claim.run_attempt, step_key)
        row = _COMPLETE.first(connection, ending_names(connection, claim, ending))
        if row is None:
            if is_released(connection, claim, Phase.DONE):
                return []
            raise ClaimLost(f"the claim on step {claim.step_key!r} of flow run {claim.run_id} was taken over")
        if debt is not None:
            owe(connection, [debt])
        if cached is not None:
            cache.settle(connection, cached, ending.result, ending.blob)
        for effect in effects:
            effect(connection, instant(connection))
        return settle(connection, claim.run_id, claim.run_attempt, _ended([row]), window=window)

    def is_there(connection: Connection) -> bool:
        # Behind a COMMIT that is still under way.
        connection.execute(
            sa.select(steps.c.id).where(*step_is(claim.run_id, claim.run_attempt, step_key)).with_for_update()
        )
        return is_released(connection, claim, Phase.DONE)

    if joint is None:
        keep_large(database, [ending])
    failpoint("before_complete")
    announcements = database.write(work) if joint is None else joint.write(work, is_there)
    failpoint("after_complete")
    return announcements


def retry_later(
    database: Database, claim: Claim, *, delay: float, attempt: int, message: str | None
) -> list[Announcement]:
    """Give a claimed step back to be run again after `delay` seconds, as its attempt number `attempt`.

    The next of its wave is announced meanwhile. A step that is being cancelled ends instead.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """

    values = {"attempt": attempt, "state_name": "AwaitingRetry", "state_message": message}
    failpoint("before_retry_later")
    announcements = _give_back(database, claim, values, delay)
    failpoint("after_retry_later")
    return announcements


def wait(database: Database, claim: Claim, seconds: float, name: str) -> list[Announcement]:
    """Give a claimed step back, to be looked at again after so many seconds, and shown as `name` until then.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """
    return _give_back(database, claim, {"state_name": name, "state_message": None, **NOT_BEGUN}, seconds)


def _give_back(database: Database, claim: Claim, values: dict[str, Any], delay: float) -> list[Announcement]:
    """Give a claimed step back, due after `delay` seconds, with these columns. Safe to repeat."""
    later = {"due_at": now() + delay, "announce_at": now() + delay}

    def work(connection: Connection) -> list[Announcement]:
        try:
            fence(connection, claim)
        except ClaimLost:
            if is_released(connection, claim, Phase.READY, Phase.DONE):
                return []
            raise
        return set_back(connection, claim, values | later, delay=delay)

    return database.write(work)


def set_back(connection: Connection, claim: Claim, values: dict[str, Any], *, delay: float) -> list[Announcement]:
    """Let a step that has passed its fence be claimed again from `delay` seconds on; one being cancelled ends instead.

    Args:
        values: More of its columns, among them `due_at` and `announce_at`.
    """
    key = claim.step_key or ""
    if claim.cancelled:
        return complete_open(connection, claim.run_id, claim.run_attempt, [key], cancelled())
    this = step_is(claim.run_id, claim.run_attempt, key)
    later = {"phase": Phase.READY, "announced_at": None, "state_type": StateType.SCHEDULED.value}
    connection.execute(sa.update(steps).where(*this).values(**later, **values))
    # What failed anew is told each time; what only waits on, once.
    waits = claim.number > 1 and values["state_name"] != "AwaitingRetry"
    history.record_steps(connection, claim.run_id, *this, once=waits)
    row = connection.execute(sa.select(*_ENDED_COLUMNS[1:], *STEP_COLUMNS).where(*this)).one()
    announcement = replace(of_step(row), delay=delay)
    if in_flight.is_bounded(row.wave):
        # Among those in flight, as a thread that waits to try again would be.
        return [announcement]
    return [announcement, *_advance_waves(connection, claim.run_id, claim.run_attempt, _ended([row]))]


def cancelled() -> Ending:
    """How a step ends whose flow run is cancelled."""
    error = CancelledRun("its flow run was cancelled")
    data, _ = serializers.encode_exception(error)
    return Ending(StateType.CANCELLED, "Cancelled", str(error), data)


def complete_open(
    connection: Connection, run_id: str, run_attempt: int, keys: Sequence[str], ending: Ending, *conditions: Any
) -> list[Announcement]:
    """End steps that nobody holds a claim on (a sleep, a pause, a child run's step), where they have not ended yet."""
    ended: list[Ended] = []
    for part in chunks(keys, _CHUNK):
        statement = (
            sa.update(steps)
            .where(
                steps.c.run_id == run_id,
                steps.c.run_attempt == run_attempt,
                steps.c.step_key.in_(part),
                phase_is_not(steps, Phase.DONE),
                *conditions,
            )
            .values(**ending_values(connection, ending))
            .returning(*_ENDED_COLUMNS)
        )
        ended.extend(_ended(connection.execute(statement)))
    return settle(connection, run_id, run_attempt, ended)


def settle(
    connection: Connection,
    run_id: str,
    run_attempt: int,
    ended: Sequence[Ended],
    *,
    window: Callable[[str], int] = _least_window,
) -> list[Announcement]:
    """Let go on what these endings let go on, and what follows from that; returns what to announce."""
    if ended:
        note(connection, STEP, run_id)
    announcements: list[Announcement] = []
    everything: list[Ended] = []
    frontier = list(ended)
    while frontier:
        everything += frontier
        announcements += _advance_waves(connection, run_id, run_attempt, frontier)
        failed, ready = _let_go(connection, run_id, run_attempt, frontier, window)
        announcements += ready
        frontier = failed
    announcements += _wake(connection, run_id, run_attempt, everything)
    return announcements


def make_ready(
    connection: Connection,
    run_id: str,
    run_attempt: int,
    keys: Sequence[str],
    *,
    window: Callable[[str], int] = _least_window,
) -> list[Announcement]:
    """Make waiting steps READY, as one wave a queue; returns the part of it that is announced now."""
    waiting = sa.and_(steps.c.run_id == run_id, steps.c.run_attempt == run_attempt, phase_is(steps, Phase.WAITING))
    moment = instant(connection)
    found: list[Any] = []
    for part in chunks(keys, _CHUNK):
        columns = (*STEP_COLUMNS, steps.c.sequence, steps.c.wave, steps.c.wave_window)
        query = sa.select(*columns).where(waiting, steps.c.step_key.in_(part))
        found.extend(connection.execute(query.order_by(steps.c.sequence).with_for_update()))
    if not found:
        return []
    found.sort(key=lambda row: row.sequence)
    numbered = _number([row for row in found if row.wave is None], window)
    numbered += _bound(connection, run_id, run_attempt, [row for row in found if row.wave is not None])
    announce_at = moment + settings.current().lease_seconds
    statement = (
        sa.update(steps)
        .where(waiting, steps.c.step_key == sa.bindparam("b_key"))
        .values(
            phase=Phase.READY,
            due_at=moment,
            announce_at=sa.bindparam("b_announce", type_=sa.Double),
            announced_at=sa.bindparam("b_announced", type_=sa.Double),
            wave=sa.bindparam("b_wave", type_=sa.String),
            wave_index=sa.bindparam("b_index", type_=sa.Integer),
            wave_window=sa.bindparam("b_window", type_=sa.Integer),
        )
    )
    connection.execute(
        statement,
        [
            {
                "b_key": row.step_key,
                "b_wave": wave,
                "b_index": index,
                "b_window": ahead,
                "b_announce": announce_at if now_too else None,
                "b_announced": moment if now_too else None,
            }
            for row, wave, index, ahead, now_too in numbered
        ],
    )
    return [of_step(row) for row, _, _, _, now_too in numbered if now_too]


def _number(
    rows: Sequence[Any], window: Callable[[str], int]
) -> list[tuple[Any, str | None, int | None, int | None, bool]]:
    """Each row with its wave, index and window (None where all are announced), and whether it is announced now."""
    by_queue: dict[str | None, list[Any]] = {}
    for row in rows:
        by_queue.setdefault(row.queue, []).append(row)
    numbered: list[tuple[Any, str | None, int | None, int | None, bool]] = []
    for queue, wave in by_queue.items():
        ahead = window(queue or "")
        if len(wave) <= ahead:
            numbered.extend((row, None, None, None, True) for row in wave)
        else:
            name = f"join:{wave[0].step_key}"
            numbered.extend((row, name, index, ahead, index < ahead) for index, row in enumerate(wave))
    return numbered


def _bound(
    connection: Connection, run_id: str, run_attempt: int, rows: Sequence[Any]
) -> list[tuple[Any, str | None, int | None, int | None, bool]]:
    """As `_number`, of rows of which only some may be in flight."""
    if not rows:
        return []
    first, started = in_flight.place(connection, run_id, run_attempt, most=rows[0].wave_window)
    return [(row, row.wave, index, row.wave_window, index < started) for index, row in enumerate(rows, first)]


def _advance_waves(connection: Connection, run_id: str, run_attempt: int, ended: Sequence[Ended]) -> list[Announcement]:
    """Announce the row that comes one window after each ended one."""
    following: dict[str, list[int]] = {}
    bounded = 0
    for step in ended:
        if step.wave is None or step.wave_index is None or step.wave_window is None:
            continue
        if in_flight.is_bounded(step.wave):
            bounded += 1
        else:
            following.setdefault(step.wave, []).append(step.wave_index + step.wave_window)
    names: dict[str, Any] = {"b_run": run_id, "b_attempt": run_attempt, "b_lease": settings.current().lease_seconds}
    found = in_flight.advance(connection, run_id, run_attempt, bounded) if bounded else []
    if len(following) == 1:
        ((wave, indexes),) = following.items()
        if len(indexes) == 1:
            return found + of_steps(_ADVANCE.all(connection, names | {"b_wave": wave, "b_index": indexes[0]}))
    rows = [
        row
        for wave, indexes in following.items()
        for part in chunks(indexes, _CHUNK)
        for row in connection.execute(_FOLLOWING, names | {"b_wave": wave, "b_indexes": part})
    ]
    for part in chunks(_in_order(rows), _CHUNK):
        connection.execute(_LOCK, names | {"b_keys": part}).all()
        found += of_steps(connection.execute(_ADVANCE_MANY, names | {"b_keys": part}))
    return found


def _in_order(rows: Iterable[Any]) -> list[str]:
    """The keys of steps, in the order of asking, in which their rows are locked."""
    return [row.step_key for row in sorted(rows, key=lambda row: row.sequence)]


def _let_go(
    connection: Connection, run_id: str, run_attempt: int, ended: Sequence[Ended], window: Callable[[str], int]
) -> tuple[list[Ended], list[Announcement]]:
    """Count joins down; end the dependents of failed steps, make those of counted-out joins READY."""
    touched = _members(connection, run_id, run_attempt, [step.key for step in ended])
    if not touched:
        return [], []
    failing = {step.key for step in ended if not step.succeeded}
    culprits: dict[str, str] = {}
    for member in touched:
        if member.strict and member.upstream in failing:
            culprits.setdefault(member.target_id, member.upstream)
    failed = _fail_dependents(connection, run_id, run_attempt, culprits)
    out = _count_down(connection, run_id, run_attempt, [member.join_id for member in touched])
    keys = _dependents(connection, run_id, run_attempt, out)
    return failed, make_ready(connection, run_id, run_attempt, keys, window=window)


def _members(connection: Connection, run_id: str, run_attempt: int, keys: Sequence[str]) -> list[Any]:
    names = {"b_run": run_id, "b_attempt": run_attempt}
    if len(keys) == 1:
        return _MEMBERS_OF_ONE.all(connection, names | {"b_key": keys[0]})
    found: list[Any] = []
    for part in chunks(keys, _CHUNK):
        found.extend(connection.execute(_MEMBERS_OF, names | {"b_keys": part}))
    return found


def _fail_dependents(connection: Connection, run_id: str, run_attempt: int, culprits: dict[str, str]) -> list[Ended]:
    """End the steps that wait for joins with a failed member: they are not run."""
    names = {"b_run": run_id, "b_attempt": run_attempt}
    found: list[Any] = []
    for part in chunks(sorted(culprits), _CHUNK):
        found.extend(connection.execute(_WAITING_FOR, names | {"b_joins": part}))
    failed: list[Any] = []
    for part in chunks(_in_order(found), _CHUNK):
        # Those that still wait, now that they are locked.
        failed.extend(connection.execute(_LOCK_WAITING, names | {"b_keys": part}))
    endings = upstream_failures(connection, run_id, run_attempt, {culprits[row.join_id] for row in failed})
    rows = [names | _failing_names(row.step_key, endings[culprits[row.join_id]]) for row in failed]
    if rows:
        _FAIL.many(connection, rows)
    return [Ended(r.step_key, False, r.wave, r.wave_index, r.wave_window, r.awaited_by) for r in failed]


def _failing_names(key: str, ending: Ending) -> dict[str, Any]:
    return {
        "b_key": key,
        "b_type": str(ending.state_type),
        "b_name": ending.state_name,
        "b_message": ending.message,
        "b_result": ending.result,
        "b_blob": None,
    }


def _count_down(connection: Connection, run_id: str, run_attempt: int, join_ids: Sequence[str]) -> list[str]:
    """Count joins down by how often each is named; returns those at zero, stripes replaced by their parents."""
    out: list[str] = []
    parents: list[str] = []
    for row in _counted(connection, run_id, run_attempt, Counter(join_ids)):
        if row.remaining > 0:
            continue
        if row.parent_id is None:
            out.append(row.join_id)
        else:
            parents.append(row.parent_id)
    # After all stripes: everybody takes them in this order.
    return out + _count_down(connection, run_id, run_attempt, parents) if parents else out


def _counted(connection: Connection, run_id: str, run_attempt: int, counts: dict[str, int]) -> list[Any]:
    """Count joins down; returns what remains of each that is there."""
    names: dict[str, Any] = {"b_run": run_id, "b_attempt": run_attempt}
    # By name: two transactions that count down the same joins take them in the same order.
    ordered = sorted(counts)
    if len(ordered) <= _FEW:
        each = ({"b_join": join_id, "b_ended": counts[join_id]} for join_id in ordered)
        return [row for one in each for row in _COUNT_DOWN.all(connection, names | one)]
    found: list[Any] = []
    for part in chunks(ordered, _CHUNK):
        connection.execute(_lock_joins(connection.dialect.name), names | {"b_joins": part}).all()
        for ended in sorted({counts[join_id] for join_id in part}):
            same = [join_id for join_id in part if counts[join_id] == ended]
            found.extend(connection.execute(_COUNT_DOWN_MANY, names | {"b_joins": same, "b_ended": ended}))
    return found


def _dependents(connection: Connection, run_id: str, run_attempt: int, join_ids: Sequence[str]) -> list[str]:
    names = {"b_run": run_id, "b_attempt": run_attempt}
    if len(join_ids) == 1:
        return _in_order(_DEPENDENTS.all(connection, names | {"b_join": join_ids[0]}))
    found: list[Any] = []
    for part in chunks(join_ids, _CHUNK):
        found.extend(connection.execute(_DEPENDENTS_OF, names | {"b_joins": part}))
    return _in_order(found)


# -- the parked run ----------------------------------------------------------------------------------------------


def _wake(connection: Connection, run_id: str, run_attempt: int, ended: Sequence[Ended]) -> list[Announcement]:
    """Count a parked run's wait down, and make the run READY when it is over.

    The row of a run that a segment holds is never touched: a claim has cleared what it waited for.
    """
    if not ended:
        return []
    # Flags of older parks are stale: the newest claim number is the one that may match.
    latest = max((step.awaited_by for step in ended if step.awaited_by is not None), default=None)
    needed = sum(step.awaited_by == latest for step in ended) if latest is not None else 0
    names = {
        "b_run": run_id,
        "b_attempt": run_attempt,
        "b_ended": len(ended),
        "b_latest": latest or 0,
        "b_needed": needed,
    }
    row = _WAKE.first(connection, names)
    if row is None:
        return []
    return wake_if_over(connection, run_id, row)


def wake_if_over(connection: Connection, run_id: str, row: Any) -> list[Announcement]:
    """Make a parked run READY if what it needs is there: now if all is there, else after a grace.

    Args:
        row: The run's `WAIT_COLUMNS`; its row is locked.
    """
    all_done = row.wait_open <= 0
    needed_done = all_done or (row.wait_needed is not None and row.wait_needed <= 0)
    if not needed_done or (row.phase == Phase.READY and not all_done):
        return []
    moment = row.moment
    due_at = moment if all_done else moment + grace(row.streak_parks, moment - (row.streak_at or moment))
    lease = settings.current().lease_seconds
    announce_at = moment + lease if due_at <= moment else due_at
    # One that is due later was not announced yet: else its only message would be taken for waiting in a queue.
    announced_at = moment if due_at <= moment else None
    names = {"b_run": run_id, "b_due": due_at, "b_announce": announce_at, "b_now": announced_at}
    found = _MAKE_READY.first(connection, names)
    return [] if found.held else [replace(of_run(found), delay=max(due_at - moment, 0.0))]


def grace(parks: int, streak_seconds: float) -> float:
    """For how many seconds unfinished companions are waited for, once the needed steps are there.

    None for the first park of a streak; then as long as the streak has lasted, within `GRACE`.
    """
    if parks <= 1:
        return 0.0
    return min(max(streak_seconds, GRACE[0]), GRACE[1])


def _ended(rows: Any) -> list[Ended]:
    return [
        Ended(r.step_key, r.state_type == StateType.COMPLETED, r.wave, r.wave_index, r.wave_window, r.awaited_by)
        for r in rows
    ]


def ending_values(connection: Connection, ending: Ending) -> dict[str, Any]:
    """The columns of a step that has ended."""
    data, blob = blobs.place(connection, ending.result, ending.blob)
    return {
        "phase": Phase.DONE,
        "state_type": str(ending.state_type),
        "state_name": ending.state_name,
        "state_message": ending.message,
        "result": data,
        "result_blob": blob,
        "end_time": now(),
    } | ({"attempt": ending.attempt} if ending.attempt > 1 else {})


def ending_names(connection: Connection, claim: Claim, ending: Ending) -> dict[str, Any]:
    """The values of the parameters in a fence with `ENDING`."""
    data, blob = blobs.place(connection, ending.result, ending.blob)
    return fence_names(claim) | {
        "b_type": str(ending.state_type),
        "b_name": ending.state_name,
        "b_message": ending.message,
        "b_result": data,
        "b_blob": blob,
        "b_tries": ending.attempt,
    }


#: The columns of a claimed row that ends, for a statement that passes its fence.
ENDING: dict[str, Any] = {
    "phase": Phase.DONE.value,
    "state_type": sa.bindparam("b_type"),
    "state_name": sa.bindparam("b_name"),
    "state_message": sa.bindparam("b_message"),
    "result": sa.bindparam("b_result", type_=sa.LargeBinary),
    "result_blob": sa.bindparam("b_blob", type_=sa.String),
    "end_time": now(),
}

# Made once: building a statement costs more than running it.

_in_attempt = (steps.c.run_id == sa.bindparam("b_run"), steps.c.run_attempt == sa.bindparam("b_attempt"))
#: The ending of a claimed step, through its fence.
_tries = sa.bindparam("b_tries", type_=sa.Integer)
_COMPLETE = prepare(
    FENCE_STATEMENTS["step"]
    .values(**ENDING, attempt=sa.case((steps.c.attempt < _tries, _tries), else_=steps.c.attempt))
    .returning(*(column for column in _ENDED_COLUMNS if column is not steps.c.state_type))
)
_ANNOUNCED = {"announce_at": now() + sa.bindparam("b_lease", type_=sa.Double), "announced_at": now()}
#: The row one window further in a wave is announced.
_ADVANCE = prepare(
    sa.update(steps)
    .where(
        *_in_attempt,
        steps.c.wave == sa.bindparam("b_wave"),
        steps.c.wave_index == sa.bindparam("b_index"),
        phase_is(steps, Phase.READY),
        steps.c.announce_at.is_(None),
    )
    .values(**_ANNOUNCED)
    .returning(*STEP_COLUMNS)
)
_unannounced = (phase_is(steps, Phase.READY), steps.c.announce_at.is_(None))
#: Likewise for many, which are found, locked in the order of asking, and then announced.
_FOLLOWING = sa.select(steps.c.step_key, steps.c.sequence).where(
    *_in_attempt,
    steps.c.wave == sa.bindparam("b_wave"),
    steps.c.wave_index.in_(sa.bindparam("b_indexes", expanding=True)),
    *_unannounced,
)
_among = steps.c.step_key.in_(sa.bindparam("b_keys", expanding=True))
_LOCK = sa.select(steps.c.step_key).where(*_in_attempt, _among).order_by(steps.c.sequence).with_for_update()
_ADVANCE_MANY = (
    sa.update(steps).where(*_in_attempt, _among, *_unannounced).values(**_ANNOUNCED).returning(*STEP_COLUMNS)
)
_member_rows = sa.select(edges.c.upstream, edges.c.join_id, edges.c.target_id, edges.c.strict).where(
    edges.c.run_id == sa.bindparam("b_run"), edges.c.run_attempt == sa.bindparam("b_attempt")
)
_MEMBERS_OF = _member_rows.where(edges.c.upstream.in_(sa.bindparam("b_keys", expanding=True)))
_MEMBERS_OF_ONE = prepare(_member_rows.where(edges.c.upstream == sa.bindparam("b_key")))
_same_park = flow_runs.c.wait_claim == sa.bindparam("b_latest", type_=sa.Integer)
_WAKE = prepare(
    sa.update(flow_runs)
    .where(
        flow_runs.c.id == sa.bindparam("b_run"),
        flow_runs.c.run_attempt == sa.bindparam("b_attempt"),
        phase_is(flow_runs, Phase.WAITING, Phase.READY),
        flow_runs.c.wait_claim.is_not(None),
    )
    .values(
        wait_open=flow_runs.c.wait_open - sa.bindparam("b_ended", type_=sa.Integer),
        wait_needed=flow_runs.c.wait_needed
        - sa.case((_same_park, sa.bindparam("b_needed", type_=sa.Integer)), else_=sa.literal_column("0")),
    )
    .returning(*WAIT_COLUMNS)
)
_these_joins = (joins.c.run_id == sa.bindparam("b_run"), joins.c.run_attempt == sa.bindparam("b_attempt"))
_count_down_where = (
    sa.update(joins)
    .where(*_these_joins)
    .values(remaining=joins.c.remaining - sa.bindparam("b_ended", type_=sa.Integer))
    .returning(joins.c.join_id, joins.c.remaining, joins.c.parent_id)
)
_COUNT_DOWN = prepare(_count_down_where.where(joins.c.join_id == sa.bindparam("b_join")))
_among_joins = joins.c.join_id.in_(sa.bindparam("b_joins", expanding=True))
_COUNT_DOWN_MANY = _count_down_where.where(_among_joins)


@functools.cache
def _lock_joins(dialect: str) -> Any:
    """Locks joins in the order in which Python sorts their names, whatever the database's language."""
    order = sa.collate(joins.c.join_id, "C") if dialect == "postgresql" else joins.c.join_id
    return sa.select(joins.c.join_id).where(*_these_joins, _among_joins).order_by(order).with_for_update()


_for_joins = (steps.c.join_id.in_(sa.bindparam("b_joins", expanding=True)), phase_is(steps, Phase.WAITING))
_WAITING_FOR = sa.select(steps.c.step_key, steps.c.sequence).where(*_in_attempt, *_for_joins)
_LOCK_WAITING = (
    sa.select(*_ENDED_COLUMNS, steps.c.join_id)
    .where(*_in_attempt, _among, phase_is(steps, Phase.WAITING))
    .order_by(steps.c.sequence)
    .with_for_update()
)
_FAIL = prepare(sa.update(steps).where(*_in_attempt, steps.c.step_key == sa.bindparam("b_key")).values(**ENDING))
_upstream = steps.alias()
_upstream_phase = (
    sa.select(_upstream.c.phase)
    .where(
        _upstream.c.run_id == edges.c.run_id,
        _upstream.c.run_attempt == edges.c.run_attempt,
        _upstream.c.step_key == edges.c.upstream,
    )
    .correlate(edges)
    .scalar_subquery()
)
#: An upstream of a waiting step that has not ended, by the rows: a join that counted wrong starts nothing early.
#: As values, not joins: always looked up by key, never planned as a walk over all the steps of a run.
_upstream_open = (
    sa.select(edges.c.upstream)
    .where(
        edges.c.run_id == steps.c.run_id,
        edges.c.run_attempt == steps.c.run_attempt,
        edges.c.target_id == steps.c.join_id,
        _upstream_phase != sa.literal_column(f"'{Phase.DONE}'"),
    )
    .limit(1)
    .correlate(steps)
    .scalar_subquery()
)
_let_go_of = sa.select(steps.c.step_key, steps.c.sequence).where(
    *_in_attempt, phase_is(steps, Phase.WAITING), _upstream_open.is_(None)
)
_DEPENDENTS = prepare(_let_go_of.where(steps.c.join_id == sa.bindparam("b_join")))
_DEPENDENTS_OF = _let_go_of.where(steps.c.join_id.in_(sa.bindparam("b_joins", expanding=True)))
_MAKE_READY = prepare(
    sa.update(flow_runs)
    .where(flow_runs.c.id == sa.bindparam("b_run"))
    .values(
        phase=Phase.READY.value,
        due_at=sa.bindparam("b_due", type_=sa.Double),
        announce_at=sa.bindparam("b_announce", type_=sa.Double),
        announced_at=sa.bindparam("b_now", type_=sa.Double),
    )
    .returning(*RUN_COLUMNS, flow_runs.c.held)
)
