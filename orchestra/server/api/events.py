"""`/api/events`: what happened to runs and by people; and what others tell."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field

from orchestra.events import Event, emit_event, event_of
from orchestra.server.acts import perform
from orchestra.server.api.shapes import After, Body, Id, Key, Limit, Name, Page, Text, Values
from orchestra.server.dependencies import Asker, Db, hidden_kinds
from orchestra.store import events
from orchestra.store.events import EventFilter

router = APIRouter(prefix="/events", tags=["events"])

_Labels = Annotated[dict[Name, Text], Field(max_length=100)]
_When = Annotated[float | None, Query(ge=0, lt=1e11, description="In seconds since the epoch.")]


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


@router.post("", status_code=202)
def create_event(who: Asker, new: NewEvent) -> Event:
    """Tell that something happened; it is written within a quarter of a second."""
    occurred = new.occurred if new.occurred is None or new.occurred.tzinfo else new.occurred.replace(tzinfo=UTC)

    def act() -> Event:
        return emit_event(
            new.event, new.resource, occurred=occurred, related=new.related, payload=new.payload, id=new.id
        )

    return perform(who, "emit", f"event {new.event}", act)
