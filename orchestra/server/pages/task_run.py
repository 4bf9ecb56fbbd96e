"""The page of one task run, or of another step: what it was given, what came out, why it failed."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from orchestra.server.dependencies import Db, Reader
from orchestra.server.rendering import PageRoute, render
from orchestra.store import queries, reruns, run_views

router = APIRouter(route_class=PageRoute)


@router.get("/task-runs/{task_run_id}")
def show(request: Request, db: Db, who: Reader, task_run_id: str) -> Response:
    """The whole page."""
    details = queries.read_task_run(db, task_run_id)
    run_id = details.run.flow_run_id
    return render(
        request,
        "task_run.html",
        details=details,
        step=details.run,
        chosen_kinds=reruns.CHOSEN_KINDS,
        run=queries.find_flow_run(db, run_id),
        upstream=run_views.step_places(db, run_id, details.upstream[:50]),
        log=run_views.log_page(db, run_id, step_id=task_run_id, limit=500),
    )
