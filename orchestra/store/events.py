"""Events: what was emitted, what people and the system did, and every change of state, as one list.

What was emitted or done is written to `events`, an act in the transaction that does it. Changes of state are rows
already, those of runs and steps and the history between: they are read as events and not written a second time.
"""

from __future__ import annotations

import heapq
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock
from orchestra.errors import ConfigurationError
from orchestra.names import clean_text
from orchestra.states import StateType
from orchestra.store import history
from orchestra.store.behind import behind
from orchestra.store.database import Database, insert
from orchestra.store.tables import Kind, Phase, events, flow_runs, phase_is, states, steps
from orchestra.store.wake import EVENT, note

#: Resources of orchestra's own: `orchestra.flow-run.<id>`.
FLOW_RUN, TASK_RUN = "orchestra.flow-run", "orchestra.task-run"
#: The label that holds a resource's id.
ID = "orchestra.resource.id"
_NAME, _ROLE = "orchestra.resource.name", "orchestra.resource.role"
_CREATED = f"{FLOW_RUN}.created"

#: Names of which a filter's prefix is looked up one by one; where there are more, events are looked through by time.
_MOST_NAMES = 100
#: For how long a tail looks again for events that were written late by other processes, in seconds.
_LATE = 5.0
#: Events that a tail reads at once, and new ones after which a poll ends.
_PAGE, _MOST_NEW = 1000, 5000

Row = dict[str, Any]
Condition = sa.ColumnElement[bool]


# -- writing -----------------------------------------------------------------------------------------------------


def new(
    event: str,
    resource: Mapping[str, str],
    *,
    id: str | None = None,
    occurred: float | None = None,
    related: Sequence[Mapping[str, str]] = (),
    payload: Mapping[str, Any] | None = None,
    follows: str | None = None,
    run_id: str | None = None,
) -> Row:
    """The row of an event that happens now. Made before the transaction that writes it, which may be repeated.

    Args:
        event: Its name, `orchestra.<noun>.<what happened>` where the system tells it.
        resource: The labels of what it happened to, `orchestra.resource.id` among them.
        id: Its own id; None: a fresh one.
        occurred: When, in seconds since the epoch; None: now.
        related: Labels of what else it has to do with, each with `orchestra.resource.role`.
        payload: What JSON can hold.
        follows: The id of the event that it came from.
        run_id: The flow run that it is about, or that emitted it.
    """
    moment = clock.now()
    resource_id = clean_text(resource[ID])
    return {
        "id": id or new_id(),
        "occurred": moment if occurred is None else occurred,
        "received": moment,
        "event": clean_text(event),
        "resource_id": resource_id,
        "resource_kind": resource_id.rpartition(".")[0],
        "resource": _json(resource),
        "related": _json(list(related)),
        "payload": _json(payload or {}),
        "follows": follows,
        "run_id": run_id,
    }


def act(
    noun: str,
    verb: str,
    thing_id: str,
    name: str | None = None,
    *,
    id: str | None = None,
    run_id: str | None = None,
    **payload: Any,
) -> Row:
    """The row of something done to one of orchestra's own things: `act("deployment", "paused", its_id, its_name)`.

    Args:
        noun: What it was done to.
        verb: What was done, in the past.
        thing_id: The id of the thing.
        name: What people call it.
        id: Of the event, where this is called within a transaction that may be repeated; None: a fresh one.
        run_id: The flow run that it is about.
        payload: More about it, for people.
    """
    labels = {ID: f"orchestra.{noun}.{thing_id}"} | ({} if name is None else {_NAME: name})
    return new(f"orchestra.{noun}.{verb}", labels, id=id, payload=payload, run_id=run_id)


def new_id() -> str:
    """A fresh id of an event."""
    return str(uuid.uuid4())


def record(connection: Connection, *rows: Row) -> None:
    """Write events within the transaction of what they tell of. One that is there already is not written again."""
    if rows:
        connection.execute(insert(connection, events).on_conflict_do_nothing(), list(rows))
        note(connection, EVENT)


def record_behind(row: Row) -> None:
    """Hand an event to this process's writer, which writes it within a quarter of a second; returns at once."""
    behind().add(events, row, keep=True)


def effect(row: Row) -> Callable[[Connection, float], None]:
    """What writes the event in the transaction of a step of the journal."""
    return lambda connection, moment: record(connection, row)


def _json(value: Any) -> str:
    return clean_text(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str))


# -- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events: those for which every given part fits.

    Names and resources are given whole, or as the beginning of a text with `*` behind it; one of several is enough.
    """

    events: tuple[str, ...] = ()
    #: Ids of resources.
    resources: tuple[str, ...] = ()
    #: From when on, and before when, in seconds since the epoch.
    since: float | None = None
    until: float | None = None
    #: What is about this flow run and its task runs, or was emitted by them.
    flow_run_id: str | None = None
    #: Kinds of resources of which emitted events are left out, as "orchestra.user".
    without_kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EventRecord:
    """An event as it is read. `cursor` says where it stands in the list, to go on behind it."""

    id: str
    #: Seconds since the epoch.
    occurred: float
    event: str
    resource: dict[str, str]
    related: list[dict[str, str]]
    payload: dict[str, Any]
    follows: str | None
    cursor: str


def page(
    db: Database, wanted: EventFilter | None = None, *, limit: int = 50, after: str | None = None, newest: bool = True
) -> tuple[list[EventRecord], str | None]:
    """A page of events by time, and the cursor behind which the next one begins; None: there is no more.

    Args:
        db: The database.
        wanted: Which; None: all.
        limit: Most events of the page.
        after: The cursor that the page before gave.
        newest: The newest first, else the oldest.

    Raises:
        ConfigurationError: `after` is no cursor.
        StoreUnavailable: No answer.
    """
    reading = _Reading(wanted or EventFilter(), limit + 1, _cursor(after), newest)
    found = db.read(reading.read)
    return found[:limit], found[limit - 1].cursor if len(found) > limit else None


class Tail:
    """Follows the list of events: each `poll` gives those that were not given yet, once each, by time.

    Processes commit out of the order of time, so a tail looks at the last seconds again.
    """

    def __init__(self, db: Database, wanted: EventFilter | None = None, *, since: float | None = None) -> None:
        """Follow from `since` on, in seconds since the epoch; None: from now on."""
        self._db = db
        self._wanted = wanted or EventFilter()
        begin = db.now() if since is None else since
        self._floor: tuple[float, int, Any] = (begin, -1, "")
        #: When each event above the floor was written down or happened.
        self._seen: dict[str, float] = {}

    def poll(self) -> list[EventRecord]:
        """The new events; where very many are new, the oldest of them, and the others next time.

        Raises:
            StoreUnavailable: No answer.
        """
        # By the database's clock, which is what hosts have in common.
        late = self._db.now() - _LATE
        found: list[EventRecord] = []
        place = settled = self._floor
        while len(found) < _MOST_NEW:
            read = self._db.read(_Reading(self._wanted, _PAGE, place, False, received=True).read)
            for event in read:
                place = _cursor(event.cursor) or place
                settled = place if place[0] < late else settled
                if event.id not in self._seen:
                    self._seen[event.id] = place[0]
                    found.append(event)
            if len(read) < _PAGE:
                settled = max(settled, (late, -1, ""))
                break
        self._raise_floor(settled)
        return found

    @property
    def settled(self) -> float:
        """The time, in seconds since the epoch, up to which all events were given."""
        return self._floor[0]

    def _raise_floor(self, settled: tuple[float, int, Any]) -> None:
        if settled > self._floor:
            self._floor = settled
            self._seen = {id: at for id, at in self._seen.items() if at >= settled[0]}


@dataclass(frozen=True, slots=True)
class _Source:
    """Rows of a table that are read as events."""

    rank: int
    #: What its events' names begin with, and the column that follows; None: the name is `name` itself.
    prefix: str
    name: sa.ColumnElement[str] | None
    time: sa.ColumnElement[float]
    key: sa.ColumnElement[Any]
    columns: tuple[sa.ColumnElement[Any], ...]
    conditions: tuple[Condition, ...]
    run_id: sa.ColumnElement[Any]
    #: What the ids of its resources begin with; empty: they are in `resource`.
    kind: str
    resource: sa.ColumnElement[str]
    number: bool = False


class _Reading:
    """One page out of all sources."""

    def __init__(
        self,
        wanted: EventFilter,
        limit: int,
        after: tuple[float, int, Any] | None,
        newest: bool,
        *,
        received: bool = False,
    ) -> None:
        self._wanted, self._limit, self._after, self._newest = wanted, limit, after, newest
        self._received = received

    def read(self, connection: Connection) -> list[EventRecord]:
        found: list[tuple[tuple[float, int, Any], EventRecord]] = []
        for source in _SOURCES:
            for conditions in self._conditions(connection, source):
                found += self._rows(connection, source, conditions)
        first = heapq.nlargest if self._newest else heapq.nsmallest
        unique = dict(found)
        return [unique[place] for place in first(self._limit, unique)]

    def _time(self, source: _Source) -> sa.ColumnElement[float]:
        return events.c.received if self._received and source.rank == _EMITTED else source.time

    def _conditions(self, connection: Connection, source: _Source) -> Iterator[list[Condition]]:
        """Of a source, the conditions of each query that it needs: of which each is served by an index."""
        common = [*source.conditions, *self._range(source)]
        if (run := self._wanted.flow_run_id) is not None:
            common.append(source.run_id == run)
        if self._wanted.without_kinds and source.rank == _EMITTED:
            common.append(events.c.resource_kind.not_in(self._wanted.without_kinds))
        for named in self._named(connection, source):
            for about in self._about(connection, source):
                yield [*common, *named, *about]

    def _range(self, source: _Source) -> Iterator[Condition]:
        time = self._time(source)
        if self._wanted.since is not None:
            yield source.time >= self._wanted.since
        if self._wanted.until is not None:
            yield source.time < self._wanted.until
        if self._after is None:
            return
        at, rank, key = self._after
        beyond = time < at if self._newest else time > at
        if rank == source.rank:
            further = source.key < key if self._newest else source.key > key
            # The first is what an index takes; the second is exact.
            yield time <= at if self._newest else time >= at
            yield sa.or_(beyond, sa.and_(time == at, further))
        elif (rank > source.rank) == self._newest:
            yield time <= at if self._newest else time >= at
        else:
            yield beyond

    def _named(self, connection: Connection, source: _Source) -> Iterator[list[Condition]]:
        """By the name of the event."""
        if not self._wanted.events:
            yield []
            return
        for pattern in self._wanted.events:
            text, is_prefix = _pattern(pattern)
            if is_prefix and source.prefix.startswith(text):
                yield []
            elif source.name is None:
                if source.prefix == text and not is_prefix:
                    yield []
            elif text.startswith(source.prefix):
                yield from _names(connection, source, source.name, text[len(source.prefix) :], is_prefix)

    def _about(self, connection: Connection, source: _Source) -> Iterator[list[Condition]]:
        """By the resource."""
        if not self._wanted.resources:
            yield []
            return
        for pattern in self._wanted.resources:
            text, is_prefix = _pattern(pattern)
            if source.kind:
                yield from _of_kind(source, text, is_prefix)
            elif not is_prefix:
                yield [events.c.resource_id == text]
            else:
                yield from _kinds(connection, text)

    def _rows(
        self, connection: Connection, source: _Source, conditions: Sequence[Condition]
    ) -> list[tuple[tuple[float, int, Any], EventRecord]]:
        time = self._time(source)
        order = (time.desc(), source.key.desc()) if self._newest else (time, source.key)
        query = sa.select(time.label("at"), source.key.label("key"), *source.columns)
        some = query.where(*conditions).order_by(*order).limit(self._limit).subquery()
        if source.rank == _EMITTED:
            rows = connection.execute(sa.select(some)).all()
        else:
            run: tuple[Any, ...] = (
                flow_runs.c.name.label("run_name"), flow_runs.c.flow_name, flow_runs.c.deployment_id,
            )  # fmt: skip
            joined = sa.join(some, flow_runs, flow_runs.c.id == some.c.run_id)
            if source.rank == _TASK_STATES:
                # A local run writes a step when it has ended.
                joined = sa.outerjoin(joined, steps, steps.c.id == some.c.step_id)
                run = (*run, steps.c.name.label("step_name"))
            rows = connection.execute(sa.select(some, *run).select_from(joined)).all()
        return [((row.at, source.rank, row.key), _MAKERS[source.rank](row, source.rank)) for row in rows]


def _pattern(text: str) -> tuple[str, bool]:
    """A text to be met, or to begin with."""
    return (text[:-1], True) if text.endswith("*") else (text, False)


def _names(
    connection: Connection, source: _Source, column: sa.ColumnElement[str], text: str, is_prefix: bool
) -> Iterator[list[Condition]]:
    if not is_prefix:
        yield [column == text]
        return
    found = _distinct(connection, column, source.conditions)
    if found is None:
        yield [_begins(column, text)]
        return
    for name in found:
        if name.startswith(text):
            yield [column == name]


def _kinds(connection: Connection, text: str) -> Iterator[list[Condition]]:
    """The resources of `events` whose ids begin with the text, kind by kind."""
    column = events.c.resource_kind
    found = _distinct(connection, column, ())
    if found is None:
        yield [_begins(events.c.resource_id, text)]
        return
    for kind in found:
        if kind and f"{kind}.".startswith(text):
            yield [column == kind]
        elif text.startswith(kind):
            yield [column == kind, _begins(events.c.resource_id, text)]


def _of_kind(source: _Source, text: str, is_prefix: bool) -> Iterator[list[Condition]]:
    """The resources of a source whose ids are of one kind."""
    kind = f"{source.kind}."
    if is_prefix and kind.startswith(text):
        yield []
    elif text.startswith(kind):
        id = text[len(kind) :]
        within = source.resource.between(id, f"{id}~") if is_prefix else source.resource == id
        if source.rank == _TASK_STATES:
            # By the run, which has an index.
            meant = steps.c.id.between(id, f"{id}~") if is_prefix else steps.c.id == id
            yield [within, states.c.run_id.in_(sa.select(steps.c.run_id).where(meant))]
        else:
            yield [within]


def _begins(column: sa.ColumnElement[str], text: str) -> Condition:
    # Not by LIKE, which on SQLite takes A for a.
    return sa.func.substr(column, 1, len(text)) == text


def _distinct(
    connection: Connection, column: sa.ColumnElement[str], conditions: Sequence[Condition]
) -> list[str] | None:
    """The values of an indexed column, each found by one step in the index; None: there are very many."""
    first = sa.select(sa.func.min(column).label("value")).where(*conditions).cte("found", recursive=True)
    following = sa.select(sa.func.min(column)).where(*conditions, column > first.c.value).scalar_subquery()
    found = first.union_all(sa.select(following).where(first.c.value.is_not(None)))
    query = sa.select(found.c.value).where(found.c.value.is_not(None)).limit(_MOST_NAMES + 1)
    values = list(connection.scalars(query))
    return values if len(values) <= _MOST_NAMES else None


def _cursor(text: str | None) -> tuple[float, int, Any] | None:
    if text is None:
        return None
    parts = text.split("/")
    try:
        at, rank, key = float(parts[0]), int(parts[1]), parts[2]
        return at, rank, int(key) if rank in (_RUN_STATES, _TASK_STATES) else key
    except (ValueError, IndexError):
        raise ConfigurationError(f"{text!r} is no cursor of events: take `next` of the page before") from None


def _place(row: Any, rank: int) -> str:
    return f"{row.at!r}/{rank}/{row.key}"


# -- the sources -------------------------------------------------------------------------------------------------

#: In this order where times are the same: a run is created, then it runs, then it ends.
(
    _CREATIONS, _SCHEDULED, _PENDING, _RUN_STATES, _TASKS_PENDING, _TASKS_RUNNING, _TASK_STATES, _TASK_ENDS, _EMITTED,
) = range(9)  # fmt: skip
_STATE = (
    states.c.run_id, states.c.step_id, states.c.type.label("type"), states.c.name.label("name"),
    states.c.message.label("message"),
)  # fmt: skip

_OF_STEP = (steps.c.run_id, steps.c.id.label("step_id"), steps.c.name.label("step_name"))


def _told(type: StateType, name: str) -> tuple[sa.ColumnElement[Any], ...]:
    """The columns of a state that a row tells by having an instant of it."""
    return (
        sa.literal_column(f"'{type.value}'").label("type"), sa.literal_column(f"'{name}'").label("name"),
        sa.null().label("message"),
    )  # fmt: skip


def _first(rank: int, type: StateType, name: str) -> _Source:
    """The state that flow runs were created in."""
    return _Source(
        rank=rank,
        prefix=f"{FLOW_RUN}.{name}",
        name=None,
        time=flow_runs.c.created_at,
        key=flow_runs.c.id,
        columns=(flow_runs.c.id.label("run_id"), *_told(type, name)),
        conditions=(flow_runs.c.first_state == name,),
        run_id=flow_runs.c.id,
        kind=FLOW_RUN,
        resource=flow_runs.c.id,
    )


def _seen(rank: int, time: sa.ColumnElement[float | None], type: StateType, name: str) -> _Source:
    """The state that task runs were first seen in at an instant of their rows."""
    return _Source(
        rank=rank,
        prefix=f"{TASK_RUN}.{name}",
        name=None,
        time=cast("sa.ColumnElement[float]", time),
        key=steps.c.id,
        columns=(*_OF_STEP, *_told(type, name)),
        conditions=(time.is_not(None),),
        run_id=steps.c.run_id,
        kind=TASK_RUN,
        resource=steps.c.id,
    )


_SOURCES = (
    _Source(
        rank=_CREATIONS,
        prefix=_CREATED,
        name=None,
        time=flow_runs.c.created_at,
        key=flow_runs.c.id,
        columns=(flow_runs.c.id.label("run_id"), flow_runs.c.scheduled_at),
        conditions=(),
        run_id=flow_runs.c.id,
        kind=FLOW_RUN,
        resource=flow_runs.c.id,
    ),
    _first(_SCHEDULED, StateType.SCHEDULED, "Scheduled"),
    _first(_PENDING, StateType.PENDING, "Pending"),
    _Source(
        rank=_RUN_STATES,
        prefix=f"{FLOW_RUN}.",
        name=states.c.name,
        time=states.c.timestamp,
        key=states.c.id,
        columns=_STATE,
        conditions=(states.c.step_id.is_(None),),
        run_id=states.c.run_id,
        kind=FLOW_RUN,
        resource=states.c.run_id,
    ),
    _seen(_TASKS_PENDING, steps.c.pending_at, StateType.PENDING, "Pending"),
    _seen(_TASKS_RUNNING, steps.c.running_at, StateType.RUNNING, "Running"),
    _Source(
        rank=_TASK_STATES,
        prefix=f"{TASK_RUN}.",
        name=states.c.name,
        time=states.c.timestamp,
        key=states.c.id,
        columns=_STATE,
        conditions=(states.c.step_id.is_not(None), history.ON_THE_WAY),
        run_id=states.c.run_id,
        kind=TASK_RUN,
        resource=states.c.step_id,
    ),
    _Source(
        rank=_TASK_ENDS,
        prefix=f"{TASK_RUN}.",
        name=steps.c.state_name,
        time=steps.c.end_time,
        key=steps.c.id,
        columns=(
            *_OF_STEP, steps.c.state_type.label("type"), steps.c.state_name.label("name"),
            steps.c.state_message.label("message"), steps.c.attempt, steps.c.start_time, steps.c.worker,
        ),
        conditions=(phase_is(steps, Phase.DONE), steps.c.kind == sa.literal_column(f"'{Kind.TASK.value}'")),
        run_id=steps.c.run_id,
        kind=TASK_RUN,
        resource=steps.c.id,
    ),
    _Source(
        rank=_EMITTED,
        prefix="",
        name=events.c.event,
        time=events.c.occurred,
        key=events.c.id,
        columns=(
            events.c.occurred, events.c.event, events.c.resource, events.c.related, events.c.payload, events.c.follows,
        ),
        conditions=(),
        run_id=events.c.run_id,
        kind="",
        resource=events.c.resource_id,
    ),
)  # fmt: skip


def _creation(row: Any, rank: int) -> EventRecord:
    payload = {"scheduled_start_time": _iso(row.scheduled_at)}
    return _of_run(row, rank, _CREATED, payload)


def _run_change(row: Any, rank: int) -> EventRecord:
    return _of_run(row, rank, f"{FLOW_RUN}.{row.name}", _state_payload(row), _state_labels(row))


def _task_change(row: Any, rank: int) -> EventRecord:
    return _of_task(row, rank, row.step_name, _state_payload(row))


def _task_end(row: Any, rank: int) -> EventRecord:
    told = {"run_count": row.attempt, "start_time": _iso(row.start_time), "worker": row.worker}
    return _of_task(row, rank, row.step_name, _state_payload(row) | told)


def _emitted(row: Any, rank: int) -> EventRecord:
    return EventRecord(
        row.key,
        row.occurred,
        row.event,
        json.loads(row.resource),
        json.loads(row.related),
        json.loads(row.payload),
        row.follows,
        _place(row, rank),
    )


def _of_run(row: Any, rank: int, event: str, payload: Row, labels: Mapping[str, str] | None = None) -> EventRecord:
    resource = {**_run_labels(row), **(labels or {})}
    related = [{ID: f"orchestra.flow.{row.flow_name}", _NAME: row.flow_name, _ROLE: "flow"}]
    if row.deployment_id is not None:
        related.append({ID: f"orchestra.deployment.{row.deployment_id}", _ROLE: "deployment"})
    return _derived(row, rank, event, resource, related, payload)


def _of_task(row: Any, rank: int, name: str | None, payload: Row) -> EventRecord:
    resource = {ID: f"{TASK_RUN}.{row.step_id}"} | ({} if name is None else {_NAME: name}) | _state_labels(row)
    related = [
        _run_labels(row) | {_ROLE: "flow-run"},
        {ID: f"orchestra.flow.{row.flow_name}", _NAME: row.flow_name, _ROLE: "flow"},
    ]
    return _derived(row, rank, f"{TASK_RUN}.{row.name}", resource, related, payload)


def _derived(
    row: Any, rank: int, event: str, resource: dict[str, str], related: list[dict[str, str]], payload: Row
) -> EventRecord:
    # The same row is the same event, each time it is read; but a step that is set back before it runs begins anew.
    told = f"{rank}/{row.key}/{row.at!r}" if rank == _TASKS_RUNNING else f"{rank}/{row.key}"
    id = str(uuid.uuid5(_NAMESPACE, told))
    return EventRecord(id, row.at, event, resource, related, payload, None, _place(row, rank))


def _run_labels(row: Any) -> dict[str, str]:
    return {ID: f"{FLOW_RUN}.{row.run_id}", _NAME: row.run_name}


def _state_labels(row: Any) -> dict[str, str]:
    told = {} if row.message is None else {"orchestra.state-message": row.message}
    return {"orchestra.state-name": row.name, "orchestra.state-type": row.type} | told


def _state_payload(row: Any) -> Row:
    return {"validated_state": {"type": row.type, "name": row.name, "message": row.message}}


def _iso(instant: float | None) -> str | None:
    moment = clock.to_datetime(instant)
    return None if moment is None else moment.isoformat()


_MAKERS: dict[int, Callable[[Any, int], EventRecord]] = {
    _CREATIONS: _creation,
    _SCHEDULED: _run_change,
    _PENDING: _run_change,
    _RUN_STATES: _run_change,
    _TASKS_PENDING: _task_change,
    _TASKS_RUNNING: _task_change,
    _TASK_STATES: _task_change,
    _TASK_ENDS: _task_end,
    _EMITTED: _emitted,
}
#: Namespace of the ids of events that are read from other rows.
_NAMESPACE = uuid.UUID("2c8e0a1e-6f0b-4f0f-9d6e-3a8a3a1c5b77")
