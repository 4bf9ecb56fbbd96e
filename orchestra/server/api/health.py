"""`/health`: the process answers. `/ready`: so does the database."""

from __future__ import annotations

import sqlalchemy as sa
from fastapi import APIRouter

from orchestra.server.dependencies import Db

router = APIRouter(tags=["health"])


@router.get("/health")
async def health() -> dict[str, str]:
    """Answers as long as the process lives."""
    return {"status": "ok"}


@router.get("/ready")
def ready(db: Db) -> dict[str, str]:
    """Answers 200 once the database does; else 503."""
    db.read(lambda connection: connection.execute(sa.select(sa.literal(1))).scalar())
    return {"status": "ready"}
