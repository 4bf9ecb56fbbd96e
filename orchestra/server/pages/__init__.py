"""The admin view: pages rendered here, made live by htmx; one file per page."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from orchestra.server.dependencies import acting
from orchestra.server.pages import (
    artifacts,
    dashboard,
    deployments,
    events,
    flows,
    limits,
    live,
    login,
    reference,
    run,
    run_acts,
    runs,
    task_run,
    work_pools,
    workers,
)
from orchestra.server.rendering import PageRoute

router = APIRouter(route_class=PageRoute)
# Everybody may log in, and out.
router.include_router(login.router)
for page in (
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
    reference,
    live,
):
    router.include_router(page.router, dependencies=[Depends(acting)])
