"""The workers that live: where, on which queues, and what they do now."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from orchestra.server.dependencies import Db, Reader
from orchestra.server.rendering import PageRoute, render
from orchestra.store import queries, worker_records

router = APIRouter(route_class=PageRoute)

#: Workers that are shown at most.
_MOST = 1000


@router.get("/workers")
def show_all(request: Request, db: Db, who: Reader) -> Response:
    """By name; and queues on which something waits that nobody consumes."""
    found = [each for each in worker_records.list_workers(db, limit=_MOST).items if each.status == "ONLINE"]
    served = {queue for worker in found for queue in worker.queues}
    unserved = {queue: count for queue, count in queries.waiting_by_queue(db).items() if queue not in served}
    return render(request, "workers.html", workers=found, unserved=unserved, last_sweep=queries.last_sweep(db))


@router.get("/workers/{name}")
def show(request: Request, db: Db, who: Reader, name: str) -> Response:
    """One, and what it does now."""
    return render(request, "worker.html", worker=worker_records.read(db, name))
