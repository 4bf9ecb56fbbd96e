"""Numbers for monitoring, each counted by an index: what waits for workers and for how long, lateness."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra.store.database import Database, instant
from orchestra.store.tables import Kind, Phase, flow_runs, leaders, phase_is, schedules, steps


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in one queue for a worker, of one kind."""

    #: "flow_run" or "task_run".
    kind: str
    queue: str
    count: int
    #: For how many seconds the oldest is due.
    oldest: float


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of one moment. Ages are in seconds; None: there is nothing to measure."""

    waiting: list[Waiting]
    #: For how long the most overdue schedule is due.
    schedule_lateness: float
    #: How long ago a sweeper did its rounds.
    last_sweep: float | None


def read(database: Database) -> Numbers:
    """Count, in one transaction."""
    return database.read(_look)


def _look(connection: Connection) -> Numbers:
    moment = instant(connection)
    due = connection.scalar(sa.select(sa.func.min(schedules.c.next_at)).where(schedules.c.next_at.is_not(None)))
    swept = connection.scalar(sa.select(sa.func.max(leaders.c.ticked_at)))
    return Numbers(
        waiting=[*_waiting(connection, "flow_run", moment), *_waiting(connection, "task_run", moment)],
        schedule_lateness=0.0 if due is None else max(moment - due, 0.0),
        last_sweep=None if swept is None else max(moment - swept, 0.0),
    )


def _waiting(connection: Connection, kind: str, moment: float) -> list[Waiting]:
    table = flow_runs if kind == "flow_run" else steps
    column = table.c
    sent = column.runner == "celery" if kind == "flow_run" else column.kind == Kind.TASK
    due = (phase_is(table, Phase.READY), column.due_at <= moment, column.queue.is_not(None), sent)
    query = sa.select(column.queue, sa.func.count(), sa.func.min(column.due_at)).where(*due).group_by(column.queue)
    return [Waiting(kind, queue, count, max(moment - first, 0.0)) for queue, count, first in connection.execute(query)]
