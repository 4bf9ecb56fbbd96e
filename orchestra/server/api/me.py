"""`/api/me`: as whom one is known."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from orchestra.server.dependencies import Asker

router = APIRouter(tags=["access"])


class Me(BaseModel):
    """As whom one is known, and what one may do."""

    kind: str
    name: str
    scope: str


@router.get("/me")
async def read_me(asker: Asker) -> Me:
    """As whom the server knows who asks."""
    return Me(kind=asker.kind, name=asker.name, scope=asker.scope.value)
