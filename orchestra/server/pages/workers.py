"""The workers that live: where, on which queues, and what they do now."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response

from orchestra.server.dependencies import Db, Reader
from orchestra.server.rendering import PageRoute, render
from orchestra.store import queries, run_lists, workers
from orchestra.store.workers import LiveWorker

router = APIRouter(route_class=PageRoute)


@router.get("/workers")
def show_all(request: Request, db: Db, who: Reader) -> Response:
    """By name; and queues on which something waits that nobody consumes."""
    found, waiting = workers.live(db), queries.waiting_by_queue(db)
    served = {queue for worker in found for queue in worker.queues}
    at_work = run_lists.at_work(db)
    rows = [(worker, _of_worker(at_work, worker)) for worker in found]
    unserved = {queue: count for queue, count in waiting.items() if queue not in served}
    return render(request, "workers.html", rows=rows, unserved=unserved, last_sweep=queries.last_sweep(db))


@router.get("/workers/{name}")
def show(request: Request, db: Db, who: Reader, name: str) -> Response:
    """One, and what it does now."""
    found = next((each for each in workers.live(db) if each.name == name), None)
    if found is None:
        raise HTTPException(404, f"no worker {name!r} has given a heartbeat lately: it has ended, or cannot reach us")
    at_work = _of_worker(run_lists.at_work(db), found)
    return render(request, "worker.html", worker=found, at_work=at_work)


def _of_worker(at_work: list[run_lists.AtWork], worker: LiveWorker) -> list[run_lists.AtWork]:
    """What is at work on its host, on its queues: several workers of one host that share queues show the same."""
    return [each for each in at_work if each.host == worker.host and each.queue in worker.queues]
