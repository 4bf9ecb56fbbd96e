"""Slots of limits: who has some, and who waits for some, the first first.

A row of `slots` counts while its owner lives, and that is read from the owner's own row: a step's slots go when its
claim does, a flow body's when its run ends, a process's when its lease is over. So there is no counter to drift, and
nothing has to be given back by a transaction that ends an owner: by ending it, it has freed the slots.

A limit's lock (its row; for a lock without a row an advisory lock) is taken before any other: nothing that holds the
row of a run or step asks for one. Whoever frees slots hands them on by `release` or `serve` right after its own
transaction. A crash between costs a sweep, as with an announcement.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import identifiers, serializers, settings
from orchestra.errors import ClaimLost, ConcurrencySlotAcquisitionError
from orchestra.failpoints import failpoint
from orchestra.questions import LOCK as LOCK
from orchestra.states import StateType
from orchestra.store.announcements import STEP_COLUMNS, Announcement, of_step
from orchestra.store.claims import NOT_BEGUN, Claim, fence, is_released
from orchestra.store.database import Database, now
from orchestra.store.journal import Ending
from orchestra.store.prepared import prepare
from orchestra.store.settle import complete_open, set_back
from orchestra.store.tables import Phase, concurrency_limits, flow_runs, slots, steps
from orchestra.store.wake import SLOT, note

#: For how long the slots that were given to a waiting step are kept until a worker claims it, in seconds.
KEPT = 300.0
#: When a step that waits for slots is looked at even if nobody has called it, in seconds.
LONGEST_WAIT = 24 * 3600.0


class Owner(enum.StrEnum):
    """By what it is told that a holder lives."""

    #: The lease of its row.
    PROCESS = "process"
    #: The claim on the flow run inside whose segment it runs.
    SEGMENT = "segment"
    #: The claim on the step; without a claim number, that the step waits to be claimed.
    STEP = "step"
    #: That the flow run has not ended: the body holds them, parked or not.
    RUN = "run"


@dataclass(frozen=True, slots=True)
class Holder:
    """What takes slots, or waits for them. The same one may ask again, and has what it had."""

    #: Its name, by which it asks again.
    key: str
    kind: Owner
    #: The process that asks.
    owner: str
    run_id: str | None = None
    run_attempt: int | None = None
    step_key: str | None = None
    step_id: str | None = None
    claim_number: int | None = None
    #: Of a process.
    lease_seconds: float | None = None
    #: For people; JSON.
    label: str | None = None


def of_process(token: str, *, lease_seconds: float, run_id: str | None = None, label: str | None = None) -> Holder:
    """A holder whose process renews its lease (`renew`)."""
    owner = identifiers.process()
    return Holder(f"{owner}/{token}", Owner.PROCESS, owner, run_id, lease_seconds=lease_seconds, label=label)


def of_claim(claim: Claim, purpose: str, step_key: str | None = None) -> Holder:
    """A holder that lives as long as a claim.

    Args:
        claim: On the step; or on the flow run in whose segment a step runs inline.
        purpose: What the slots are for; a step may hold some for several.
        step_key: Of the step, where the claim is the run's.
    """
    key = claim.step_key or step_key
    assert key is not None
    step_id = identifiers.step_id(claim.run_id, claim.run_attempt, key)
    kind = Owner.STEP if claim.kind == "step" else Owner.SEGMENT
    place = (claim.run_id, claim.run_attempt, key, step_id, claim.number)
    return Holder(f"{step_id}/{purpose}", kind, claim.owner, *place)


def of_run(claim: Claim, step_key: str) -> Holder:
    """A holder that lives as long as its flow run's attempt: the body, by the step that asked for the slots."""
    step_id = identifiers.step_id(claim.run_id, claim.run_attempt, step_key)
    place = (claim.run_id, claim.run_attempt, step_key, step_id)
    return Holder(step_id, Owner.RUN, claim.owner, *place)


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of asking for slots."""

    #: It has slots of all limits; else of none.
    granted: bool
    #: Names of which there is no limit: they limit nothing.
    missing: tuple[str, ...] = ()
    #: What to announce.
    announcements: list[Announcement] = field(default_factory=list)
    #: There are slots that nobody has handed on to those before: their owner died.
    overdue: bool = False


# -- asking ------------------------------------------------------------------------------------------------------


def acquire(
    database: Database,
    holder: Holder,
    names: Iterable[str],
    occupy: int = 1,
    *,
    wait: bool = True,
    strict: bool = False,
) -> Asked:
    """Take slots of all these limits, or of none; then `holder` waits in line, if it is to `wait`.

    Safe to repeat: who has them keeps them, who waits keeps its place. A crash before leaves nothing, one after a row
    that goes with its owner.

    Raises:
        ConcurrencySlotAcquisitionError: A limit never has so many, or (`strict`) there is none of that name.
    """
    wanted = sorted(set(names))
    failpoint("before_acquire")

    def work(connection: Connection) -> tuple[Asked, bool]:
        asked = take(connection, holder, wanted, occupy, wait=wait, strict=strict)
        if asked.granted or not wait or not asked.overdue:
            return asked, False
        more = _hand_on(connection, lock(connection, wanted))
        return Asked(holder.key in _granted(connection, [holder.key]), asked.missing), more

    asked, more = database.write(work)
    failpoint("after_acquire")
    if not more:
        return asked
    announcements = serve(database, wanted)
    return Asked(is_granted(database, holder.key), asked.missing, announcements)


def acquire_or_set_back(
    database: Database, claim: Claim, holder: Holder, names: Iterable[str], occupy: int = 1
) -> Asked:
    """As `acquire` for a claimed step; where it must wait, its claim is given up, and its turn makes it due.

    Both in one transaction: a crash leaves a step that waits in line, or one whose claim lapses and that asks again.
    What else the step has taken is kept for it.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """
    wanted = sorted(set(names))
    values = {
        "due_at": now() + LONGEST_WAIT,
        "announce_at": now() + LONGEST_WAIT,
        "state_name": "AwaitingConcurrencySlot",
        "state_message": f"waits for a slot of {', '.join(wanted)}",
        **NOT_BEGUN,
    }

    def work(connection: Connection) -> Asked:
        asked = take(connection, holder, wanted, occupy)
        if asked.granted:
            return asked
        try:
            fence(connection, claim)
        except ClaimLost:
            if is_released(connection, claim, Phase.READY, Phase.DONE):
                return asked
            raise
        ours = (slots.c.step_id == holder.step_id, slots.c.claim_number == claim.number)
        connection.execute(sa.update(slots).where(*ours).values(claim_number=None, lease_until=now() + KEPT))
        announcements = set_back(connection, claim, values, delay=LONGEST_WAIT)
        return Asked(False, asked.missing, announcements)

    failpoint("before_acquire")
    asked = database.write(work)
    failpoint("after_acquire")
    if asked.granted:
        return asked
    return Asked(False, asked.missing, asked.announcements + serve(database, wanted))


def take(
    connection: Connection,
    holder: Holder,
    names: Sequence[str],
    occupy: int = 1,
    *,
    wait: bool = True,
    strict: bool = False,
) -> Asked:
    """As `acquire`, within a transaction that has locked nothing yet: these locks come before all others.

    The caller calls `serve` after its commit, where the answer is to wait.
    """
    limits = lock(connection, names)
    missing = tuple(name for name in names if name not in limits)
    check(limits, missing if strict else (), occupy)
    wanted = [name for name in names if limits.get(name) is not None]
    mine = _ROWS.all(connection, {"b_holder": holder.key})
    places = {row.limit_name: row.id for row in mine if row.taken_at is None}
    has_had = bool(mine) and not places
    free = all(_fits(connection, holder.key, name, limits[name], occupy) for name in wanted)
    granted = free and (
        has_had or not any(_anyone_before(connection, holder.key, name, places.get(name)) for name in wanted)
    )
    if not granted and wait and set(places) == set(wanted):
        connection.execute(sa.update(slots).where(slots.c.holder == holder.key).values(**_lifeline(holder)))
        return Asked(False, missing, overdue=free)
    if mine:
        connection.execute(sa.delete(slots).where(slots.c.holder == holder.key))
    if wanted and (granted or wait):
        row = {name: getattr(holder, name) for name in _OF_HOLDER}
        row |= {"holder": holder.key, "kind": holder.kind.value, "occupy": occupy, "lease": holder.lease_seconds}
        new = _TAKES if granted else _WAITS
        new.many(connection, [{"limit_name": name, **row} for name in wanted])
    return Asked(granted, missing, overdue=free and not granted)


def lock(connection: Connection, names: Iterable[str]) -> dict[str, int | None]:
    """Lock limits, before anything else; gives how many slots each has, None where it limits nothing now.

    Names of which there is no limit are left out.
    """
    wanted = sorted(set(names))
    # One by one: in this order, whatever a plan would make of it.
    found = [row for name in wanted if (row := _LOCK.first(connection, {"b_name": name})) is not None]
    limits = _slots_of(wanted, found)
    if connection.dialect.name == "postgresql":
        for name in wanted:
            if name.startswith(LOCK):
                connection.execute(_ADVISORY, {"b_name": name})
    return limits


def _limits(connection: Connection, names: Iterable[str]) -> dict[str, int | None]:
    """As `lock`, without locking them."""
    wanted = sorted(set(names))
    return _slots_of(wanted, connection.execute(_LIMITS.where(concurrency_limits.c.name.in_(wanted))))


def _slots_of(names: Iterable[str], rows: Iterable[Any]) -> dict[str, int | None]:
    found = {row.name: row.slot_limit if row.active else None for row in rows}
    return {name: 1 for name in names if name.startswith(LOCK)} | found


def check(limits: Mapping[str, int | None], missing: Sequence[str], occupy: int) -> None:
    """Refuse what can never be had.

    Raises:
        ConcurrencySlotAcquisitionError: Says what to do.
    """
    if missing:
        raise ConcurrencySlotAcquisitionError(
            f"there is no concurrency limit {missing[0]!r}: create it by "
            f"`orchestra gcl create {missing[0]} --limit N`, or leave strict=True out"
        )
    for name, limit in limits.items():
        # One of 0 holds everybody until it is raised.
        if limit is not None and 0 < limit < occupy:
            raise ConcurrencySlotAcquisitionError(
                f"occupy={occupy} is more than the concurrency limit {name!r} has, which is {limit}: ask for fewer, "
                f"or raise it by `orchestra gcl update {name} --limit {occupy}`"
            )


def _lifeline(holder: Holder) -> dict[str, Any]:
    """The columns by which it is told that the holder lives."""
    lease = holder.lease_seconds
    return {
        "kind": holder.kind.value,
        "owner": holder.owner,
        "run_id": holder.run_id,
        "run_attempt": holder.run_attempt,
        "step_key": holder.step_key,
        "step_id": holder.step_id,
        "claim_number": holder.claim_number,
        "lease_until": None if lease is None else now() + lease,
    }


def _fits(connection: Connection, holder: str, name: str, limit: int | None, occupy: int) -> bool:
    """Whether so many slots of a locked limit are free, those that the holder has counted as free."""
    if limit is None:
        return True
    return taken(connection, name, but=holder) + occupy <= limit


def taken(connection: Connection, name: str, but: str = "") -> int:
    """How many slots of a limit are taken, without those of one holder."""
    return int(_TAKEN.first(connection, {"b_name": name, "b_holder": but}).number or 0)


def _anyone_before(connection: Connection, holder: str, name: str, place: int | None) -> bool:
    """Whether another one waits for the limit, before this `place` in the line (None: behind it).

    One who asks for more than there is, as a limit was lowered meanwhile, keeps its place, but nobody waits for it.
    """
    names = {"b_name": name, "b_holder": holder, "b_place": place if place is not None else 2**62}
    return _BEFORE.first(connection, names) is not None


# -- handing on --------------------------------------------------------------------------------------------------


def release(database: Database, *holders: Holder) -> list[Announcement]:
    """Give slots, or places in the line, back and hand them on; returns what to announce.

    Safe to repeat; what another claim has taken over stays. A crash before leaves what goes with its owner.
    """

    def work(connection: Connection) -> list[str]:
        names = sorted({row.limit_name for each in holders for row in _ROWS.all(connection, {"b_holder": each.key})})
        limits = lock(connection, names) if names else {}
        for each in holders:
            drop(connection, each)
        # A name without a limit any more is open to all.
        return names if names and _hand_on(connection, dict.fromkeys(names) | limits) else []

    failpoint("before_release")
    left = database.write(work)
    failpoint("after_release")
    return serve(database, left)


def drop(connection: Connection, holder: Holder) -> list[str]:
    """Delete a holder's rows, within a transaction after which `serve` is called; returns the limits they are of."""
    this = {"b_holder": holder.key, "b_number": holder.claim_number}
    return [row.limit_name for row in _DROP.all(connection, this)]


def _hand_on(connection: Connection, limits: Mapping[str, int | None]) -> bool:
    """Let in whose turn it is, under the locks of these limits; whether `serve` is to go on after the commit.

    It goes on where the next one waits for other limits as well, or is a step, whose row would have to be locked.
    """
    while rows := _next(connection, sorted(limits), set(), limits):
        if not limits.keys() >= {row.limit_name for row in rows} or _waits_as_step(rows[0]):
            return True
        _mark_taken(connection, rows[0].holder)
    return False


def _waits_as_step(row: Any) -> bool:
    """Whether a waiting holder is a step that nobody works on: to let it in is to let the step go on."""
    return bool(row.kind == Owner.RUN or (row.kind == Owner.STEP and row.claim_number is None))


def serve(database: Database, names: Iterable[str]) -> list[Announcement]:
    """Give what is free of these limits to those who wait, first come first served; returns what to announce.

    Each is served in a transaction of its own. A crash between costs a sweep.
    """
    announcements: list[Announcement] = []
    refused: set[str] = set()
    wanted = sorted(set(names))
    while wanted and (rows := database.read(lambda connection: _next(connection, wanted, refused))):
        holder = rows[0].holder
        failpoint("before_grant")
        granted = database.write(partial(_grant, holder=holder))
        failpoint("after_grant")
        if granted is None:
            # Somebody was faster; who holds the slots now hands them on.
            refused.add(holder)
        else:
            announcements += granted
    return announcements


def _next(
    connection: Connection, names: Sequence[str], refused: set[str], limits: Mapping[str, int | None] | None = None
) -> list[Any]:
    """The rows of the first one in a line that can be let in; none, where there is none.

    Args:
        limits: How many slots each limit has, where that is known; else it is read.
    """
    for name in names:
        head = _BEFORE.first(connection, {"b_name": name, "b_holder": "", "b_place": 2**62})
        if head is None or head.holder in refused:
            continue
        rows = _ROWS.all(connection, {"b_holder": head.holder})
        wanted = [row.limit_name for row in rows]
        known = limits if limits is not None and limits.keys() >= set(wanted) else _limits(connection, wanted)
        if _is_next(connection, rows, known, name):
            return list(rows)
    return []


def _is_next(
    connection: Connection, rows: Sequence[Any], limits: Mapping[str, int | None], leads: str | None = None
) -> bool:
    """Whether a waiting holder, by its rows, is first in each of its lines, and enough is free there.

    A limit that was deleted, or limits nothing now, is open to all.

    Args:
        leads: The line in which it is known to be the first.
    """
    return bool(rows) and all(
        row.taken_at is None
        and (
            limits.get(row.limit_name) is None
            or (
                _fits(connection, row.holder, row.limit_name, limits[row.limit_name], row.occupy)
                and (row.limit_name == leads or not _anyone_before(connection, row.holder, row.limit_name, row.id))
            )
        )
        for row in rows
    )


def _grant(connection: Connection, holder: str) -> list[Announcement] | None:
    """Give a waiting holder its slots, under the locks; None where it does not wait any more, or others are first."""
    mine = sa.select(slots).where(slots.c.holder == holder)
    limits = lock(connection, [row.limit_name for row in connection.execute(mine)])
    rows = connection.execute(mine).all()
    if not _is_next(connection, rows, limits):
        return None
    if not _waits_as_step(rows[0]):
        _mark_taken(connection, holder)
        return []
    give = _give_to_run if rows[0].kind == Owner.RUN else _give_to_step
    return give(connection, rows[0])


def _give_to_run(connection: Connection, row: Any) -> list[Announcement]:
    """End the step at which a flow body waits: the run has the slots. Its step's row is locked before the slot's."""
    phase = sa.select(steps.c.phase).where(steps.c.id == row.step_id).with_for_update()
    if connection.scalar(phase) in (None, Phase.DONE):
        connection.execute(sa.delete(slots).where(slots.c.holder == row.holder))
        return []
    _mark_taken(connection, row.holder)
    return complete_open(connection, row.run_id, row.run_attempt, [row.step_key], ACQUIRED)


def _give_to_step(connection: Connection, row: Any) -> list[Announcement]:
    """Let a step that waits in line be claimed, and keep the slots for it."""
    lease = settings.current().lease_seconds
    statement = (
        sa.update(steps)
        .where(steps.c.id == row.step_id, steps.c.phase == Phase.READY)
        .values(due_at=now(), announce_at=now() + lease, announced_at=now())
        .returning(*STEP_COLUMNS)
    )
    found = [of_step(each) for each in connection.execute(statement)]
    _mark_taken(connection, row.holder, lease_until=now() + KEPT)
    return found


def _mark_taken(connection: Connection, holder: str, **values: Any) -> None:
    connection.execute(sa.update(slots).where(slots.c.holder == holder).values(taken_at=now(), **values))
    note(connection, SLOT, holder)


def lines_beside(database: Database, name: str) -> list[str]:
    """A limit, and those for which its waiters wait as well: a change of the one may let others go on in these."""
    its = sa.select(slots.c.holder).where(slots.c.limit_name == name, slots.c.taken_at.is_(None))
    query = sa.select(slots.c.limit_name).where(slots.c.holder.in_(its)).distinct()
    return sorted({name} | database.read(lambda connection: set(connection.scalars(query))))


# -- owners ------------------------------------------------------------------------------------------------------


def is_granted(database: Database, holder: str) -> bool:
    """Whether a holder has what it asked for."""
    return bool(granted(database, [holder]))


def granted(database: Database, holders: Sequence[str]) -> set[str]:
    """Those of these holders, by their keys, that have what they asked for."""
    return database.read(lambda connection: _granted(connection, holders))


def _granted(connection: Connection, holders: Sequence[str]) -> set[str]:
    query = sa.select(slots.c.holder).where(slots.c.holder.in_(holders), slots.c.taken_at.is_not(None))
    return set(connection.scalars(query))


def renew(database: Database, holders: Mapping[str, float]) -> set[str]:
    """Hold the slots, or the places, of processes for so many seconds more; gives the keys whose lease was over."""

    def work(connection: Connection) -> set[str]:
        lost = set()
        for key, seconds in sorted(holders.items()):
            ours = (slots.c.holder == key, slots.c.lease_until > now())
            if connection.execute(sa.update(slots).where(*ours).values(lease_until=now() + seconds)).rowcount == 0:
                lost.add(key)
        return lost

    return database.write(work)


def sweep(database: Database, is_dead: Callable[[str], bool] = identifiers.is_dead_here) -> list[Announcement]:
    """Hand on what nobody has: slots of dead processes, and those whose owner ended without a word. Safe to repeat.

    Args:
        is_dead: Tells of a process's name that it is dead for sure; another one's lease must be over.
    """
    names = database.read(lambda connection: set(connection.scalars(_WAITED_FOR)))
    if not names:
        return []
    expire_dead(database, names, is_dead)
    return serve(database, names)


def expire_dead(
    database: Database, names: Iterable[str], is_dead: Callable[[str], bool] = identifiers.is_dead_here
) -> None:
    """Let the leases lapse of dead processes that hold slots of these limits, or wait for them."""
    wanted = sorted(set(names))
    query = sa.select(slots.c.owner).where(slots.c.limit_name.in_(wanted), slots.c.kind == Owner.PROCESS.value)
    owners = database.read(lambda connection: set(connection.scalars(query.distinct())))
    if dead := sorted(filter(is_dead, owners)):
        lapsed = sa.update(slots).where(slots.c.owner.in_(dead), slots.c.kind == Owner.PROCESS.value)
        database.write(lambda connection: connection.execute(lapsed.values(lease_until=0.0)).rowcount)


def purge(database: Database) -> int:
    """Delete the rows of owners that are gone, which count nowhere any more; returns how many. Safe to repeat."""
    dead = database.read(lambda connection: connection.execute(_DEAD).all())
    if not dead:
        return 0

    def work(connection: Connection) -> int:
        # Under the locks: one that is retaken just now is dead no more.
        lock(connection, {row.limit_name for row in dead})
        still = [row.id for row in connection.execute(_DEAD)]
        return connection.execute(sa.delete(slots).where(slots.c.id.in_(still))).rowcount

    return database.write(work)


def count(connection: Connection) -> dict[tuple[str, bool], tuple[int, int]]:
    """Of each limit, and whether they have slots or wait: how many that live, and how many slots they stand for."""
    return {(row.limit_name, bool(row.has_them)): (row.holders, row.sum) for row in connection.execute(_COUNT)}


def living(connection: Connection, name: str, limit: int) -> list[Any]:
    """The rows of a limit that count: who has slots, then who waits, in their order; with the names of their runs."""
    query = (
        sa.select(slots, flow_runs.c.name.label("run_name"), steps.c.name.label("step_name"))
        .select_from(_owners)
        .where(slots.c.limit_name == name, _lives)
        .order_by(slots.c.taken_at.is_(None), slots.c.id)
    )
    return list(connection.execute(query.limit(limit)))


#: How the step ends at which a flow body waits for slots.
ACQUIRED = Ending(StateType.COMPLETED, "Completed", result=serializers.encode(True))

_LIMITS = sa.select(concurrency_limits.c.name, concurrency_limits.c.slot_limit, concurrency_limits.c.active)
_LOCK = prepare(_LIMITS.where(concurrency_limits.c.name == sa.bindparam("b_name")).with_for_update())
_ROWS = prepare(sa.select(slots).where(slots.c.holder == sa.bindparam("b_holder")))
_same_claim = slots.c.claim_number.is_not_distinct_from(sa.bindparam("b_number", type_=sa.Integer))
_DROP = prepare(
    sa.delete(slots).where(slots.c.holder == sa.bindparam("b_holder"), _same_claim).returning(slots.c.limit_name)
)
#: What a row has of its holder as it is.
_OF_HOLDER = ("owner", "run_id", "run_attempt", "step_key", "step_id", "claim_number", "label")
_new = {
    name: sa.bindparam(name, type_=slots.c[name].type)
    for name in ("limit_name", "holder", "occupy", "kind", *_OF_HOLDER)
} | {"created_at": now(), "lease_until": now() + sa.bindparam("lease", type_=sa.Double)}
#: A new row of one who has slots, and of one who waits.
_TAKES = prepare(sa.insert(slots).values(**_new, taken_at=now()))
_WAITS = prepare(sa.insert(slots).values(**_new, taken_at=None))
_ADVISORY = sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(sa.bindparam("b_name"), 0)))
_owners = slots.outerjoin(steps, steps.c.id == slots.c.step_id).outerjoin(flow_runs, flow_runs.c.id == slots.c.run_id)
_is_taken = slots.c.taken_at.is_not(None)


def _claim_holds(table: sa.Table) -> sa.ColumnElement[bool]:
    """Whether the claim under which a slot was asked for is the one that stands, and its lease is not over."""
    return sa.and_(
        table.c.phase == Phase.CLAIMED.value,
        table.c.claim_number == slots.c.claim_number,
        table.c.lease_until > now(),
    )


_step_goes_on = sa.and_(steps.c.phase.is_not(None), steps.c.phase != Phase.DONE.value)
_run_goes_on = sa.and_(
    flow_runs.c.phase.is_not(None),
    flow_runs.c.phase != Phase.DONE.value,
    flow_runs.c.run_attempt == slots.c.run_attempt,
)
#: Whether a slot's owner lives, over `_owners`.
_alive = sa.case(
    (slots.c.kind == Owner.PROCESS.value, slots.c.lease_until > now()),
    (slots.c.kind == Owner.SEGMENT.value, _claim_holds(flow_runs)),
    (slots.c.kind == Owner.RUN.value, sa.and_(_run_goes_on, sa.or_(_is_taken, _step_goes_on))),
    (slots.c.claim_number.is_not(None), _claim_holds(steps)),
    else_=sa.and_(_step_goes_on, sa.or_(slots.c.taken_at.is_(None), slots.c.lease_until > now())),
)
_lives = sa.func.coalesce(_alive, sa.false())
_of_others = (slots.c.limit_name == sa.bindparam("b_name"), slots.c.holder != sa.bindparam("b_holder"))
_TAKEN = prepare(
    sa.select(sa.func.sum(slots.c.occupy).label("number")).select_from(_owners).where(*_of_others, _is_taken, _lives)
)
_theirs = slots.alias("theirs")
#: Whether a waiting holder asks for more than one of its limits has, since that was lowered: it can not be served now.
_asks_too_much = (
    sa.exists()
    .where(
        _theirs.c.holder == slots.c.holder,
        concurrency_limits.c.name == _theirs.c.limit_name,
        concurrency_limits.c.active,
        concurrency_limits.c.slot_limit < _theirs.c.occupy,
    )
    .correlate(slots)
)
_BEFORE = prepare(
    sa.select(slots.c.holder)
    .select_from(_owners)
    .where(*_of_others, slots.c.taken_at.is_(None), slots.c.id < sa.bindparam("b_place", type_=sa.BigInteger), _lives)
    .where(~_asks_too_much)
    .order_by(slots.c.id)
    .limit(1)
)
_WAITED_FOR = sa.select(slots.c.limit_name).where(slots.c.taken_at.is_(None)).distinct()
_COUNT = (
    sa.select(
        slots.c.limit_name,
        _is_taken.label("has_them"),
        sa.func.count().label("holders"),
        sa.func.sum(slots.c.occupy).label("sum"),
    )
    .select_from(_owners)
    .where(_lives)
    .group_by(slots.c.limit_name, _is_taken)
)
_DEAD = sa.select(slots.c.id, slots.c.limit_name).select_from(_owners).where(~_lives)
