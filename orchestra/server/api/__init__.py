"""The REST API: one file per noun, all below `/api`; health beside it."""

from __future__ import annotations

from fastapi import APIRouter

from orchestra.server.api import accounts
from orchestra.server.api.health import router as health

__all__ = ["health", "router"]

router = APIRouter()
router.include_router(accounts.router)
