"""What people ask of the database: lists and single records, read only, with Prefect's field names.

Lists are paged by key: a page starts after the record whose id is given, so that the last page of a million
runs costs what the first does. A page that no index serves may hold fewer records than it might, and even none, and
still name a next one (`spans.py`). Values are shown as previews: no type is imported and nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, Table, and_, func, or_, select

from orchestra import clock, serializers
from orchestra.errors import FlowRunNotFound, GraphTooLarge, TaskRunNotFound
from orchestra.states import FINAL, StateType
from orchestra.store import history, spans
from orchestra.store.database import Database, instant
from orchestra.store.interventions import OpenPause, labels, read_pauses
from orchestra.store.spans import Found, Part, unindexed
from orchestra.store.tables import (
    Kind,
    Phase,
    edges,
    flow_runs,
    flows,
    has_tag,
    is_tagged,
    leaders,
    owed_hooks,
    phase_is,
    states,
    steps,
)

T = TypeVar("T")

#: Names of states that are finer than their type, and the type each belongs to: lets a filter use an index.
_TYPE_OF_NAME = {
    "Late": StateType.SCHEDULED,
    "AwaitingRetry": StateType.SCHEDULED,
    "Waiting": StateType.RUNNING,
    "Retrying": StateType.RUNNING,
    "TimedOut": StateType.FAILED,
    "UpstreamFailed": StateType.FAILED,
    "NonDeterministic": StateType.PAUSED,
    "Suspended": StateType.PAUSED,
} | {kind.value.capitalize(): kind for kind in StateType}

#: Types of state of runs that have not ended: few, however long the history is.
OPEN = frozenset(kind.value for kind in StateType) - {kind.value for kind in FINAL}


def type_of_name(name: str) -> str | None:
    """The type that states of this name have; None for a name of a user's own."""
    return _TYPE_OF_NAME.get(name)


def names_of_type(kind: str) -> list[str]:
    """The names that states of a type have."""
    return [name for name, its_type in _TYPE_OF_NAME.items() if its_type == kind]


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list."""

    items: tuple[T, ...]
    #: Hand this as `after` to get the next page; None: this was the last.
    next: str | None


@dataclass(frozen=True, slots=True)
class StateRecord:
    """One state a run was in."""

    type: str
    name: str
    message: str | None
    timestamp: datetime | None


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow that ran, or was declared on a worker."""

    id: str
    name: str
    path: str
    description: str | None
    created: datetime | None
    updated: datetime | None
    last_run_state_name: str | None
    last_run_created: datetime | None


@dataclass(frozen=True, slots=True)
class FlowRun:
    """One flow run. `total_run_time` is in seconds, up to now for one that runs."""

    id: str
    name: str
    flow_id: str | None
    flow_name: str
    state_type: str
    state_name: str
    state: StateRecord
    parameters: Any
    tags: tuple[str, ...]
    created: datetime | None
    expected_start_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    total_run_time: float
    run_count: int
    parent_flow_run_id: str | None
    parent_task_run_id: str | None
    root_flow_run_id: str
    idempotency_key: str | None
    flow_version: str | None
    work_queue_name: str | None
    priority: int | None
    runner: str
    path: str
    entrypoint: str | None
    deployment_id: str | None

    @property
    def is_final(self) -> bool:
        """Whether the run has ended."""
        return StateType(self.state_type) in _FINAL_TYPES


@dataclass(frozen=True, slots=True)
class PauseRecord:
    """A pause that a run waits at, and what it asks for."""

    #: By which `resume` may name it.
    key: str
    description: str | None
    #: JSON schema of the input; None: it is only to be resumed.
    schema: dict[str, Any] | None
    #: Why the input before was refused.
    refused: str | None
    since: datetime | None
    #: When it is given up.
    until: datetime | None


@dataclass(frozen=True, slots=True)
class OwedHooksRecord:
    """State hooks of a run, or of one of its steps, that have not run to their end."""

    #: None: the flow run's own.
    step_key: str | None
    #: The state that they are told of.
    state_name: str
    #: Who runs them now.
    worker: str | None
    #: Why they wait, where no worker has their code.
    waits_for: str | None


@dataclass(frozen=True, slots=True)
class FlowRunDetails:
    """A flow run with what only its own page shows."""

    run: FlowRun
    result: Any
    #: Unfinished steps of the run, and those of them it cannot go on without.
    unfinished: int
    needed: int
    deadline: datetime | None
    worker: str | None
    lease_until: datetime | None
    lapses: int
    #: What it waits for people to do.
    pauses: tuple[PauseRecord, ...]
    owed_hooks: tuple[OwedHooksRecord, ...]
    states: tuple[StateRecord, ...]


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One step of a flow run; a task run where `kind` is "task". `total_run_time` is in seconds."""

    id: str
    name: str
    flow_run_id: str
    task_key: str | None
    dynamic_key: str
    kind: str
    tags: tuple[str, ...]
    state_type: str
    state_name: str
    state: StateRecord
    created: datetime | None
    expected_start_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    total_run_time: float
    run_count: int
    flow_run_run_count: int
    child_flow_run_id: str | None
    work_queue_name: str | None
    worker: str | None
    inline: bool


@dataclass(frozen=True, slots=True)
class TaskRunDetails:
    """A task run with what only its own page shows."""

    run: TaskRun
    task_inputs: Any
    result: Any
    upstream: tuple[str, ...]
    lease_until: datetime | None
    lapses: int
    states: tuple[StateRecord, ...]


@dataclass(frozen=True, slots=True)
class StepCount:
    """How many steps of one task are in one state."""

    name: str
    kind: str
    state_type: str
    state_name: str
    count: int


@dataclass(frozen=True, slots=True)
class Node:
    """One step as the graph of its run shows it."""

    key: str
    name: str
    kind: str
    state_type: str
    state_name: str
    inline: bool
    queue: str | None
    #: The same for all steps that were dispatched together; seconds since the epoch.
    created_at: float
    #: Step keys it was submitted behind, as far as they had not ended then.
    upstream: tuple[str, ...] = ()


#: A graph of more edges is not given step by step.
_MOST_EDGES = 200_000
_FINAL_TYPES = frozenset({StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED})
_RUN_LISTED = [column for column in flow_runs.c if column.name not in {"result", "outcome"}]
STEP_LISTED = [column for column in steps.c if column.name not in {"result", "inputs"}]


def list_flow_runs(
    db: Database,
    *,
    limit: int = 15,
    after: str | None = None,
    flow_name: str | None = None,
    state_types: Iterable[str] = (),
    state_names: Iterable[str] = (),
    parent_flow_run_id: str | None = None,
    tags: Iterable[str] = (),
    deployment_id: str | None = None,
) -> Page[FlowRun]:
    """The newest flow runs first.

    Args:
        limit: Most runs on the page.
        after: Id of the last run of the page before.
        state_types: Only runs of these types ("FAILED").
        state_names: Only runs in states of these names ("AwaitingRetry").
        tags: Only runs that have all of these.
        deployment_id: Only runs of this deployment.

    Raises:
        FlowRunNotFound: `after` is not there (any more).
    """
    column = flow_runs.c
    names, types = tuple(state_names), _types(state_types, state_names)
    named = [column.state_name.in_(names)] if names else []
    tagged = _tagged(flow_runs, tags)
    of_flow = [unindexed(column.flow_name) == flow_name] if flow_name else []
    of_types = [unindexed(column.state_type).in_(types)] if types else []
    if parent_flow_run_id:
        # These few are sorted.
        of_deployment = [unindexed(column.deployment_id) == deployment_id] if deployment_id else []
        other = [*of_deployment, *of_flow, *of_types, *named, *tagged]
        parts = [Part([column.parent_run_id == parent_flow_run_id], other)]
    elif types and OPEN.issuperset(types):
        # Of a flow or deployment there are many more runs than have not ended.
        of_deployment = [unindexed(column.deployment_id) == deployment_id] if deployment_id else []
        other = [*of_deployment, *of_flow, *named, *tagged]
        parts = [Part([column.state_type == kind], other) for kind in types]
    elif deployment_id:
        other = [*of_flow, *of_types, *named, *tagged]
        parts = [Part([column.deployment_id == deployment_id], other, is_scattered=True)]
    elif flow_name:
        parts = [Part([column.flow_name == flow_name], [*of_types, *named, *tagged], is_scattered=True)]
    elif types:
        parts = [Part([column.state_type == kind], [*named, *tagged], is_scattered=True) for kind in types]
    else:
        parts = [Part(tagged[:1], [*named, *tagged[1:]], is_scattered=bool(tagged))]

    def page(conn: Connection) -> Found:
        start = place_of(conn, flow_runs, after, FlowRunNotFound)
        return spans.newest(conn, select_runs(), flow_runs, parts, limit=limit + 1, start=start)

    return _spanned(db.read(page), flow_run_of, limit)


def read_flow_run(db: Database, flow_run_id: str) -> FlowRunDetails:
    """One flow run.

    Raises:
        FlowRunNotFound: There is none with this id.
    """

    def look(
        conn: Connection,
    ) -> tuple[RowMapping, list[OpenPause], tuple[OwedHooksRecord, ...], tuple[StateRecord, ...]]:
        query = select_runs(flow_runs.c.result, flow_runs.c.outcome).where(flow_runs.c.id == flow_run_id)
        row = conn.execute(query).mappings().one_or_none()
        if row is None:
            raise FlowRunNotFound(flow_run_id)
        pauses = [] if row["phase"] == Phase.DONE else read_pauses(conn, flow_run_id, row["run_attempt"])
        return row, pauses, _owed_hooks(conn, flow_run_id), _run_history(conn, flow_run_id)

    row, pauses, owed, history = db.read(look)
    return FlowRunDetails(
        run=flow_run_of(row),
        result=_result(row),
        unfinished=row["wait_open"] or 0,
        needed=row["wait_needed"] or 0,
        deadline=clock.to_datetime(row["deadline_at"]),
        worker=row["owner"] if row["phase"] == Phase.CLAIMED else None,
        lease_until=clock.to_datetime(row["lease_until"]) if row["phase"] == Phase.CLAIMED else None,
        lapses=row["lapses"],
        pauses=tuple(_pause(pause, labels(pauses)[pause.step_key]) for pause in pauses),
        owed_hooks=owed,
        states=history,
    )


def find_flow_run(db: Database, flow_run_id: str) -> FlowRun | None:
    """One flow run as lists show it; None where there is none with this id."""
    query = select_runs().where(flow_runs.c.id == flow_run_id)
    row = db.read(lambda conn: conn.execute(query).mappings().one_or_none())
    return None if row is None else flow_run_of(row)


def _owed_hooks(conn: Connection, flow_run_id: str) -> tuple[OwedHooksRecord, ...]:
    query = select(owed_hooks).where(owed_hooks.c.run_id == flow_run_id).order_by(owed_hooks.c.step_key)
    return tuple(
        OwedHooksRecord(
            row.step_key or None,
            row.state_name,
            row.owner if row.phase == Phase.CLAIMED else None,
            row.waits_for,
        )
        for row in conn.execute(query)
    )


def _pause(pause: OpenPause, label: str) -> PauseRecord:
    asked = pause.question
    since, until = clock.to_datetime(pause.created_at), clock.to_datetime(pause.due_at)
    return PauseRecord(label, asked.description, asked.schema, asked.refused, since, until)


def flow_run_state(db: Database, flow_run_id: str) -> StateRecord:
    """The state a flow run is in; cheap, for polling.

    Raises:
        FlowRunNotFound: There is none with this id.
    """
    columns = [flow_runs.c[name] for name in ("state_type", "state_name", "state_message", "end_time", "start_time")]
    query = select(*columns).where(flow_runs.c.id == flow_run_id)
    row = db.read(lambda conn: conn.execute(query).mappings().one_or_none())
    if row is None:
        raise FlowRunNotFound(flow_run_id)
    return _state(row)


def list_task_runs(
    db: Database,
    *,
    limit: int = 15,
    after: str | None = None,
    flow_run_id: str | None = None,
    every_attempt: bool = False,
    kinds: Iterable[str] = (Kind.TASK,),
    state_types: Iterable[str] = (),
    state_names: Iterable[str] = (),
    tags: Iterable[str] = (),
) -> Page[TaskRun]:
    """Task runs: the newest first, or those of one flow run in the order in which they were asked for.

    Args:
        limit: Most task runs on the page.
        after: Id of the last task run of the page before.
        flow_run_id: Only those of this flow run.
        every_attempt: Also those of earlier attempts of that flow run.
        kinds: Kinds of step to list; empty lists all of them.
        state_types: Only those of these types ("FAILED").
        state_names: Only those in states of these names ("AwaitingRetry").
        tags: Only those that have all of these.

    Raises:
        FlowRunNotFound: There is no flow run with that id.
        TaskRunNotFound: `after` is not there (any more).
    """
    kinds, names, types = tuple(kinds), tuple(state_names), _types(state_types, state_names)
    tagged = _tagged(steps, tags)
    other: list[ColumnElement[bool]] = []
    if kinds:
        other.append(steps.c.kind.in_(kinds))
    if names:
        other.append(steps.c.state_name.in_(names))
    if types:
        other.append(steps.c.state_type.in_(types))

    def newest(conn: Connection) -> Found:
        start = place_of(conn, steps, after, TaskRunNotFound)
        parts = [Part(tagged[:1], [*other, *tagged[1:]], is_scattered=bool(tagged))]
        return spans.newest(conn, select(*STEP_LISTED), steps, parts, limit=limit + 1, start=start)

    def of_run(conn: Connection) -> Sequence[RowMapping]:
        mine = (*_of_run(conn, str(flow_run_id), every_attempt), *_after_step(conn, after))
        query = select(*STEP_LISTED).where(*mine, *other, *tagged)
        return mappings(conn, query.order_by(steps.c.run_attempt, steps.c.sequence).limit(limit + 1))

    if flow_run_id is None:
        return _spanned(db.read(newest), task_run_of, limit)
    return _page([task_run_of(row) for row in db.read(of_run)], limit)


def read_task_run(db: Database, task_run_id: str) -> TaskRunDetails:
    """One task run (or other step).

    Raises:
        TaskRunNotFound: There is none with this id.
    """

    def look(conn: Connection) -> tuple[RowMapping, tuple[str, ...], tuple[StateRecord, ...]]:
        row = conn.execute(select(steps).where(steps.c.id == task_run_id)).mappings().one_or_none()
        if row is None:
            raise TaskRunNotFound(task_run_id)
        return row, _upstream_of(conn, row), _step_history(conn, row["run_id"], task_run_id)

    row, upstream, history = db.read(look)
    return TaskRunDetails(
        run=task_run_of(row),
        task_inputs=serializers.preview(row["inputs"]),
        result=_result(row),
        upstream=upstream,
        lease_until=clock.to_datetime(row["lease_until"]) if row["phase"] == Phase.CLAIMED else None,
        lapses=row["lapses"],
        states=history,
    )


def list_flows(db: Database, *, limit: int = 50, after: str | None = None) -> Page[Flow]:
    """Flows by name, each with its newest run.

    Args:
        limit: Most flows on the page.
        after: Name of the last flow of the page before.
    """
    query = select_flows().order_by(flows.c.name).limit(limit + 1)
    if after:
        query = query.where(flows.c.name > after)
    found = [flow_of(row) for row in db.read(lambda conn: mappings(conn, query))]
    return Page(tuple(found[:limit]), found[limit - 1].name if len(found) > limit else None)


def flow_names(db: Database, *, limit: int) -> list[str]:
    """The names of flows, in their order."""
    query = select(flows.c.name).order_by(flows.c.name).limit(limit)
    return db.read(lambda conn: list(conn.scalars(query)))


def task_run_names(db: Database, flow_run_id: str) -> dict[str, str]:
    """The names of all task runs of a flow run, by id."""
    query = select(steps.c.id, steps.c.name).where(steps.c.run_id == flow_run_id)
    return db.read(lambda conn: {row.id: row.name for row in conn.execute(query)})


def state_history(db: Database, flow_run_id: str, task_run_id: str | None = None) -> tuple[StateRecord, ...]:
    """The states a flow run, or one of its task runs, was in, oldest first."""
    if task_run_id is None:
        return db.read(lambda conn: _run_history(conn, flow_run_id))
    return db.read(lambda conn: _step_history(conn, flow_run_id, task_run_id))


def step_counts(db: Database, flow_run_id: str) -> list[StepCount]:
    """How many steps of each task are in each state, for the run's present attempt, in order of asking.

    Raises:
        FlowRunNotFound: There is no flow run with this id.
    """
    shown = (steps.c.path, steps.c.kind, steps.c.state_type, steps.c.state_name)
    name = func.min(steps.c.name).label("name")

    def look(conn: Connection) -> Sequence[RowMapping]:
        query = select(*shown, name, func.count().label("number"), func.min(steps.c.sequence).label("first"))
        return mappings(conn, query.where(*_of_run(conn, flow_run_id, False)).group_by(*shown).order_by("first"))

    return [
        StepCount(_short_name(row), row["kind"], row["state_type"], row["state_name"], row["number"])
        for row in db.read(look)
    ]


def run_graph(db: Database, flow_run_id: str, *, limit: int = 20_000) -> list[Node]:
    """The steps of the run's present attempt in order of asking, with what each waited for.

    Raises:
        FlowRunNotFound: There is no flow run with this id.
        GraphTooLarge: Each of many steps waited for many: every pair would be named.
    """
    names = ("step_key", "name", "kind", "state_type", "state_name", "inline", "queue", "created_at", "join_id")

    def look(conn: Connection) -> tuple[Sequence[RowMapping], dict[str, list[str]]]:
        of_run = _of_run(conn, flow_run_id, False)
        query = select(*(steps.c[name] for name in names)).where(*of_run).order_by(steps.c.sequence).limit(limit)
        return mappings(conn, query), _edges_of(conn, flow_run_id)

    rows, upstream = db.read(look)
    behind = {join: tuple(keys) for join, keys in upstream.items()}
    number = sum(len(behind.get(row["join_id"], ())) for row in rows)
    if number > _MOST_EDGES:
        raise GraphTooLarge(flow_run_id, number)
    return [
        Node(
            row["step_key"],
            row["name"],
            row["kind"],
            row["state_type"],
            row["state_name"],
            bool(row["inline"]),
            row["queue"],
            row["created_at"],
            behind.get(row["join_id"], ()),
        )
        for row in rows
    ]


def waiting_by_queue(db: Database) -> dict[str, int]:
    """How many runs and steps wait for a worker now, by queue."""

    def look(conn: Connection) -> dict[str, int]:
        found: dict[str, int] = {}
        for table, sent in ((flow_runs, flow_runs.c.runner == "celery"), (steps, steps.c.kind == Kind.TASK)):
            due = (phase_is(table, Phase.READY), table.c.due_at <= instant(conn), table.c.queue.is_not(None), sent)
            query = select(table.c.queue, func.count()).where(*due).group_by(table.c.queue)
            for queue, count in conn.execute(query):
                found[queue] = found.get(queue, 0) + count
        return found

    return db.read(look)


def waiting_runs(db: Database, queues: Iterable[str], *, limit: int = 20) -> list[FlowRun]:
    """The flow runs that wait to start, or to go on, on these queues, the first due first."""
    waits = (phase_is(flow_runs, Phase.READY), flow_runs.c.queue.in_(list(queues)))
    query = select_runs().where(*waits).order_by(flow_runs.c.due_at, flow_runs.c.id).limit(limit)
    return [flow_run_of(row) for row in db.read(lambda conn: mappings(conn, query))]


def runs_by_queue(db: Database, queues: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Of each of these queues, how many flow runs are at work or parked, and how many wait for a worker now."""
    of_these = flow_runs.c.queue.in_(list(queues))
    counted = (flow_runs.c.queue, func.count())

    def look(conn: Connection) -> dict[str, tuple[int, int]]:
        active: dict[str, int] = {}
        # One query a phase: each has an index of its own.
        for phase in (Phase.CLAIMED, Phase.WAITING):
            at_work = select(*counted).where(phase_is(flow_runs, phase), of_these).group_by(flow_runs.c.queue)
            for queue, count in _counts(conn, at_work).items():
                active[queue] = active.get(queue, 0) + count
        due = (phase_is(flow_runs, Phase.READY), flow_runs.c.due_at <= instant(conn), of_these)
        waiting = _counts(conn, select(*counted).where(*due).group_by(flow_runs.c.queue))
        return {queue: (active.get(queue, 0), waiting.get(queue, 0)) for queue in active | waiting}

    return db.read(look)


def is_anything_to_do(db: Database, queues: Iterable[str]) -> bool:
    """Whether a run, step or hook of these queues is due or at work now; what waits for its time or a slot is not."""
    names = list(queues)

    def look(conn: Connection) -> bool:
        moment = instant(conn)
        for table in (flow_runs, steps, owed_hooks):
            free = [flow_runs.c.held.is_(None)] if table is flow_runs else []
            due = (phase_is(table, Phase.READY), table.c.due_at <= moment, *free)
            for state in (due, (phase_is(table, Phase.CLAIMED),)):
                query = select(table.c.queue).where(table.c.queue.in_(names), *state)
                if conn.execute(query.limit(1)).first() is not None:
                    return True
        return False

    return db.read(look)


def _counts(conn: Connection, query: Select[Any]) -> dict[str, int]:
    return {queue: count for queue, count in conn.execute(query)}


def last_sweep(db: Database) -> datetime | None:
    """When a sweeper last did its rounds; None: never."""
    ticked: float | None = db.read(lambda conn: conn.scalar(select(func.max(leaders.c.ticked_at))))
    return clock.to_datetime(ticked)


# -- how conditions are made -------------------------------------------------------------------------------------


def _types(state_types: Iterable[str], state_names: Iterable[str]) -> tuple[str, ...]:
    """The state types that can match; empty: any."""
    given = tuple(dict.fromkeys(str(kind) for kind in state_types))
    names = tuple(state_names)
    if given or not names or any(name not in _TYPE_OF_NAME for name in names):
        return given
    return tuple(dict.fromkeys(_TYPE_OF_NAME[name].value for name in names))


def _tagged(table: Table, tags: Iterable[str]) -> list[ColumnElement[bool]]:
    """Rows that have all of these tags."""
    wanted = [has_tag(table, tag) for tag in tags]
    return [is_tagged(table), *wanted] if wanted else []


def place_of(conn: Connection, table: Table, last: str | None, missing: type[Exception]) -> tuple[float, str] | None:
    """When the row `last` was created, and its id: the place behind which the newest rows of a page begin.

    Raises:
        Exception: One of type `missing`: it is not there (any more).
    """
    if last is None:
        return None
    created = conn.execute(select(table.c.created_at).where(table.c.id == last)).scalar_one_or_none()
    if created is None:
        raise missing(last)
    return float(created), last


def _after_step(conn: Connection, last: str | None) -> list[ColumnElement[bool]]:
    """Steps of a run that come after `last` in order of asking."""
    if last is None:
        return []
    row = conn.execute(select(steps.c.run_attempt, steps.c.sequence).where(steps.c.id == last)).one_or_none()
    if row is None:
        raise TaskRunNotFound(last)
    same = and_(steps.c.run_attempt == row.run_attempt, steps.c.sequence > row.sequence)
    return [or_(steps.c.run_attempt > row.run_attempt, same)]


def _of_run(conn: Connection, flow_run_id: str, every_attempt: bool) -> list[ColumnElement[bool]]:
    """Steps of one run, normally of its present attempt."""
    attempt = conn.execute(select(flow_runs.c.run_attempt).where(flow_runs.c.id == flow_run_id)).scalar_one_or_none()
    if attempt is None:
        raise FlowRunNotFound(flow_run_id)
    of_run = [steps.c.run_id == flow_run_id]
    return of_run if every_attempt else [*of_run, steps.c.run_attempt == attempt]


def select_flows() -> Select[Any]:
    """Flows, each with its newest run, as `flow_of` reads them."""
    runs = flow_runs.alias("newest")
    newest = select(runs.c.id).where(runs.c.flow_name == flows.c.name).correlate(flows)
    newest = newest.order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(1)
    return select(flows, flow_runs.c.state_name, flow_runs.c.created_at.label("run_created_at")).select_from(
        flows.outerjoin(flow_runs, flow_runs.c.id == newest.scalar_subquery())
    )


def select_runs(*more: ColumnElement[Any]) -> Select[Any]:
    """Flow runs, as `flow_run_of` reads them, with more columns."""
    return (
        select(*_RUN_LISTED, *more, flows.c.id.label("flow_id"), steps.c.id.label("parent_task_run_id"))
        .outerjoin(flows, flows.c.name == flow_runs.c.flow_name)
        .outerjoin(
            steps,
            and_(
                steps.c.run_id == flow_runs.c.parent_run_id,
                steps.c.run_attempt == flow_runs.c.parent_attempt,
                steps.c.step_key == flow_runs.c.parent_step_key,
            ),
        )
    )


def mappings(conn: Connection, query: Select[Any]) -> Sequence[RowMapping]:
    """All rows of a query, by column name."""
    return conn.execute(query).mappings().all()


# -- how rows are read -------------------------------------------------------------------------------------------


def page_of(found: list[T], limit: int, key: Callable[[T], str]) -> Page[T]:
    """A page of `limit` records, given one more than that where there are more.

    Args:
        key: By what the last record of a page is named to get the next one.
    """
    more = len(found) > limit > 0
    return Page(tuple(found[:limit]), key(found[limit - 1]) if more else None)


def full_page(ask: Callable[[int, str | None], Page[T]], limit: int, after: str | None) -> Page[T]:
    """A page as full as it can be, by as many pages as that takes: one may hold less than was asked for.

    Args:
        ask: Gives a page of at most so many records behind a key.
        limit: Most records of the page.
        after: The `next` of the page before.
    """
    found: list[T] = []
    while True:
        page = ask(limit - len(found), after)
        found += page.items
        after = page.next
        if after is None or len(found) >= limit:
            return Page(tuple(found), after)


def _spanned(found: Found, record: Callable[[RowMapping], T], limit: int) -> Page[T]:
    if len(found.rows) > limit > 0:
        return Page(tuple(map(record, found.rows[:limit])), found.rows[limit - 1]["id"])
    return Page(tuple(map(record, found.rows)), found.floor)


def _page(found: list[Any], limit: int) -> Page[Any]:
    return page_of(found, limit, lambda record: record.id)


def flow_run_of(row: RowMapping) -> FlowRun:
    """A row of `select_runs`."""
    return FlowRun(
        id=row["id"],
        name=row["name"],
        flow_id=row["flow_id"],
        flow_name=row["flow_name"],
        state_type=row["state_type"],
        state_name=row["state_name"],
        state=_state(row),
        parameters=serializers.preview(row["parameters"]) if row["parameters"] is not None else {},
        tags=tuple(json.loads(row["tags"])),
        created=clock.to_datetime(row["created_at"]),
        expected_start_time=_expected(row),
        start_time=clock.to_datetime(row["start_time"]),
        end_time=clock.to_datetime(row["end_time"]),
        total_run_time=_run_time(row),
        run_count=row["run_attempt"],
        parent_flow_run_id=row["parent_run_id"],
        parent_task_run_id=row["parent_task_run_id"],
        root_flow_run_id=row["root_run_id"],
        idempotency_key=row["idempotency_key"],
        flow_version=row["version"],
        work_queue_name=row["queue"],
        priority=row["priority"],
        runner=row["runner"],
        path=row["path"],
        entrypoint=row["entrypoint"],
        deployment_id=row["deployment_id"],
    )


def task_run_of(row: RowMapping) -> TaskRun:
    """A row of the columns `STEP_LISTED`."""
    return TaskRun(
        id=row["id"],
        name=row["name"],
        flow_run_id=row["run_id"],
        task_key=row["path"],
        dynamic_key=row["step_key"],
        kind=row["kind"],
        tags=tuple(json.loads(row["tags"] or "[]")),
        state_type=row["state_type"],
        state_name=row["state_name"],
        state=_state(row),
        created=clock.to_datetime(row["created_at"]),
        expected_start_time=_expected(row),
        start_time=clock.to_datetime(row["start_time"]),
        end_time=clock.to_datetime(row["end_time"]),
        total_run_time=_run_time(row),
        run_count=row["attempt"],
        flow_run_run_count=row["recorded_attempt"],
        child_flow_run_id=row["child_run_id"],
        work_queue_name=row["queue"],
        worker=row["worker"] or (row["owner"] if row["phase"] == Phase.CLAIMED else None),
        inline=bool(row["inline"]),
    )


def flow_of(row: RowMapping) -> Flow:
    """A row of `select_flows`."""
    return Flow(
        id=row["id"],
        name=row["name"],
        path=row["path"],
        description=row["description"],
        created=clock.to_datetime(row["created_at"]),
        updated=clock.to_datetime(row["updated_at"]),
        last_run_state_name=row["state_name"],
        last_run_created=clock.to_datetime(row["run_created_at"]),
    )


def _state(row: RowMapping) -> StateRecord:
    since = row["end_time"] if row["end_time"] is not None else row["start_time"]
    return StateRecord(row["state_type"], row["state_name"], row["state_message"], clock.to_datetime(since))


def _run_history(conn: Connection, run_id: str) -> tuple[StateRecord, ...]:
    """The state that a run was created in, and those since."""
    created = select(flow_runs.c.first_state, flow_runs.c.created_at).where(flow_runs.c.id == run_id)
    row = conn.execute(created).first()
    first = [] if row is None or row.first_state is None else [_seen_at(row.created_at, row.first_state)]
    return (*first, *_written(conn, run_id, states.c.step_id.is_(None)))


def _step_history(conn: Connection, run_id: str, step_id: str) -> tuple[StateRecord, ...]:
    """What its row tells of a step (that it waited, that it ran, how it ended), and the states between."""
    written = _written(conn, run_id, states.c.step_id == step_id, history.ON_THE_WAY)
    names = ("pending_at", "running_at", "phase", "state_type", "state_name", "state_message", "end_time")
    row = conn.execute(select(*(steps.c[name] for name in names)).where(steps.c.id == step_id)).first()
    if row is None:
        # Of a local run, which writes a step when it has ended.
        return tuple(written)
    seen = {"Pending": row.pending_at, "Running": row.running_at}
    known = [_seen_at(at, name) for name, at in seen.items() if at is not None] + written
    known.sort(key=lambda state: state.timestamp or datetime.min.replace(tzinfo=UTC))
    if row.phase == Phase.DONE:
        known.append(StateRecord(row.state_type, row.state_name, row.state_message, clock.to_datetime(row.end_time)))
    return tuple(known)


def _written(conn: Connection, run_id: str, *which: ColumnElement[bool]) -> list[StateRecord]:
    # Not by id alone: some are written with what they tell of, some behind it.
    query = select(states).where(states.c.run_id == run_id, *which).order_by(states.c.timestamp, states.c.id)
    return [
        StateRecord(row["type"], row["name"], row["message"], clock.to_datetime(row["timestamp"]))
        for row in mappings(conn, query)
    ]


def _seen_at(at: float, name: str) -> StateRecord:
    return StateRecord(name.upper(), name, None, clock.to_datetime(at))


def _expected(row: RowMapping) -> datetime:
    waits = row["phase"] == Phase.READY and row["due_at"] is not None
    instant: float = row["due_at"] if waits else row["start_time"] or row["created_at"]
    return clock.to_datetime(instant)


def _run_time(row: RowMapping) -> float:
    if row["start_time"] is None:
        return 0.0
    end = clock.now() if row["end_time"] is None else float(row["end_time"])
    return max(0.0, round(end - float(row["start_time"]), 6))


def _result(row: RowMapping) -> Any:
    if row["result_blob"] is not None:
        return f"<{row['result_blob']}>"
    return serializers.preview(row["result"])


def _short_name(row: RowMapping) -> str:
    """A task's own name where the step is a task's, else the step's."""
    return row["path"].rpartition(":")[2].rpartition(".")[2] if row["path"] else str(row["name"])


def _upstream_of(conn: Connection, row: RowMapping) -> tuple[str, ...]:
    if row["join_id"] is None:
        return ()
    # Not by run attempt: a retry moves finished steps on, and leaves their edges where they were.
    joined = (edges.c.run_id == row["run_id"], edges.c.target_id == row["join_id"])
    query = select(edges.c.upstream).where(*joined).distinct().order_by(edges.c.upstream)
    return tuple(conn.execute(query).scalars())


def _edges_of(conn: Connection, run_id: str) -> dict[str, list[str]]:
    """The upstream step keys of every join of a run, by the join that holds the dependents."""
    query = select(edges.c.target_id, edges.c.upstream).where(edges.c.run_id == run_id).distinct()
    found: dict[str, list[str]] = {}
    for target, upstream in conn.execute(query.order_by(edges.c.upstream)):
        found.setdefault(target, []).append(upstream)
    return found
