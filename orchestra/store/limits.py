"""Concurrency limits as people manage them, by name; and rate limits, whose slots are free again after a time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock
from orchestra.errors import (
    AcquireConcurrencySlotTimeoutError,
    ConcurrencySlotAcquisitionError,
    Conflict,
    LimitNotFound,
)
from orchestra.store import events, named_rows, slots
from orchestra.store.announcements import Announcement
from orchestra.store.database import Database, instant, now
from orchestra.store.tables import concurrency_limits

#: Before the tag, in the name of the limit that the tasks with this tag have.
TAG = "tag:"


def create(
    database: Database, name: str, limit: int, *, active: bool = True, slot_decay_per_second: float = 0.0
) -> None:
    """Make a limit.

    Raises:
        Conflict: There is one of this name.
    """
    values = {
        "name": name,
        "slot_limit": limit,
        "active": active,
        "slot_decay_per_second": slot_decay_per_second,
        "created_at": now(),
        "updated_at": now(),
    }
    if not named_rows.create(database, concurrency_limits, "concurrency-limit", values, limit=limit):
        raise Conflict(f"there is a concurrency limit {name!r} already: update it, or choose another name")


def update(database: Database, name: str, changes: Mapping[str, Any]) -> list[Announcement]:
    """Change columns of a limit, and hand on what became free; who has slots keeps them. Returns what to announce.

    Raises:
        LimitNotFound: There is none of this name.
    """
    column = concurrency_limits.c
    this = sa.update(concurrency_limits).where(column.name == name)
    event_id = events.new_id()

    def work(connection: Connection) -> bool:
        row = connection.execute(sa.select(concurrency_limits).where(column.name == name).with_for_update()).first()
        if row is None:
            return False
        values = {"updated_at": now(), **changes}
        rate = changes.get("slot_decay_per_second")
        if rate and row.slot_decay_per_second:
            # As many as are not free now are not free then; from now on they get so at the new rate.
            moment = instant(connection)
            left = max(row.drained_at - moment, 0.0) * row.slot_decay_per_second
            values["drained_at"] = moment + left / rate
        connection.execute(this.values(values))
        told = events.act("concurrency-limit", "updated", row.id, name, id=event_id, **changes)
        events.record(connection, told)
        return True

    if not database.write(work):
        raise LimitNotFound(name)
    return slots.serve(database, slots.lines_beside(database, name))


def delete(database: Database, name: str) -> list[Announcement]:
    """Delete a limit: who waits for it goes on. Returns what to announce.

    Raises:
        LimitNotFound: There is none of this name.
    """
    column = concurrency_limits.c
    statement = sa.delete(concurrency_limits).where(column.name == name).returning(column.id)
    if not named_rows.change(database, statement, "concurrency-limit", "deleted", name):
        raise LimitNotFound(name)
    return slots.serve(database, slots.lines_beside(database, name))


def tag_limits(database: Database) -> frozenset[str]:
    """The names of all limits of tags that are in force."""
    column = concurrency_limits.c
    query = sa.select(column.name).where(column.name.startswith(TAG, autoescape=True), column.active)
    return frozenset(database.read(lambda connection: connection.scalars(query).all()))


def reserve(
    database: Database, names: Sequence[str], occupy: int, timeout: float, *, strict: bool
) -> tuple[float, list[str]]:
    """Take slots of rate limits; gives after how many seconds they may be used, and the names that limit nothing.

    Whoever asks first is first: the slots are taken now, for then. One who dies meanwhile has used them.

    Args:
        timeout: Seconds; where they may be used only later, none are taken.

    Raises:
        AcquireConcurrencySlotTimeoutError: They are not to be had in that time.
        ConcurrencySlotAcquisitionError: A limit is no rate limit, or never has so many, or (`strict`) is not there.
    """
    wanted = sorted(set(names))
    column = concurrency_limits.c

    def work(connection: Connection) -> tuple[float, list[str]]:
        query = sa.select(concurrency_limits).where(column.name.in_(wanted)).order_by(column.name).with_for_update()
        rows = connection.execute(query).all()
        missing = [name for name in wanted if name not in {row.name for row in rows}]
        active = [row for row in rows if row.active]
        slots.check({row.name: row.slot_limit for row in active}, missing if strict else (), occupy)
        moment = instant(connection)
        start = max([moment, *(_free_at(row, occupy) for row in active)])
        if start - moment > timeout:
            raise AcquireConcurrencySlotTimeoutError(
                f"{occupy} slots of {', '.join(map(repr, wanted))} are free in {start - moment:.3g} s only, "
                f"timeout_seconds={timeout:g}"
            )
        for row in active:
            drained_at = max(row.drained_at, start) + occupy / row.slot_decay_per_second
            connection.execute(sa.update(concurrency_limits).where(column.id == row.id).values(drained_at=drained_at))
        return start - moment, missing

    return database.write(work)


def _free_at(row: Any, occupy: int) -> float:
    """When so many slots of a rate limit are free."""
    if row.slot_decay_per_second <= 0:
        raise ConcurrencySlotAcquisitionError(
            f"the concurrency limit {row.name!r} is no rate limit: give it a rate by "
            f"`orchestra gcl update {row.name} --slot-decay-per-second N`, or use concurrency()"
        )
    return math.inf if row.slot_limit <= 0 else row.drained_at - (row.slot_limit - occupy) / row.slot_decay_per_second


# -- to look at --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limit:
    """A concurrency limit, as people see it."""

    id: str
    name: str
    limit: int
    active: bool
    #: Slots taken now; of a rate limit, those too that are not free again, in part as well.
    active_slots: float
    slot_decay_per_second: float
    #: How many wait in line.
    waiting: int
    created: datetime | None
    updated: datetime | None


@dataclass(frozen=True, slots=True)
class HolderRecord:
    """Who has slots of a limit, or waits for some."""

    #: "flow_run", "task_run" or "process", or what the holder was said to be.
    type: str
    #: Of the run; of a process `host:pid:start`.
    id: str
    name: str | None
    slots: int
    #: False: it waits.
    has_them: bool
    #: Since it has them, or waits.
    since: datetime | None
    #: The process that asked.
    process: str


def read(database: Database, name: str) -> Limit:
    """A limit.

    Raises:
        LimitNotFound: There is none of this name.
    """
    found = read_all(database, concurrency_limits.c.name == name)
    if not found:
        raise LimitNotFound(name)
    return found[0]


def read_all(database: Database, *conditions: sa.ColumnElement[bool]) -> list[Limit]:
    """All limits, by name."""
    query = sa.select(concurrency_limits).where(*conditions).order_by(concurrency_limits.c.name)

    def work(connection: Connection) -> list[Limit]:
        moment, counts = instant(connection), slots.count(connection)
        return [_limit(row, counts, moment) for row in connection.execute(query)]

    return database.read(work)


def _limit(row: Any, counts: Mapping[tuple[str, bool], tuple[int, int]], moment: float) -> Limit:
    draining = max(row.drained_at - moment, 0.0) * row.slot_decay_per_second
    return Limit(
        row.id,
        row.name,
        row.slot_limit,
        row.active,
        counts.get((row.name, True), (0, 0))[1] + round(draining, 3),
        row.slot_decay_per_second,
        counts.get((row.name, False), (0, 0))[0],
        clock.to_datetime(row.created_at),
        clock.to_datetime(row.updated_at),
    )


def holders(database: Database, name: str, *, limit: int = 1000) -> list[HolderRecord]:
    """Who has slots of a limit, then who waits for some, in their order."""
    return [_holder(row) for row in database.read(lambda connection: slots.living(connection, name, limit))]


def _holder(row: Any) -> HolderRecord:
    kind, its_id, name = "process", row.owner, None
    if row.kind == slots.Owner.RUN:
        kind, its_id, name = "flow_run", row.run_id, row.run_name
    elif row.step_id is not None:
        kind, its_id, name = "task_run", row.step_id, row.step_name or row.step_key
    elif row.run_id is not None:
        kind, its_id, name = "flow_run", row.run_id, row.run_name
    said = json.loads(row.label) if row.label else {}
    since = clock.to_datetime(row.taken_at or row.created_at)
    has_them = row.taken_at is not None
    return HolderRecord(
        str(said.get("type", kind)), str(said.get("id", its_id)), name, row.occupy, has_them, since, row.owner
    )
