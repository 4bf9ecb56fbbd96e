"""The flows that ran, or that workers know."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from orchestra.server.dependencies import Db, Reader
from orchestra.server.rendering import PageRoute, render
from orchestra.store import queries

router = APIRouter(route_class=PageRoute)


@router.get("/flows")
def show(request: Request, db: Db, who: Reader, after: str | None = None) -> Response:
    """By name, each with its newest run."""
    return render(request, "flows.html", page=queries.list_flows(db, after=after or None), after=after)
