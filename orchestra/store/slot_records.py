"""Who is at work in the queues of work pools, and who waits for a slot there: for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock
from orchestra.names import pool_of
from orchestra.store import queries, workers
from orchestra.store.database import Database
from orchestra.store.interventions import NO_SLOT
from orchestra.store.tables import Phase, deployments, flow_runs, phase_is, run_slots, work_pools, work_queues
from orchestra.store.work_pools import WorkQueue

#: Most of them that are shown.
_MOST = 1000


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """A run of a deployment that is at work, or waits for a slot."""

    id: str
    name: str
    deployment_name: str | None
    state_name: str
    #: Why it waits.
    state_message: str | None
    #: The process that works on it; None: it is parked, or waits.
    process: str | None
    #: Since it is at work, or has had its slot; of one that waits, when it was to start.
    since: datetime | None
    #: The Celery queue.
    work_queue_name: str
    #: False: it waits in line.
    has_slot: bool


@dataclass(frozen=True, slots=True)
class Slots:
    """Of a work queue: its workers' slots, the runs at work, and those that wait."""

    name: str
    celery_queue: str
    worker_slots: int
    active: int
    waiting: int
    concurrency_limit: int | None


def slots(database: Database, queues: Sequence[WorkQueue]) -> list[Slots]:
    """What goes on in these work queues, in their order."""
    by_queue = workers.slots_by_queue(database)
    counts = queries.runs_by_queue(database, [each.celery_queue for each in queues])
    return [
        Slots(
            each.name,
            each.celery_queue,
            by_queue.get(each.celery_queue, 0),
            *counts.get(each.celery_queue, (0, 0)),
            each.concurrency_limit,
        )
        for each in queues
    ]


def holders(database: Database, pool: str, queues: Iterable[str]) -> list[SlotRecord]:
    """Who has a slot in these work queues of a pool, the first first, and then who waits for one, in their order."""
    names = set(queues)

    def look(connection: Connection) -> list[Any]:
        # One query of each phase, for which there is an index.
        return [
            row
            for query in _QUERIES
            for row in connection.execute(query, {"b_pool": pool, "b_like": _escaped(pool), "b_most": _MOST})
        ]

    rows = [row for row in database.read(look) if pool_of(row.queue) in {(pool, name) for name in names}]
    rows.sort(key=_order)
    return [_record(row) for row in rows]


def _order(row: Any) -> tuple[Any, ...]:
    if row.held != NO_SLOT:
        return False, 0, row.taken_at or row.start_time or 0.0, row.id
    return True, row.priority, row.scheduled_at or 0.0, row.id


def _record(row: Any) -> SlotRecord:
    waits = row.held == NO_SLOT
    return SlotRecord(
        id=row.id,
        name=row.name,
        deployment_name=None if row.deployment is None else f"{row.flow_name}/{row.deployment}",
        state_name=row.state_name,
        state_message=row.state_message,
        process=row.owner.partition("/")[0] if row.phase == Phase.CLAIMED else None,
        since=clock.to_datetime(row.scheduled_at if waits else row.taken_at or row.start_time),
        work_queue_name=row.queue,
        has_slot=not waits,
    )


_column = flow_runs.c
_LISTED = (
    sa.select(
        _column.id, _column.name, _column.flow_name, _column.queue, _column.state_name, _column.state_message,
        _column.owner, _column.phase, _column.held, _column.start_time, _column.scheduled_at, run_slots.c.taken_at,
        deployments.c.name.label("deployment"), sa.func.coalesce(work_queues.c.priority, 1).label("priority"),
    )
    .outerjoin(
        run_slots, sa.and_(run_slots.c.run_id == _column.id, run_slots.c.run_attempt == _column.run_attempt)
    )
    .outerjoin(deployments, deployments.c.id == _column.deployment_id)
    .outerjoin(work_pools, work_pools.c.name == sa.bindparam("b_pool"))
    .outerjoin(
        work_queues,
        sa.and_(work_queues.c.pool_id == work_pools.c.id, work_queues.c.name == run_slots.c.queue_name),
    )
    .where(
        _column.deployment_id.is_not(None),
        sa.or_(
            _column.queue == sa.bindparam("b_pool"),
            *(_column.queue.like(sa.bindparam("b_like") + mark, escape="!") for mark in (".%", "@%")),
        ),
    )
    .limit(sa.bindparam("b_most"))
)  # fmt: skip
#: READY ones: those that go on soon, and those that wait in line; not what has never been taken up.
_QUERIES = [
    _LISTED.where(phase_is(flow_runs, Phase.CLAIMED)),
    _LISTED.where(phase_is(flow_runs, Phase.WAITING)),
    _LISTED.where(
        phase_is(flow_runs, Phase.READY),
        sa.or_(_column.held == NO_SLOT, _column.start_time.is_not(None), run_slots.c.taken_at.is_not(None)),
    ),
]


def _escaped(name: str) -> str:
    """A name within a pattern of LIKE; an underscore would stand for any character."""
    return re.sub("[!%_]", r"!\g<0>", name)
