"""Events: what happened, the newest first; those of one run on its page."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response

from orchestra import clock
from orchestra.server.dependencies import Db, Reader, hidden_kinds
from orchestra.server.pages.runs import RANGES
from orchestra.server.rendering import PageRoute, render
from orchestra.store import events
from orchestra.store.events import EventFilter

router = APIRouter(route_class=PageRoute)

_SECONDS = {name: seconds for name, _, seconds in RANGES}


@router.get("/events")
def show(
    request: Request,
    db: Db,
    who: Reader,
    event: str = "",
    resource: str = "",
    run: str = "",
    range: str = "",
    after: str | None = None,
) -> Response:
    """Those that fit; names and resources may end in `*`."""
    if range not in _SECONDS:
        raise HTTPException(422, f"range={range} is none of {', '.join(name for name in _SECONDS if name)}")
    seconds = _SECONDS[range]
    wanted = EventFilter(
        events=(event.strip(),) if event.strip() else (),
        resources=(resource.strip(),) if resource.strip() else (),
        since=None if seconds is None else clock.now() - seconds,
        flow_run_id=run or None,
        without_kinds=hidden_kinds(who),
    )
    found, following = events.page(db, wanted, limit=50, after=after or None)
    return render(
        request,
        "events.html",
        events=found,
        next=following,
        after=after,
        event=event,
        resource=resource,
        run_id=run,
        range=range,
        ranges=[(name, label) for name, label, _ in RANGES],
    )
