"""Streams of events for live pages (SSE): which parts of them have changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated

import anyio
from fastapi import APIRouter, Depends, Request, Response
from sse_starlette import ServerSentEvent

from orchestra.server.dependencies import Db, Reader
from orchestra.server.live import Hub, Seen
from orchestra.server.rendering import PageRoute
from orchestra.server.streams import stream
from orchestra.store import events, run_lists, run_views
from orchestra.store.database import Database
from orchestra.store.wake import ANY, ANYTHING, RUN, STEP, Hint

router = APIRouter(route_class=PageRoute)


async def _hub(request: Request, db: Db) -> Hub:
    """The hub of the application; made in its event loop, when first somebody watches."""
    if not hasattr(request.app.state, "hub"):
        request.app.state.hub = Hub(db.wake)
    found: Hub = request.app.state.hub
    return found


TheHub = Annotated[Hub, Depends(_hub)]


@router.get("/live/runs")
async def runs(request: Request, db: Db, who: Reader, hub: TheHub) -> Response:
    """Event "runs" whenever lists of runs show something else."""
    return _stream(request, hub, "runs", lambda: Seen({"runs": run_lists.stamp(db)}), (RUN, ANY))


@router.get("/live/events")
async def all_events(request: Request, db: Db, who: Reader, hub: TheHub) -> Response:
    """Event "events" whenever something has happened."""
    return _stream(request, hub, "events", lambda: Seen({"events": _newest(db)}), *ANYTHING)


def _newest(db: Database) -> str:
    found, _ = events.page(db, limit=1)
    return found[0].cursor if found else ""


@router.get("/live/runs/{run_id}")
async def run(request: Request, db: Db, who: Reader, hub: TheHub, run_id: str) -> Response:
    """Events "state", "steps", "logs" and "artifacts" of one run, and "end" when it has ended."""
    return _stream(request, hub, f"runs/{run_id}", lambda: _look(db, run_id), (RUN, run_id), (STEP, run_id))


def _look(db: Database, run_id: str) -> Seen:
    found = run_views.stamps(db, run_id)
    stamps = {"state": found.state, "steps": found.steps, "logs": found.logs, "artifacts": found.artifacts}
    return Seen(stamps, found.is_final)


def _stream(request: Request, hub: Hub, key: str, look: Callable[[], Seen], *hints: Hint) -> Response:
    async def changes(closing: anyio.Event) -> AsyncIterator[ServerSentEvent]:
        async for name in hub.follow(key, look, closing, hints):
            yield ServerSentEvent(event=name, data=name)

    return stream(request, changes)
