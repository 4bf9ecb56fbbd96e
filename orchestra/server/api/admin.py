"""`/api/admin`: the server itself."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter

router = APIRouter(prefix="/admin", tags=["admin"])


@router.get("/version")
def read_version() -> str:
    """The version of orchestra that answers."""
    return version("celery-orchestra")
