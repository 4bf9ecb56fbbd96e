"""Work pools and their queues: who works on them, what waits there; and pausing them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from starlette.responses import RedirectResponse

from orchestra.engine import work_pools as acting
from orchestra.server import acts
from orchestra.server.announcing import announce
from orchestra.server.dependencies import Db, Reader, Runner
from orchestra.server.rendering import PageRoute, render
from orchestra.store import deployments, queries, slot_records, work_pools, workers
from orchestra.store.database import Database
from orchestra.store.work_pools import WorkQueue

router = APIRouter(route_class=PageRoute)


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue, and what goes on there."""

    queue: WorkQueue
    slots: int
    active: int
    waiting: int


@router.get("/work-pools")
def show_all(request: Request, db: Db, who: Reader, after: str | None = None) -> Response:
    """By name, each with its queues; and the Celery queues of no pool."""
    page = work_pools.list_pools(db, limit=50, after=after or None)
    by_pool: dict[str, list[QueueRow]] = {}
    for row in _rows(db, work_pools.list_queues(db)):
        by_pool.setdefault(row.queue.work_pool_name, []).append(row)
    known = {row.queue.celery_queue for rows in by_pool.values() for row in rows}
    slots, waiting = workers.slots_by_queue(db), queries.waiting_by_queue(db)
    unknown = sorted((set(slots) | set(waiting)) - known)
    others = [(name, slots.get(name, 0), waiting.get(name, 0)) for name in unknown]
    return render(request, "work_pools.html", page=page, after=after, by_pool=by_pool, others=others)


@router.get("/work-pools/{name}")
def show(request: Request, db: Db, who: Reader, name: str) -> Response:
    """One, with its queues, its deployments and the runs that wait there."""
    pool = work_pools.read(db, name)
    rows = _rows(db, work_pools.list_queues(db, name))
    return render(
        request,
        "work_pool.html",
        pool=pool,
        rows=rows,
        deployments=deployments.list_deployments(db, limit=100, work_pool_name=name).items,
        waiting=queries.waiting_runs(db, [row.queue.celery_queue for row in rows]),
    )


@router.post("/work-pools/{name}")
def set_paused(db: Db, who: Runner, name: str, paused: Annotated[bool, Form()]) -> Response:
    """Start nothing new of it, or go on."""
    verb = "pause" if paused else "resume"
    acts.perform(who, verb, f"work pool {name}", lambda: acting.change(db, name, announce, paused=paused))
    return RedirectResponse(f"/work-pools/{name}?done=changed", 303)


@router.post("/work-pools/{name}/queues/{queue}")
def set_queue_paused(db: Db, who: Runner, name: str, queue: str, paused: Annotated[bool, Form()]) -> Response:
    """Start nothing new of one of its queues, or go on."""
    verb, what = "pause" if paused else "resume", f"work queue {queue} of work pool {name}"
    acts.perform(who, verb, what, lambda: acting.change_queue(db, name, queue, announce, paused=paused))
    return RedirectResponse(f"/work-pools/{name}?done=changed", 303)


def _rows(db: Database, queues: list[WorkQueue]) -> list[QueueRow]:
    found = zip(queues, slot_records.slots(db, queues), strict=True)
    return [QueueRow(queue, each.worker_slots, each.active, each.waiting) for queue, each in found]
