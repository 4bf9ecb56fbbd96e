"""The admin view: pages rendered here, made live by htmx; one file per page."""

from __future__ import annotations

from fastapi import APIRouter

from orchestra.server.pages import login

router = APIRouter()
router.include_router(login.router)
