"""Workers as people see them: whether each lives, what it consumes, and what it is at work on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock, settings
from orchestra.errors import WorkerNotFound
from orchestra.names import pool_of
from orchestra.store.database import Database, now
from orchestra.store.queries import Page, page_of
from orchestra.store.tables import Phase, flow_runs, phase_is, steps, work_pools, workers


@dataclass(frozen=True, slots=True)
class AtWork:
    """A run, or a step of one, that a worker is at work on."""

    #: "flow_run" or "task_run".
    type: str
    id: str
    name: str
    flow_run_id: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One worker."""

    #: Celery's node name.
    name: str
    #: "ONLINE" where it gave a heartbeat within the last lease, else "OFFLINE".
    status: str
    #: It lives, and takes no more work.
    stopping: bool
    #: The work pools whose queues are among those that it consumes.
    work_pools: tuple[str, ...]
    #: Celery queues.
    queues: tuple[str, ...]
    slots: int
    #: How many runs and steps it is at work on; those that run inside another one's process do not count.
    running: int
    last_heartbeat_time: datetime | None
    started: datetime | None
    host: str
    pid: int
    #: Celery's pool: "prefork", "threads", "solo", "gevent".
    type: str
    version: str
    at_work: tuple[AtWork, ...]


def list_workers(
    database: Database, *, limit: int = 100, after: str | None = None, pool: str | None = None
) -> Page[WorkerRecord]:
    """Workers by name, those after the name `after`; one that ended in order is not among them any more.

    Args:
        limit: Most of them on the page.
        after: The name of the last one of the page before.
        pool: Only those that consume a queue of this work pool.
    """
    conditions = [workers.c.name > after] if after is not None else []
    if pool is not None:
        # Names of queues have no quotes; those of a pool are `P` and `P.q`, of a version `P@v`.
        like = [workers.c.queues.contains(f'"{pool}{mark}', autoescape=True) for mark in ('"', ".", "@")]
        conditions.append(sa.or_(*like))
    return page_of(_read(database, conditions, limit + 1), limit, lambda each: each.name)


def read(database: Database, name: str) -> WorkerRecord:
    """A worker by its node name, or by the part before the `@`, if only one has that.

    Raises:
        WorkerNotFound: There is none.
    """
    named = [workers.c.name == name] if "@" in name else [workers.c.name.startswith(f"{name}@", autoescape=True)]
    found = _read(database, named, 2)
    if len(found) != 1:
        raise WorkerNotFound(name, [each.name for each in found])
    return found[0]


def _read(database: Database, conditions: Sequence[Any], limit: int) -> list[WorkerRecord]:
    alive = (workers.c.heartbeat_at > now() - settings.current().lease_seconds).label("alive")
    query = sa.select(workers, alive).where(*conditions).order_by(workers.c.name).limit(limit)

    def look(connection: Connection) -> list[WorkerRecord]:
        rows = connection.execute(query).all()
        pools = set(connection.scalars(sa.select(work_pools.c.name)))
        at_work = _at_work(connection) if rows else {}
        return [_record(row, pools, at_work) for row in rows]

    return database.read(look)


def _at_work(connection: Connection) -> dict[str, list[AtWork]]:
    """What is claimed, by the process, `host:pid:start`, that has the claim."""
    found: dict[str, list[AtWork]] = {}
    process_of_run = {}
    for row in connection.execute(_CLAIMED_RUNS):
        process = row.owner.partition("/")[0]
        process_of_run[row.id] = process
        if process_of_run.get(row.parent_run_id) != process:
            run = AtWork("flow_run", row.id, row.name, row.id, clock.to_datetime(row.start_time))
            found.setdefault(process, []).append(run)
    for row in connection.execute(_CLAIMED_STEPS):
        process = row.owner.partition("/")[0]
        step = AtWork("task_run", row.id, row.name, row.run_id, clock.to_datetime(row.start_time))
        found.setdefault(process, []).append(step)
    return found


def _record(row: Any, pools: set[str], at_work: Mapping[str, list[AtWork]]) -> WorkerRecord:
    queues = tuple(json.loads(row.queues))
    processes = [f"{row.host}:{process}" for process in json.loads(row.processes)]
    busy = tuple(each for process in processes for each in at_work.get(process, ()))
    return WorkerRecord(
        name=row.name,
        status="ONLINE" if row.alive else "OFFLINE",
        # One that was told of as lost is marked so, too.
        stopping=row.alive and row.stopping,
        work_pools=tuple(sorted({pool for queue in queues if (pool := pool_of(queue)[0]) in pools})),
        queues=queues,
        slots=row.slots,
        running=len(busy),
        last_heartbeat_time=clock.to_datetime(row.heartbeat_at),
        started=clock.to_datetime(row.started_at),
        host=row.host,
        pid=row.pid,
        type=row.pool,
        version=row.version,
        at_work=busy,
    )


_CLAIMED_RUNS = (
    sa.select(flow_runs.c.id, flow_runs.c.name, flow_runs.c.owner, flow_runs.c.start_time, flow_runs.c.parent_run_id)
    .where(phase_is(flow_runs, Phase.CLAIMED), flow_runs.c.lease_until > now())
    .order_by(flow_runs.c.depth)
)
_CLAIMED_STEPS = sa.select(steps.c.id, steps.c.name, steps.c.run_id, steps.c.owner, steps.c.start_time).where(
    phase_is(steps, Phase.CLAIMED), steps.c.lease_until > now()
)
