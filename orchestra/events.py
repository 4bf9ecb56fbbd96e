"""Events: tell what happened, and read what others told.

`emit_event("order.shipped", resource={"orchestra.resource.id": "order.42"})` works anywhere: in a flow, in a task, in
your own programs. Everything orchestra does is in the same list. Names are Prefect's; labels that begin with
`prefect.resource.` are taken as well.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, ItemsView, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticSerializationError, to_json

from orchestra import clock
from orchestra.context import FlowRunContext, flow_run_context, task_run_context
from orchestra.errors import InvalidEvent
from orchestra.handles import durable_body
from orchestra.store import events as store
from orchestra.store.database import database
from orchestra.store.events import EventFilter
from orchestra.store.tables import LONGEST_KEY, LONGEST_NAME
from orchestra.store.wake import ANYTHING, AsyncBell
from orchestra.unbuilt import absent

__all__ = [
    "Event",
    "EventFilter",
    "EventPage",
    "EventSubscriber",
    "EventsClient",
    "RelatedResource",
    "Resource",
    "emit_event",
    "event_of",
    "get_events_client",
    "get_events_subscriber",
    "read_events",
]

_ID, _NAME, _ROLE = "orchestra.resource.id", "orchestra.resource.name", "orchestra.resource.role"
#: The beginnings of labels that are read as the other one.
_PREFECTS, _OURS = "prefect.resource.", "orchestra.resource."
#: Most bytes of a payload as JSON, and most related resources.
_MOST_PAYLOAD, _MOST_RELATED = 512 * 1024, 100
#: An event follows another one if there is not more than this between them.
_FOLLOWS_WITHIN = timedelta(minutes=5)
#: Seconds between two looks for new events, and the fewest of them where hints say that there are some.
_LOOK, _LEAST = 0.25, 0.05

Labels = Mapping[str, str]


class Resource(RootModel[dict[str, str]]):
    """What an event is about: labels, of which `orchestra.resource.id` says which thing it is."""

    @model_validator(mode="before")
    @classmethod
    def _ours(cls, labels: Any) -> Any:
        return {_our(name): value for name, value in labels.items()} if isinstance(labels, Mapping) else labels

    @model_validator(mode="after")
    def _has_id(self) -> Self:
        if not self.root.get(_ID):
            raise ValueError(f"a resource needs a label {_ID!r}, as in {{{_ID!r}: 'order.42'}}")
        if len(self.root[_ID]) > LONGEST_KEY:
            raise ValueError(f"{_ID!r} has {len(self.root[_ID])} characters, the most are {LONGEST_KEY}")
        return self

    @property
    def id(self) -> str:
        """Which thing it is: `orchestra.flow-run.<id>`, `order.42`."""
        return self.root[_ID]

    @property
    def name(self) -> str | None:
        """What people call it."""
        return self.root.get(_NAME)

    @property
    def labels(self) -> dict[str, str]:
        """All labels."""
        return self.root

    def __getitem__(self, label: str) -> str:
        return self.root[_our(label)]

    def __contains__(self, label: str) -> bool:
        return _our(label) in self.root

    def get(self, label: str, default: str | None = None) -> str | None:
        """A label's value, else `default`."""
        return self.root.get(_our(label), default)

    def items(self) -> ItemsView[str, str]:
        """Labels and their values."""
        return self.root.items()

    def keys(self) -> Iterable[str]:
        """The labels."""
        return self.root.keys()


class RelatedResource(Resource):
    """What an event has to do with besides, in a role: `orchestra.resource.role`."""

    @model_validator(mode="after")
    def _has_role(self) -> Self:
        if not self.root.get(_ROLE):
            raise ValueError(f"a related resource needs a label {_ROLE!r}, as in {{{_ROLE!r}: 'customer'}}")
        return self

    @property
    def role(self) -> str:
        """What it has to do with the event."""
        return self.root[_ROLE]


class Event(BaseModel):
    """Something that happened."""

    model_config = ConfigDict(extra="forbid")

    occurred: datetime
    event: str = Field(min_length=1, max_length=LONGEST_NAME)
    resource: Resource
    related: list[RelatedResource] = Field(default_factory=list, max_length=_MOST_RELATED)
    payload: dict[str, Any] = Field(default_factory=dict)
    id: uuid.UUID = Field(default_factory=uuid.uuid4)
    #: The event that it came from.
    follows: uuid.UUID | None = None

    @field_validator("occurred")
    @classmethod
    def _aware(cls, value: datetime) -> datetime:
        if value.tzinfo is None:
            raise ValueError("give it a zone: datetime.now(UTC), datetime(2026, 11, 22, 9, tzinfo=UTC)")
        return value

    @field_validator("payload")
    @classmethod
    def _plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            text = to_json(value, fallback=str, inf_nan_mode="null")
        except (PydanticSerializationError, ValueError, RecursionError) as error:
            raise ValueError(f"it cannot be written as JSON: {error}") from error
        if len(text) > _MOST_PAYLOAD:
            raise ValueError(f"it is {len(text):,} bytes as JSON, the most are {_MOST_PAYLOAD:,}: keep it elsewhere")
        plain: dict[str, Any] = json.loads(text)
        return plain

    @property
    def involved_resources(self) -> Sequence[Resource]:
        """The resource and the related ones."""
        return [self.resource, *self.related]

    @property
    def resource_in_role(self) -> dict[str, RelatedResource]:
        """Of each role, the first resource."""
        return {each.role: each for each in reversed(self.related)}


@dataclass(frozen=True, slots=True)
class EventPage:
    """A page of events."""

    events: list[Event]
    #: Give it as `after` for the next page; None: there is none.
    next: str | None

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)


def emit_event(
    event: str,
    resource: Labels | Resource,
    occurred: datetime | None = None,
    related: Sequence[Labels | RelatedResource] | None = None,
    payload: Mapping[str, Any] | None = None,
    id: uuid.UUID | str | None = None,
    follows: Event | uuid.UUID | str | None = None,
) -> Event:
    """Tell that something happened.

    In a flow's body on a worker it is a step of the journal: it is written once, together with the next step, and a
    replay gives the same event. Elsewhere it is handed to a thread that writes it within a quarter of a second, and at
    the end of the process; this returns at once. A process that is killed loses what it had not written yet.

    The flow run, task run, flow and tags around the call are added to `related`.

    Args:
        event: What happened, as in `order.shipped`.
        resource: What it happened to: labels, `orchestra.resource.id` among them.
        occurred: When, aware; None: now.
        related: What else it has to do with, each with a label `orchestra.resource.role`.
        payload: More about it; what JSON does not know is written as text.
        id: Its own id; one that was used is not written again. None: a fresh one.
        follows: The event that it came from; one that is more than five minutes away is left out.

    Raises:
        InvalidEvent: A part of it cannot be; says which, and what can.
    """
    flow_run, task_run = flow_run_context.get(), task_run_context.get()
    made = _event(
        occurred=occurred or datetime.fromtimestamp(clock.now(), UTC),
        event=event,
        resource=_labels(resource),
        related=[*map(_labels, related or ()), *_around()],
        payload=dict(payload or {}),
        id=id or uuid.uuid4(),
        follows=None if isinstance(follows, Event) else follows,
    )
    if isinstance(follows, Event) and abs(made.occurred - follows.occurred) < _FOLLOWS_WITHIN:
        made.follows = follows.id
    row = _row(made, None if flow_run is None else flow_run.run_id)
    if flow_run is None or task_run is not None:
        store.record_behind(row)
        return made
    kept = flow_run.runner.emit(row)
    return made if kept["id"] == row["id"] else _of_row(kept)


def filter_of(
    events: Sequence[str],
    resources: Sequence[str],
    since: datetime | None,
    until: datetime | None,
    flow_run_id: uuid.UUID | str | None,
) -> EventFilter:
    """Which events are meant; the arguments are those of `read_events`."""
    return EventFilter(
        tuple(events),
        tuple(resources),
        None if since is None else clock.to_instant(since),
        None if until is None else clock.to_instant(until),
        None if flow_run_id is None else str(flow_run_id),
    )


def read_events(
    *,
    events: Sequence[str] = (),
    resources: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    flow_run_id: uuid.UUID | str | None = None,
    limit: int = 50,
    after: str | None = None,
) -> EventPage:
    """A page of events, the newest first. In a flow's body on a worker it is a step: a replay gives the same page.

    Args:
        events: Their names, whole or as a beginning with `*`: `orchestra.flow-run.*`; one of them is enough.
        resources: Ids of what they are about, in the same way.
        since: From then on, aware.
        until: Before then, aware.
        flow_run_id: What is about this run and its task runs, or was emitted in them.
        limit: Most events of the page.
        after: `next` of the page before.

    Raises:
        StoreUnavailable: The database does not answer.
    """
    wanted = filter_of(events, resources, since, until, flow_run_id)

    def look() -> EventPage:
        found, following = store.page(database(), wanted, limit=limit, after=after)
        return EventPage([event_of(record) for record in found], following)

    runner = durable_body()
    if runner is None:
        return look()
    shape = TypeAdapter(EventPage)
    return shape.validate_python(runner.observe("read-events", lambda: shape.dump_python(look(), mode="json")))


def event_of(record: store.EventRecord) -> Event:
    """An event as the database has it."""
    return Event.model_construct(
        occurred=datetime.fromtimestamp(record.occurred, UTC),
        event=record.event,
        resource=Resource.model_construct(record.resource),
        related=[RelatedResource.model_construct(labels) for labels in record.related],
        payload=record.payload,
        id=uuid.UUID(record.id),
        follows=None if record.follows is None else uuid.UUID(record.follows),
    )


# -- for programs that read along --------------------------------------------------------------------------------


class EventsClient:
    """Writes events, each before `emit` returns: `async with get_events_client() as client`."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is held."""

    async def emit(self, event: Event) -> None:
        """Write an event. Safe to repeat.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        row = _row(event, None)
        await asyncio.to_thread(lambda: database().write(lambda connection: store.record(connection, row)))


class EventSubscriber:
    """The events that come from now on: `async with get_events_subscriber() as events: async for event in events`."""

    def __init__(self, wanted: EventFilter | None) -> None:
        self._wanted = wanted
        self._tail: store.Tail | None = None

    async def __aenter__(self) -> Self:
        self._tail = await asyncio.to_thread(lambda: store.Tail(database(), self._wanted))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is held."""

    async def __aiter__(self) -> AsyncIterator[Event]:
        if self._tail is None:
            raise InvalidEvent("open it first: async with get_events_subscriber() as events")
        async with AsyncBell(database().wake, *ANYTHING) as bell:
            while True:
                for record in await asyncio.to_thread(self._tail.poll):
                    yield event_of(record)
                await bell.wait(_LOOK, least=_LEAST)


def get_events_client() -> EventsClient:
    """A client that writes events to the database of the settings."""
    return EventsClient()


def get_events_subscriber(filter: EventFilter | None = None) -> EventSubscriber:
    """Follow the events that come from now on.

    Args:
        filter: Which; None: all.
    """
    return EventSubscriber(filter)


# -- how they are made -------------------------------------------------------------------------------------------


def _our(label: str) -> str:
    return _OURS + label.removeprefix(_PREFECTS) if label.startswith(_PREFECTS) else label


def _labels(resource: Any) -> Any:
    return resource.root if isinstance(resource, Resource) else resource


def _event(**values: Any) -> Event:
    try:
        return Event(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "event"
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidEvent(f"this event cannot be emitted: {where}: {message}") from None


def _around() -> Iterator[dict[str, str]]:
    """The resources of the runs that the caller is in."""
    flow_run, task_run = flow_run_context.get(), task_run_context.get()
    if task_run is not None:
        yield {_ID: f"{store.TASK_RUN}.{task_run.task_run_id}", _NAME: task_run.task_run_name, _ROLE: "task-run"}
    if flow_run is not None:
        yield from _of_flow_run(flow_run)


def _of_flow_run(run: FlowRunContext) -> Iterator[dict[str, str]]:
    yield {_ID: f"{store.FLOW_RUN}.{run.run_id}", _NAME: run.run_name, _ROLE: "flow-run"}
    yield {_ID: f"orchestra.flow.{run.flow.name}", _NAME: run.flow.name, _ROLE: "flow"}
    for tag in run.tags:
        yield {_ID: f"orchestra.tag.{tag}", _ROLE: "tag"}


def _row(event: Event, run_id: str | None) -> dict[str, Any]:
    return store.new(
        event.event,
        event.resource.root,
        id=str(event.id),
        occurred=event.occurred.timestamp(),
        related=[each.root for each in event.related],
        payload=event.payload,
        follows=None if event.follows is None else str(event.follows),
        run_id=run_id,
    )


def _of_row(row: Mapping[str, Any]) -> Event:
    """The event that an earlier start of this body has emitted."""
    return Event(
        occurred=datetime.fromtimestamp(row["occurred"], UTC),
        event=row["event"],
        resource=json.loads(row["resource"]),
        related=json.loads(row["related"]),
        payload=json.loads(row["payload"]),
        id=row["id"],
        follows=row["follows"],
    )


__getattr__ = absent(
    __name__,
    "automations",
    """
    ResourceSpecification EventTrigger MetricTrigger CompoundTrigger SequenceTrigger DeploymentEventTrigger
    DeploymentMetricTrigger DeploymentCompoundTrigger DeploymentSequenceTrigger
    """,
)
