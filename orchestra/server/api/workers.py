"""`/api/workers`: the workers that live, and what waits for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from fastapi import APIRouter

from orchestra import clock
from orchestra.server.dependencies import Db
from orchestra.store import workers

router = APIRouter(prefix="/workers", tags=["workers"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker that gave a heartbeat within the last lease."""

    #: Celery's node name.
    name: str
    host: str
    pid: int
    queues: tuple[str, ...]
    #: How many runs and tasks it can carry out at once.
    slots: int
    #: Celery's name of its pool.
    pool: str
    version: str
    started: datetime | None
    last_heartbeat: datetime | None
    #: Whether it takes nothing more.
    stopping: bool


@router.get("")
def list_workers(db: Db) -> list[Worker]:
    """The workers that live, by name."""
    return [_worker(each) for each in workers.live(db)]


def _worker(row: workers.LiveWorker) -> Worker:
    return Worker(
        name=row.name,
        host=row.host,
        pid=row.pid,
        queues=row.queues,
        slots=row.slots,
        pool=row.pool,
        version=row.version,
        started=clock.to_datetime(row.started_at),
        last_heartbeat=clock.to_datetime(row.heartbeat_at),
        stopping=row.stopping,
    )
