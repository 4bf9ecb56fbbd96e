"""The admin view: pages rendered here, made live by htmx; one file per page."""

from __future__ import annotations

from fastapi import APIRouter

from orchestra.server.pages import run, run_acts, runs
from orchestra.server.rendering import PageRoute

router = APIRouter(route_class=PageRoute)
for page in (runs, run_acts, run):
    router.include_router(page.router)
