"""`/api/events`: what happened to runs and by people; and what others tell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import anyio
from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field
from sse_starlette import ServerSentEvent
from starlette.concurrency import run_in_threadpool

from orchestra.errors import StoreUnavailable
from orchestra.events import Event, emit_event, event_of
from orchestra.server.acts import perform
from orchestra.server.api.shapes import After, Body, Id, Key, Limit, Name, Page, Text, Values
from orchestra.server.dependencies import Asker, Db, hidden_kinds
from orchestra.server.streams import first_of, stream
from orchestra.store import behind, events
from orchestra.store.database import Database
from orchestra.store.events import EventFilter
from orchestra.store.wake import ANYTHING, AsyncBell

router = APIRouter(prefix="/events", tags=["events"])

#: Seconds between two looks for new events: while there are some, and the longest while there are none; and while there
#: are none and hints are heard.
_FAST, _SLOW, _SELDOM = 0.3, 1.5, 3.0

_Labels = Annotated[dict[Name, Text], Field(max_length=100)]
#: A time beyond all events, in seconds since the epoch.
_LATEST = 1e11
_When = Annotated[float | None, Query(ge=0, lt=_LATEST, description="In seconds since the epoch.")]


class NewEvent(Body):
    """An event to tell of."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"event": "order.shipped", "resource": {"orchestra.resource.id": "order.42"}}]},
    )

    event: Name
    resource: _Labels = Field(description="`orchestra.resource.id` among them.")
    related: Annotated[list[_Labels], Field(max_length=100)] = Field(default_factory=list)
    payload: Values = Field(default_factory=dict)
    occurred: datetime | None = Field(default=None, description="Null: now. Without a zone: UTC.")
    id: UUID | None = Field(default=None, description="One that was used is not written again.")


@router.get("", response_model=Page[Event])
def list_events(
    db: Db,
    who: Asker,
    limit: Limit = 50,
    after: After = None,
    event: Annotated[
        list[Key], Query(description="Their names; `orchestra.flow-run.*` for a beginning.", max_length=20)
    ] = [],  # noqa: B006  # as FastAPI wants a list's default; never changed
    resource: Annotated[list[Key], Query(description="Ids of what they are about, likewise.", max_length=20)] = [],  # noqa: B006
    since: _When = None,
    until: _When = None,
    flow_run_id: Annotated[Id | None, Query(description="About this run and its task runs.")] = None,
) -> Any:
    """Events, the newest first. Those of users and API keys are for admins."""
    wanted = EventFilter(tuple(event), tuple(resource), since, until, flow_run_id, hidden_kinds(who))
    found, following = events.page(db, wanted, limit=limit, after=after)
    return Page(items=[event_of(each) for each in found], next=following)


@router.get("/stream", include_in_schema=False)  # it does not end, and is no JSON
async def stream_events(
    request: Request,
    db: Db,
    who: Asker,
    event: Annotated[list[Key], Query(max_length=20)] = [],  # noqa: B006
    resource: Annotated[list[Key], Query(max_length=20)] = [],  # noqa: B006
    since: _When = None,
    flow_run_id: Id | None = None,
) -> Response:
    """Events as they come (SSE), each as JSON; a client that comes back with `Last-Event-ID` misses none."""
    wanted = EventFilter(tuple(event), tuple(resource), flow_run_id=flow_run_id, without_kinds=hidden_kinds(who))
    begun = _last_heard(request.headers.get("last-event-id")) or since
    return stream(request, lambda closing: follow(db, wanted, begun, closing))


def _last_heard(text: str | None) -> float | None:
    try:
        instant = float(text or "")
    except ValueError:
        return None
    return instant if 0 <= instant < _LATEST else None


async def follow(
    db: Database,
    wanted: EventFilter,
    since: float | None,
    closing: anyio.Event,
) -> AsyncIterator[ServerSentEvent]:
    """What is new, looked for by each who follows, less often while nothing is.

    The id of each is the time up to which all was sent: who goes on from there gets some of the last seconds again.

    Args:
        since: In seconds since the epoch; None: from now on.
        closing: When it is set, this ends.
    """
    tail = await run_in_threadpool(lambda: events.Tail(db, wanted, since=since))
    pause = _FAST
    async with AsyncBell(db.wake, *ANYTHING) as bell:
        while not closing.is_set():
            try:
                found = await run_in_threadpool(tail.poll)
            except StoreUnavailable:
                found = []
            for each in found:
                yield ServerSentEvent(event=each.event, id=repr(tail.settled), data=event_of(each).model_dump_json())
            pause = _FAST if found else min(pause * 1.3, _SLOW)
            await first_of(bell.wait(pause, _SELDOM, least=_FAST), closing.wait())


@router.post("", status_code=201)
def create_event(who: Asker, new: NewEvent) -> Event:
    """Tell that something happened; it is written when this answers."""
    occurred = new.occurred if new.occurred is None or new.occurred.tzinfo else new.occurred.replace(tzinfo=UTC)

    def act() -> Event:
        told = emit_event(
            new.event, new.resource, occurred=occurred, related=new.related, payload=new.payload, id=new.id
        )
        # Killed before: nobody was answered, and the same id may be sent again.
        if not behind.flush():
            raise StoreUnavailable("the database does not answer: the event is not written")
        return told

    return perform(who, "emit", f"event {new.event}", act)
