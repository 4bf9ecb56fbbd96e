"""Ticks: which schedules are due, and the runs of their fire times, of which each has one at most.

Any number of processes may ask and fire at once. A row of `schedules` says up to when its fire times are dealt with;
whoever moves that on, from just what it has seen, makes the runs in the same transaction. Killed before the commit, it
has done nothing; killed after it, the runs are READY and owed as any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra.failpoints import failpoint
from orchestra.states import StateType
from orchestra.store import events, history, runs
from orchestra.store.announcements import Announcement
from orchestra.store.database import Database, insert, instant, now
from orchestra.store.runs import NewRun
from orchestra.store.tables import Phase, deployments, flow_runs, phase_is, schedules, ticks

#: For how long ticks are kept, in seconds: as long as a clock may be set back without a second run.
_KEPT = 7 * 86_400.0
#: A run that nobody has taken up so many seconds after its time is late.
LATE_AFTER = 15.0

_SEEN = (schedules.c.id, schedules.c.fired_at, schedules.c.next_at)
_RULE = (
    schedules.c.cron, schedules.c.interval, schedules.c.rrule, schedules.c.timezone, schedules.c.day_or,
    schedules.c.anchor, schedules.c.parameters, schedules.c.catchup, schedules.c.catchup_max, schedules.c.max_late,
    schedules.c.active, schedules.c.slug,
)  # fmt: skip
_OF_DEPLOYMENT = (
    deployments.c.id.label("deployment_id"), deployments.c.updated_at.label("deployment_updated_at"),
    deployments.c.name.label("deployment_name"), deployments.c.parameters.label("deployment_parameters"),
    deployments.c.paused, deployments.c.flow_name, deployments.c.entrypoint, deployments.c.description,
    deployments.c.tags, deployments.c.queue, deployments.c.options, deployments.c.flow_version,
    deployments.c.priority, deployments.c.timeout_seconds, deployments.c.has_hooks,
    deployments.c.parameter_schema, deployments.c.enforce_parameter_schema,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Firing:
    """What becomes of a schedule that was due."""

    #: As `find_due` gave it.
    row: Any
    #: By fire time.
    new: Sequence[tuple[float, NewRun]]
    #: Up to here all its fire times are dealt with.
    through: float
    #: When it is to be looked at next; None: not before it is changed.
    next_at: float | None
    #: The first of its times that were missed and are not made up for.
    skipped: float | None = None


def find_due(database: Database, limit: int) -> tuple[float, list[Any]]:
    """The present instant, and schedules that are due, those of the earliest time first, with their deployments."""
    query = sa.select(*_SEEN, *_RULE, *_OF_DEPLOYMENT)
    query = query.join_from(schedules, deployments, deployments.c.id == schedules.c.deployment_id)
    query = query.order_by(schedules.c.next_at).limit(limit)

    def look(connection: Connection) -> tuple[float, list[Any]]:
        moment = instant(connection)
        return moment, list(connection.execute(query.where(schedules.c.next_at <= moment)))

    return database.read(look)


def earliest(database: Database) -> float | None:
    """When the next schedule is due; None where none will be."""
    query = sa.select(schedules.c.next_at).where(schedules.c.next_at.is_not(None))
    return database.read(lambda connection: connection.scalar(query.order_by(schedules.c.next_at).limit(1)))


def fire(database: Database, firings: Iterable[Firing]) -> list[Announcement]:
    """Move schedules on and write the runs of their fire times, in one transaction; what to announce.

    What has changed since it was seen, as another process has fired it or somebody has edited, paused or deleted it or
    its deployment, is left alone.
    """
    # In one order, so that two processes that fire the same ones wait for, and do not block, each other.
    ordered = sorted(firings, key=lambda each: str(each.row.id))

    def work(connection: Connection) -> list[Announcement]:
        moment = instant(connection)
        announcements = []
        for each in ordered:
            if _move_on(connection, each):
                failpoint("amid_fire")
                announcements += _add_runs(connection, each, moment)
                events.record(connection, *_told(each))
        return announcements

    failpoint("before_fire")
    announcements = database.write(work, durable=True)
    failpoint("after_fire")
    return announcements


def _told(firing: Firing) -> list[dict[str, Any]]:
    """What is told of a schedule that was moved on."""
    row, name = firing.row, f"{firing.row.flow_name}/{firing.row.deployment_name}"
    told = [
        events.act("schedule", "fired", row.id, row.slug, run_id=new.id, deployment=name, at=_iso(fire_at))
        for fire_at, new in firing.new
    ]
    if firing.skipped is not None:
        until = firing.new[0][0] if firing.new else firing.through
        times = {"first": _iso(firing.skipped), "before": _iso(until)}
        told.append(events.act("schedule", "skipped", row.id, row.slug, deployment=name, **times))
    return told


def _iso(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).isoformat()


def _move_on(connection: Connection, firing: Firing) -> bool:
    row, column = firing.row, schedules.c
    same = sa.exists().where(
        deployments.c.id == row.deployment_id, deployments.c.updated_at == row.deployment_updated_at
    )
    seen = (column.id == row.id, column.fired_at == row.fired_at, column.next_at == row.next_at, same)
    statement = sa.update(schedules).where(*seen).values(fired_at=firing.through, next_at=firing.next_at)
    return bool(connection.execute(statement).rowcount)


def _add_runs(connection: Connection, firing: Firing, moment: float) -> list[Announcement]:
    announcements = []
    for fire_at, new in firing.new:
        values = {"schedule_id": firing.row.id, "fire_at": fire_at, "run_id": new.id}
        tick = insert(connection, ticks).values(values).on_conflict_do_nothing().returning(ticks.c.run_id)
        # It is there where a clock was set back.
        if connection.execute(tick).first() is None:
            continue
        announcement = runs.add(connection, new, moment)
        if announcement is not None:
            announcements.append(announcement)
    if firing.new:
        old = sa.and_(ticks.c.schedule_id == firing.row.id, ticks.c.fire_at < moment - _KEPT)
        connection.execute(sa.delete(ticks).where(old))
    return announcements


def turn_back(database: Database) -> int:
    """Let schedules that are dealt with up to a time to come count from now on: the clock was ahead, and is right
    again. How many they were. No fire time comes twice: its tick is there."""
    ahead = schedules.c.fired_at > now() + 1.0
    statement = sa.update(schedules).where(ahead).values(fired_at=now(), next_at=now())
    return database.write(lambda connection: connection.execute(statement).rowcount)


def mark_late(database: Database, limit: int = 500) -> list[tuple[str, str]]:
    """Show runs of deployments that nobody took up in time as `Late`; gives their ids and queues. Safe to repeat."""
    column = flow_runs.c
    waits = (
        phase_is(flow_runs, Phase.READY),
        column.deployment_id.is_not(None),
        column.start_time.is_(None),
        column.held.is_(None),
        column.due_at < now() - LATE_AFTER,
        column.state_name.in_(("Scheduled", "Pending")),
    )
    some = sa.select(column.id).where(*waits).limit(limit)
    values = {"state_type": StateType.SCHEDULED.value, "state_name": "Late"}
    statement = sa.update(flow_runs).where(column.id.in_(some), *waits).values(values)
    statement = statement.returning(column.id, column.queue)

    def work(connection: Connection) -> list[tuple[str, str]]:
        found = [(row.id, row.queue) for row in connection.execute(statement)]
        for run_id, _ in found:
            history.record(connection, run_id, StateType.SCHEDULED, "Late")
        return found

    return database.write(work)
