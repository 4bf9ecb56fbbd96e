"""Slots of runs of deployments: how many may be at work at once, of a deployment, a work pool, and a work queue.

A run asks when it is claimed. It goes on, or gives its worker slot back and waits, held, until whoever frees a slot
lets it go on: by the priority of its work queue, then by when it was to start. What waits for a paused pool waits in
the same line.

A row counts while its run's attempt goes on, and that is read from the run's own row: a run that ends, or whose next
attempt is due later, has freed its slot by that. A parked run keeps its slot. One whose lease has lapsed loses it as
soon as another waits for it, and asks again.

One lock, taken before any row, orders all who ask for slots or hand them on. A crash between the end of a run and the
handing on costs a sweep, as with an announcement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import settings
from orchestra.errors import ClaimLost
from orchestra.failpoints import failpoint
from orchestra.names import pool_of
from orchestra.states import StateType
from orchestra.store import history, leaders
from orchestra.store.announcements import Announcement
from orchestra.store.claims import Claim, held, is_released, name_of
from orchestra.store.database import Database, insert, now
from orchestra.store.interventions import NO_SLOT, release
from orchestra.store.tables import (
    Phase,
    deployments,
    flow_runs,
    phase_is,
    phase_is_not,
    run_slots,
    work_pools,
    work_queues,
)
from orchestra.store.workers import live_queues

#: What those who wait are shown as.
AWAITING = "AwaitingConcurrencySlot"
#: Those who wait looked at in one go, and most of them let go on in one transaction.
_PAGE, _MOST_GRANTS = 100, 200
#: When the message of one that waits is looked at though nobody has let it go on, in seconds.
_LONGEST_WAIT = 24 * 3600.0

#: What a limit is of: ("deployment", id), ("pool", name) or ("queue", pool, name).
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gate:
    """What holds for a run of a deployment."""

    #: The work pool or work queue that is paused, in words.
    paused: str | None
    #: How many runs may be at work at once, of what.
    limits: Mapping[Key, int]
    #: In words.
    names: Mapping[Key, str]
    #: One more than its deployment's limit allows is cancelled.
    cancels_new: bool
    #: It has a slot of each.
    holds: bool
    #: Another work queue of its pool is served before its own.
    is_outranked: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of asking."""

    #: It may go on.
    granted: bool
    #: Why not: for people.
    reason: str = ""
    #: What it is shown as.
    shown: str = AWAITING
    #: It is not to wait, but to be cancelled.
    refused: bool = False
    #: What to announce.
    announcements: list[Announcement] = field(default_factory=list)


def gate(database: Database, run: Mapping[str, Any]) -> Gate:
    """What holds for a run, given its row."""
    return database.read(lambda connection: _gate(connection, run))


def ask(database: Database, claim: Claim, run: Mapping[str, Any], *, begun: bool) -> Asked:
    """Take a slot of each limit that holds for a claimed run; else give its claim up, and let it wait in line.

    In one transaction: a crash before leaves a claim that lapses, and a run that asks again. Repeating it is safe.

    Args:
        claim: On the run.
        run: Its row.
        begun: Its body was called before: neither a pause holds it back, nor is it cancelled for a limit.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """

    def work(connection: Connection) -> Asked:
        _lock(connection)
        found = _gate(connection, run)
        if found.holds:
            return Asked(True)
        if is_released(connection, claim, Phase.READY):
            return Asked(False)
        connection.execute(_keep(connection, taken_at=None), _line_row(run))
        taken = _taken(connection, run["id"])
        announcements = [] if _none_free(found.limits, taken) else _grant(connection, taken, run["id"], begun=begun)
        if _gate(connection, run).holds:
            return Asked(True, announcements=announcements)
        deployment = ("deployment", run["deployment_id"])
        is_full = taken[deployment] >= found.limits.get(deployment, taken[deployment] + 1)
        if is_full and found.cancels_new and not begun:
            connection.execute(_of(run["id"], sa.delete(run_slots)))
            return Asked(False, _refusal(found, deployment), refused=True, announcements=announcements)
        paused = None if begun else found.paused
        reason = f"{paused} is paused" if paused else _reason(found, taken)
        shown = "Scheduled" if paused else AWAITING
        # One that is being cancelled since has its claim still, and ends under it.
        is_set_back = _set_back(connection, claim, reason, begun=begun, shown=shown)
        return Asked(not is_set_back, reason, shown, announcements=announcements)

    failpoint("before_run_slot")
    asked = database.write(work)
    failpoint("after_run_slot")
    return asked


def leave(database: Database, run_id: str) -> list[Announcement]:
    """Hand the slot of a run on that has ended, or whose attempt has; what to announce. Safe to repeat.

    A run that goes on keeps it.
    """
    return _drop(database, run_id, sa.exists().where(flow_runs.c.id == run_slots.c.run_id, _is_over))


def give_up(database: Database, claim: Claim) -> list[Announcement]:
    """Give up the slot of a claimed run, which asks again when it is claimed next; what to announce.

    While the claim holds: whoever has claimed it since goes on with the slot.
    """
    return _drop(database, claim.run_id, sa.exists().where(*held(claim)))


def _drop(database: Database, run_id: str, condition: sa.ColumnElement[bool]) -> list[Announcement]:
    mine = _of(run_id, sa.select(run_slots.c.run_id)).where(condition)
    if database.read(lambda connection: connection.execute(mine).first()) is None:
        return []
    statement = _of(run_id, sa.delete(run_slots)).where(condition)
    database.write(lambda connection: connection.execute(statement).rowcount)
    return serve(database)


def serve(database: Database, *, expire: bool = False) -> list[Announcement]:
    """Let those go on for whom there is a slot, and whose pool is not paused; what to announce. Safe to repeat.

    Args:
        expire: First take the slots of those whose lease has lapsed; not for a lease after the database was away.
    """
    announcements: list[Announcement] = []
    while database.read(lambda connection: connection.execute(_WAITING).first()) is not None:
        failpoint("before_run_grant")
        granted = database.write(lambda connection: _serve(connection, expire))
        failpoint("after_run_grant")
        announcements += granted
        if len(granted) < _MOST_GRANTS:
            break
    return announcements


def adopt(database: Database) -> None:
    """Give a slot to every run of a deployment that is at work without one: it began when nothing limited it.

    Before and after a limit is set: what is claimed meanwhile goes by the limit there was, or by the new one. Safe to
    repeat.
    """

    def work(connection: Connection) -> None:
        _lock(connection)
        rows = [_line_row(row) for query in _AT_WORK_WITHOUT for row in _mappings(connection, query)]
        if rows:
            connection.execute(_keep(connection, taken_at=now()), rows)

    database.write(work)


def show_as_awaiting(database: Database) -> None:
    """Show those that a pause held back as waiting for a slot, where that pause is over. Safe to repeat."""
    values = {"state_name": AWAITING, "state_message": "waits for a slot of its deployment, work pool or work queue"}
    if database.read(lambda connection: connection.execute(_SHOWN_AS_PAUSED.limit(1)).first()) is not None:
        statement = sa.update(flow_runs).where(flow_runs.c.id.in_(_SHOWN_AS_PAUSED)).values(values)

        def work(connection: Connection) -> None:
            connection.execute(statement)
            in_line = flow_runs.c.id.in_(sa.select(run_slots.c.run_id))
            history.record_run(connection, in_line, flow_runs.c.state_name == AWAITING)

        database.write(work)


def purge(database: Database) -> int:
    """Delete the rows of runs, or of attempts, that have ended; returns how many. Safe to repeat."""
    over = sa.select(run_slots.c.run_id).join(flow_runs, flow_runs.c.id == run_slots.c.run_id).where(_is_over)
    if database.read(lambda connection: connection.execute(over.limit(1)).first()) is None:
        return 0
    statement = sa.delete(run_slots).where(run_slots.c.run_id.in_(over))
    return database.write(lambda connection: connection.execute(statement).rowcount)


# -- within the lock ---------------------------------------------------------------------------------------------


def _lock(connection: Connection) -> None:
    """Keep others from asking and handing on until this transaction ends; on SQLite its writer's lock does that."""
    if connection.dialect.name == "postgresql":
        connection.execute(_ADVISORY)


def _serve(connection: Connection, expire: bool) -> list[Announcement]:
    _lock(connection)
    if expire and leaders.may_expire(connection, settings.current().lease_seconds):
        names = {"b_lease": settings.current().lease_seconds, "b_live": sorted(live_queues(connection))}
        connection.execute(_EXPIRE, names)
    return _grant(connection, _taken(connection))


def _grant(
    connection: Connection, taken: Counter[Key], asking: str | None = None, *, begun: bool = False
) -> list[Announcement]:
    """Let the first ones of the line go on, as far as there are slots; what to announce.

    Args:
        connection: Under the lock.
        taken: How many have a slot, of what; those that go on are added.
        asking: The run that asks under its claim; it takes its slot and goes on by itself.
        begun: Whether that one's body was called before.
    """
    full: set[Key] = set()
    announcements: list[Announcement] = []
    live = sorted(live_queues(connection))
    while rows := connection.execute(_line(asking, begun, live, full).limit(_PAGE)).all():
        for row in rows:
            if none_free := _none_free(_limits(row), taken):
                full.update(none_free)
                continue
            if row.run_id != asking:
                if not _still_waits(connection, row.run_id):
                    continue
                announcements += release(connection, row.run_id)
            taken.update(_keys(row))
            connection.execute(_of(row.run_id, sa.update(run_slots)).values(taken_at=now()))
        if len(rows) < _PAGE or len(announcements) >= _MOST_GRANTS:
            break
    return announcements


def _none_free(limits: Mapping[Key, int], taken: Mapping[Key, int]) -> list[Key]:
    """Of these limits, those that have no slot left."""
    return [key for key, limit in limits.items() if taken[key] >= limit]


def _still_waits(connection: Connection, run_id: str) -> bool:
    """Whether nobody has paused or cancelled a run since it was read; from here on nobody does."""
    same = (flow_runs.c.id == run_id, phase_is(flow_runs, Phase.READY), flow_runs.c.held == NO_SLOT)
    return connection.execute(sa.select(flow_runs.c.id).where(*same).with_for_update()).first() is not None


def _taken(connection: Connection, asking: str | None = None) -> Counter[Key]:
    """How many have a slot, of each deployment, pool and queue, but for the one that asks."""
    query = _COUNT.where(run_slots.c.run_id != asking) if asking is not None else _COUNT
    found: Counter[Key] = Counter()
    for row in connection.execute(query):
        for key in _keys(row):
            found[key] += row.number
    return found


def _mappings(connection: Connection, query: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query).mappings()]


def _keep(connection: Connection, *, taken_at: Any) -> Any:
    """The statement that writes rows of `_line_row`, in place of those of earlier attempts."""
    statement = insert(connection, run_slots).values(taken_at=taken_at, created_at=now())
    changed = ("run_attempt", "deployment_id", "pool_name", "queue_name", "order_at", "taken_at", "created_at")
    values = {name: statement.excluded[name] for name in changed}
    return statement.on_conflict_do_update(index_elements=[run_slots.c.run_id], set_=values)


def _line_row(run: Mapping[str, Any]) -> dict[str, Any]:
    """What the row of a run says of it."""
    pool, queue = pool_of(run["queue"] or "")
    return {
        "run_id": run["id"],
        "run_attempt": run["run_attempt"],
        "deployment_id": run["deployment_id"],
        "pool_name": pool,
        "queue_name": queue,
        "order_at": run["scheduled_at"] or run["created_at"],
    }


def _set_back(connection: Connection, claim: Claim, reason: str, *, begun: bool, shown: str) -> bool:
    """Give the claim up: the run is held until it is its turn. False where it is being cancelled: nothing is written.

    Not by the fence, which would count the lapses of a run anew that has not got on.
    """
    values: dict[str, Any] = {
        "phase": Phase.READY,
        "held": NO_SLOT,
        "announce_at": now() + _LONGEST_WAIT,
        "announced_at": None,
        "state_type": StateType.SCHEDULED.value,
        "state_name": shown,
        "state_message": reason,
    }
    if not begun:
        values |= {"start_time": None, "deadline_at": None}
    statement = sa.update(flow_runs).where(*held(claim), flow_runs.c.state_type != StateType.CANCELLING.value)
    if connection.execute(statement.values(**values)).rowcount == 1:
        history.record_run(connection, flow_runs.c.id == claim.run_id)
        return True
    if connection.execute(sa.select(flow_runs.c.id).where(*held(claim))).first() is None:
        raise ClaimLost(f"the claim {claim.number} on {name_of(claim)} was taken over")
    claim.cancelled = True
    return False


def _gate(connection: Connection, run: Mapping[str, Any]) -> Gate:
    pool, queue = pool_of(run["queue"] or "")
    values = {"b_run": run["id"], "b_deployment": run["deployment_id"], "b_pool": pool, "b_queue": queue}
    row = connection.execute(_GATE, values).one()
    names = {
        ("deployment", run["deployment_id"]): f"deployment '{row.flow_name}/{row.deployment_name}'",
        ("pool", pool): f"work pool {pool!r}",
        ("queue", pool, queue): f"work queue {queue!r} of work pool {pool!r}",
    }
    keys = list(names)
    paused = keys[1] if row.pool_paused else keys[2] if row.queue_paused else None
    return Gate(
        paused=None if paused is None else names[paused],
        limits=_limits_of(keys, row),
        names=names,
        cancels_new=row.collision_strategy == "CANCEL_NEW",
        holds=row.taken_at is not None and row.slot_attempt == run["run_attempt"],
        is_outranked=bool(row.is_outranked),
    )


def _keys(row: Any) -> list[Key]:
    """What a row of the line is of."""
    return [("deployment", row.deployment_id), ("pool", row.pool_name), ("queue", row.pool_name, row.queue_name)]


def _limits(row: Any) -> dict[Key, int]:
    return _limits_of(_keys(row), row)


def _limits_of(keys: list[Key], row: Any) -> dict[Key, int]:
    given = (row.deployment_limit, row.pool_limit, row.queue_limit)
    return {key: limit for key, limit in zip(keys, given, strict=True) if limit is not None}


def _reason(found: Gate, taken: Mapping[Key, int]) -> str:
    """Why a run waits, for people."""
    told = [f"{found.names[key]}, which has {found.limits[key]}" for key in _none_free(found.limits, taken)]
    return f"waits for a slot of {' and of '.join(told)}" if told else "waits for its turn"


def _refusal(found: Gate, key: Key) -> str:
    limit = found.limits[key]
    runs = "one run is" if limit == 1 else f"{limit} runs are"
    return (
        f"cancelled, as {runs} at work of {found.names[key]} already: that is its concurrency limit, and its collision "
        "strategy CANCEL_NEW"
    )


# -- the statements ----------------------------------------------------------------------------------------------


def _of(run_id: str, statement: Any) -> Any:
    return statement.where(run_slots.c.run_id == run_id)


_same_attempt = flow_runs.c.run_attempt == run_slots.c.run_attempt
_is_over = sa.or_(phase_is(flow_runs, Phase.DONE), ~_same_attempt)
_is_at_work = sa.and_(phase_is(flow_runs, Phase.CLAIMED), flow_runs.c.lease_until > now())
#: Whether a row takes a slot. One that has lost it and whose worker has come to life again is at work all the same.
has_slot = sa.and_(
    _same_attempt, phase_is_not(flow_runs, Phase.DONE), sa.or_(run_slots.c.taken_at.is_not(None), _is_at_work)
)
#: Whether a row waits in line.
waits = sa.and_(
    _same_attempt, run_slots.c.taken_at.is_(None), phase_is(flow_runs, Phase.READY), flow_runs.c.held == NO_SLOT
)
_is_paused = sa.or_(
    sa.func.coalesce(work_pools.c.paused, sa.false()), sa.func.coalesce(work_queues.c.paused, sa.false())
)
_pool_of_row = work_pools.c.name == run_slots.c.pool_name
_queue_of_row = sa.and_(work_queues.c.pool_id == work_pools.c.id, work_queues.c.name == run_slots.c.queue_name)
_LIMITS = (
    deployments.c.concurrency_limit.label("deployment_limit"),
    work_pools.c.concurrency_limit.label("pool_limit"),
    work_queues.c.concurrency_limit.label("queue_limit"),
)
_priority = sa.func.coalesce(work_queues.c.priority, 1)
_other = work_queues.alias("other")


def _line(asking: str | None, begun: bool, live: list[str], full: set[Key]) -> Any:
    """Those who wait, the first first, but for those of what is full, is paused, or has no worker that lives."""
    query = (
        sa.select(
            run_slots.c.run_id, run_slots.c.deployment_id, run_slots.c.pool_name, run_slots.c.queue_name, *_LIMITS
        )
        .join_from(run_slots, flow_runs, flow_runs.c.id == run_slots.c.run_id)
        .outerjoin(deployments, deployments.c.id == run_slots.c.deployment_id)
        .outerjoin(work_pools, _pool_of_row)
        .outerjoin(work_queues, _queue_of_row)
        .order_by(_priority, run_slots.c.order_at, run_slots.c.run_id)
    )
    # One that has begun goes on, even in a paused pool.
    turn = sa.and_(waits, flow_runs.c.queue.in_(live), sa.or_(flow_runs.c.start_time.is_not(None), ~_is_paused))
    if asking is not None:
        mine = sa.and_(run_slots.c.run_id == asking, run_slots.c.taken_at.is_(None))
        turn = sa.or_(turn, mine if begun else sa.and_(mine, ~_is_paused))
    return query.where(turn, *_not_of(full))


def _not_of(full: set[Key]) -> Iterator[sa.ColumnElement[bool]]:
    of = {kind: sorted(key[1:] for key in full if key[0] == kind) for kind in ("deployment", "pool", "queue")}
    column = run_slots.c
    if of["deployment"]:
        yield column.deployment_id.not_in([key[0] for key in of["deployment"]])
    if of["pool"]:
        yield column.pool_name.not_in([key[0] for key in of["pool"]])
    if of["queue"]:
        yield sa.tuple_(column.pool_name, column.queue_name).not_in(of["queue"])


_ADVISORY = sa.text("SELECT pg_advisory_xact_lock(hashtextextended('orchestra/run_slots', 0))")
_WAITING = sa.select(run_slots.c.run_id).join(flow_runs, flow_runs.c.id == run_slots.c.run_id).where(waits).limit(1)
_SHOWN_AS_PAUSED = (
    sa.select(flow_runs.c.id)
    .join_from(run_slots, flow_runs, flow_runs.c.id == run_slots.c.run_id)
    .outerjoin(work_pools, _pool_of_row)
    .outerjoin(work_queues, _queue_of_row)
    .where(waits, flow_runs.c.state_name == "Scheduled", ~_is_paused)
)
_COUNT = (
    sa.select(run_slots.c.deployment_id, run_slots.c.pool_name, run_slots.c.queue_name, sa.func.count().label("number"))
    .join_from(run_slots, flow_runs, flow_runs.c.id == run_slots.c.run_id)
    .where(has_slot)
    .group_by(run_slots.c.deployment_id, run_slots.c.pool_name, run_slots.c.queue_name)
)
#: Of those who have a slot: their worker has died, or none is left that could go on with them.
_has_lapsed = sa.or_(
    sa.and_(phase_is(flow_runs, Phase.CLAIMED), flow_runs.c.lease_until < now()),
    sa.and_(
        phase_is(flow_runs, Phase.READY),
        flow_runs.c.due_at < now() - sa.bindparam("b_lease", type_=sa.Double),
        flow_runs.c.queue.not_in(sa.bindparam("b_live", expanding=True)),
    ),
)
_EXPIRE = (
    sa.update(run_slots)
    .where(
        run_slots.c.taken_at.is_not(None),
        run_slots.c.run_id.in_(
            sa.select(flow_runs.c.id).where(flow_runs.c.id == run_slots.c.run_id, _has_lapsed).correlate(run_slots)
        ),
    )
    .values(taken_at=None)
)
_GATE = sa.select(
    *_LIMITS,
    deployments.c.flow_name,
    deployments.c.name.label("deployment_name"),
    deployments.c.collision_strategy,
    work_pools.c.paused.label("pool_paused"),
    work_queues.c.paused.label("queue_paused"),
    run_slots.c.taken_at,
    run_slots.c.run_attempt.label("slot_attempt"),
    sa.exists()
    .where(_other.c.pool_id == work_pools.c.id, _other.c.priority < _priority)
    .correlate(work_pools, work_queues)
    .label("is_outranked"),
).select_from(
    sa.select(sa.literal(1).label("one"))
    .subquery()
    .outerjoin(deployments, deployments.c.id == sa.bindparam("b_deployment"))
    .outerjoin(work_pools, work_pools.c.name == sa.bindparam("b_pool"))
    .outerjoin(
        work_queues,
        sa.and_(work_queues.c.pool_id == work_pools.c.id, work_queues.c.name == sa.bindparam("b_queue")),
    )
    .outerjoin(run_slots, run_slots.c.run_id == sa.bindparam("b_run"))
)
_AT_WORK_WITHOUT = [
    sa.select(flow_runs)
    .outerjoin(run_slots, sa.and_(run_slots.c.run_id == flow_runs.c.id, _same_attempt))
    .where(
        # One query of each phase, for which there is an index.
        phase_is(flow_runs, phase),
        flow_runs.c.deployment_id.is_not(None),
        flow_runs.c.start_time.is_not(None),
        sa.or_(flow_runs.c.held.is_(None), flow_runs.c.held != NO_SLOT),
        run_slots.c.run_id.is_(None),
    )
    for phase in (Phase.CLAIMED, Phase.WAITING, Phase.READY)
]
