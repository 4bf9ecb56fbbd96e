"""The admin view: pages rendered here, made live by htmx; one file per page."""

from __future__ import annotations

from fastapi import APIRouter

from orchestra.server.pages import (
    artifacts,
    dashboard,
    deployments,
    events,
    flows,
    limits,
    live,
    login,
    run,
    run_acts,
    runs,
    task_run,
    work_pools,
    workers,
)
from orchestra.server.rendering import PageRoute

router = APIRouter(route_class=PageRoute)
for page in (
    login,
    dashboard,
    runs,
    run_acts,
    run,
    task_run,
    flows,
    deployments,
    work_pools,
    workers,
    artifacts,
    events,
    limits,
    live,
):
    router.include_router(page.router)
