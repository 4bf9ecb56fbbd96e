"""What the page of one flow run shows, for runs of any size: bars of a timeline, a graph, pages of logs; read only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, RowMapping

from orchestra import clock
from orchestra.errors import FlowRunNotFound, TaskRunNotFound
from orchestra.states import FINAL
from orchestra.store import logs as written
from orchestra.store import queries
from orchestra.store.database import Database, instant
from orchestra.store.logs import LogLine
from orchestra.store.queries import Page, TaskRun, page_of
from orchestra.store.tables import Kind, Phase, artifacts, edges, flow_runs, logs, phase_is, phase_is_not, slots, steps

#: Kinds of step that people see as bars and nodes; the others are bookkeeping.
SHOWN_KINDS = (Kind.TASK.value, Kind.SUBFLOW.value, Kind.SLEEP.value, Kind.PAUSE.value, Kind.INPUT.value)
#: What the steps of one task have in common: the task's path, else the step's name without its number.
_task = sa.func.coalesce(steps.c.path, steps.c.name)
#: When a step was asked for: the row of one that ran in its flow's process may be written later.
_asked_at = sa.case(
    (sa.and_(steps.c.inline, steps.c.start_time.is_not(None)), steps.c.start_time), else_=steps.c.created_at
)
_asked = _asked_at.label("asked")
_FINAL = frozenset(kind.value for kind in FINAL)
#: A node has no more edges to those that were asked for before it.
_MOST_EDGES = 24
#: How many lines a page of logs looks through for a level or a text.
LINES = 20_000


@dataclass(frozen=True, slots=True)
class Bar:
    """One step, or all steps of one task, on the axis of time; instants are seconds since the epoch."""

    #: Of the step; None: of several.
    id: str | None
    key: str
    name: str
    #: By which the table of tasks is filtered.
    task: str
    kind: str
    count: int
    start: float | None
    end: float | None
    #: How many of them are in each state, by type.
    states: dict[str, int]
    state_name: str
    #: Tries of the step.
    attempt: int
    child_run_id: str | None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """The bars of one attempt of a run."""

    bars: tuple[Bar, ...]
    #: Steps that an earlier attempt had done.
    kept: int
    #: One bar for each task, since there are many steps.
    grouped: bool
    total: int


@dataclass(frozen=True, slots=True)
class Vertex:
    """One node of the graph of a run: a step, or all steps of one task."""

    key: str
    name: str
    task: str
    kind: str
    count: int
    states: dict[str, int]
    id: str | None
    child_run_id: str | None
    #: Keys of the nodes it came after.
    upstream: tuple[str, ...] = ()
    #: Of these, those that only the order of the body tells.
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a run, or its steps, do not go on now."""

    #: Steps that its body cannot go on without, the first few.
    needed: tuple[TaskRun, ...] = ()
    #: Limits of which it waits for slots.
    limits: tuple[str, ...] = ()
    #: Queues on which something of it waits for a worker, and how many rows.
    queues: dict[str, int] = field(default_factory=dict)
    #: When the earliest of its timers, retries and scheduled starts is due.
    due: datetime | None = None


# -- steps -------------------------------------------------------------------------------------------------------


def attempts(db: Database, run_id: str) -> int:
    """How many attempts a run has had.

    Raises:
        FlowRunNotFound: There is no such run.
    """
    query = sa.select(flow_runs.c.run_attempt).where(flow_runs.c.id == run_id)
    found = db.read(lambda connection: connection.scalar(query))
    if found is None:
        raise FlowRunNotFound(run_id)
    return int(found)


def counts(db: Database, run_id: str) -> dict[str, int]:
    """How many steps of a run's present attempt that people see are in states of each type."""
    column = steps.c
    current = sa.select(flow_runs.c.run_attempt).where(flow_runs.c.id == run_id).scalar_subquery()
    mine = (column.run_id == run_id, column.run_attempt == current, column.kind.in_(SHOWN_KINDS))
    query = sa.select(column.state_type, sa.func.count()).where(*mine).group_by(column.state_type)
    return db.read(lambda connection: _pairs(connection, query))


def timeline(db: Database, run_id: str, attempt: int, *, most: int = 120) -> Timeline:
    """The steps that one attempt of a run made, as bars in the order of asking.

    Args:
        most: With more steps than that there is one bar for each task, and at most so many of these.
    """
    column = steps.c
    of_attempt = (column.run_id == run_id, column.kind.in_(SHOWN_KINDS))
    made = (*of_attempt, column.recorded_attempt == attempt)

    def look(connection: Connection) -> Timeline:
        kept = _kept(connection, (*of_attempt, column.run_attempt == attempt), attempt)
        # In the order of the index; that of asking is made here.
        query = sa.select(*queries.STEP_LISTED).where(*made).order_by(column.run_attempt, column.sequence)
        rows = queries.mappings(connection, query.limit(most + 1))
        if len(rows) <= most:
            asked = sorted(rows, key=lambda row: row["sequence"])
            return Timeline(tuple(_bar(row) for row in asked), kept, False, len(rows))
        groups = [_group_bar(task, rows) for task, rows in _by_task(connection, made).items()]
        return Timeline(tuple(groups[:most]), kept, True, sum(each.count for each in groups))

    return db.read(look)


def _kept(connection: Connection, conditions: Sequence[ColumnElement[bool]], attempt: int) -> int:
    """How many steps of an attempt of a run earlier ones had done."""
    if attempt == 1:
        return 0
    query = sa.select(sa.func.count()).select_from(steps).where(*conditions, steps.c.recorded_attempt < attempt)
    return int(connection.scalar(query) or 0)


def _bar(row: RowMapping) -> Bar:
    return Bar(
        id=row["id"],
        key=row["step_key"],
        name=row["name"],
        task=row["path"] or row["name"],
        kind=row["kind"],
        count=1,
        start=row["start_time"],
        end=row["end_time"],
        states={row["state_type"]: 1},
        state_name=row["state_name"],
        attempt=row["attempt"],
        child_run_id=row["child_run_id"],
        message=row["state_message"],
    )


def _by_task(connection: Connection, conditions: Sequence[ColumnElement[bool]]) -> dict[str, list[RowMapping]]:
    """Of each task, in the order of asking: how many of its steps are in states of each type, and when they were."""
    column = steps.c
    query = (
        sa.select(
            _task.label("task"),
            column.kind,
            column.state_type,
            sa.func.count().label("number"),
            sa.func.min(column.sequence).label("first"),
            sa.func.min(_asked_at).label("asked"),
            sa.func.min(column.start_time).label("start"),
            sa.func.max(column.end_time).label("end"),
        )
        .where(*conditions)
        .group_by(_task, column.kind, column.state_type)
        .order_by("first")
    )
    groups: dict[str, list[RowMapping]] = {}
    for row in queries.mappings(connection, query):
        groups.setdefault(row["task"], []).append(row)
    return groups


def _group_bar(task: str, rows: Sequence[RowMapping]) -> Bar:
    starts = [row["start"] for row in rows if row["start"] is not None]
    ends = [row["end"] for row in rows if row["end"] is not None]
    states = {row["state_type"]: int(row["number"]) for row in rows}
    is_over = set(states) <= _FINAL
    return Bar(
        id=None,
        key=task,
        name=short_name(task),
        task=task,
        kind=rows[0]["kind"],
        count=sum(states.values()),
        start=min(starts, default=None),
        end=max(ends, default=None) if is_over else None,
        states=states,
        state_name="",
        attempt=1,
        child_run_id=None,
    )


def graph(db: Database, run_id: str, *, most: int = 300) -> tuple[list[Vertex], int]:
    """The graph of a run's present attempt, and how many steps it stands for.

    A node comes after what it was submitted behind; where nothing is known of that, after what had ended when it was
    asked for.

    Args:
        most: Beyond so many steps, those of one task are one node; of more nodes than that the first are given.

    Raises:
        FlowRunNotFound: There is no such run.
    """
    column = steps.c

    def look(connection: Connection) -> tuple[list[_Place], dict[str, list[str]], int]:
        attempt = connection.scalar(sa.select(flow_runs.c.run_attempt).where(flow_runs.c.id == run_id))
        if attempt is None:
            raise FlowRunNotFound(run_id)
        mine = (column.run_id == run_id, column.run_attempt == attempt, column.kind.in_(SHOWN_KINDS))
        total = int(connection.scalar(sa.select(sa.func.count()).select_from(steps).where(*mine)) or 0)
        if total > most:
            groups = list(_by_task(connection, mine).items())[:most]
            grouped = [_group_place(task, rows) for task, rows in groups]
            return grouped, _upstream_tasks(connection, run_id, mine), total
        return _places(connection, mine), _upstream(connection, run_id, mine), total

    places, upstream, total = db.read(look)
    return [_vertex(place, upstream.get(place.key, []), places) for place in places], total


@dataclass(frozen=True, slots=True)
class _Place:
    """A node to be, and when it was asked for and had ended."""

    key: str
    name: str
    task: str
    kind: str
    states: dict[str, int]
    asked: float
    end: float | None
    id: str | None = None
    child_run_id: str | None = None


def _places(connection: Connection, conditions: Sequence[ColumnElement[bool]]) -> list[_Place]:
    column = steps.c
    names = ("step_key", "name", "path", "kind", "state_type", "end_time", "id", "child_run_id")
    query = sa.select(*(column[name] for name in names), _asked).where(*conditions).order_by(column.sequence)
    return [
        _Place(
            row["step_key"],
            row["name"],
            row["path"] or row["name"],
            row["kind"],
            {row["state_type"]: 1},
            row["asked"],
            row["end_time"],
            row["id"],
            row["child_run_id"],
        )
        for row in queries.mappings(connection, query)
    ]


def _group_place(task: str, rows: Sequence[RowMapping]) -> _Place:
    states = {row["state_type"]: int(row["number"]) for row in rows}
    ends = [row["end"] for row in rows]
    end = None if None in ends or not set(states) <= _FINAL else max(ends)
    return _Place(task, short_name(task), task, rows[0]["kind"], states, min(row["asked"] for row in rows), end)


def _vertex(place: _Place, behind: Sequence[str], places: Sequence[_Place]) -> Vertex:
    shown = {each.key for each in places}
    known = tuple(key for key in behind if key in shown and key != place.key)
    return Vertex(
        key=place.key,
        name=place.name,
        task=place.task,
        kind=place.kind,
        count=sum(place.states.values()),
        states=place.states,
        id=place.id,
        child_run_id=place.child_run_id,
        upstream=known or _before(place, places),
        ordered=not known,
    )


def _before(place: _Place, places: Sequence[_Place]) -> tuple[str, ...]:
    """What had just ended when a step was asked for: of all that had, what nothing else of it came after."""
    ended = [(each.end, each) for each in places if each.end is not None and each.end <= place.asked]
    last = max((each.asked for _, each in ended), default=0.0)
    found = [each.key for end, each in ended if end > last and each.key != place.key]
    # Of many the last stands for all, so that edges stay few.
    return tuple(found if len(found) <= _MOST_EDGES else found[-1:])


def _upstream(connection: Connection, run_id: str, conditions: Sequence[ColumnElement[bool]]) -> dict[str, list[str]]:
    """Of each step, those that it was submitted behind."""
    query = sa.select(edges.c.target_id, edges.c.upstream).where(edges.c.run_id == run_id).distinct()
    behind: dict[str, list[str]] = {}
    for target, key in connection.execute(query.order_by(edges.c.upstream)):
        behind.setdefault(target, []).append(key)
    joined = sa.select(steps.c.step_key, steps.c.join_id).where(*conditions, steps.c.join_id.is_not(None))
    return {key: behind.get(join, []) for key, join in connection.execute(joined)}


def _upstream_tasks(
    connection: Connection, run_id: str, conditions: Sequence[ColumnElement[bool]]
) -> dict[str, list[str]]:
    """Of each task, those that steps of it were submitted behind."""
    # The conditions name the attempt, without which no index has a step by its key.
    same = sa.and_(steps.c.run_id == edges.c.run_id, steps.c.step_key == edges.c.upstream, *conditions)
    query = sa.select(edges.c.target_id, _task).join_from(edges, steps, same).where(edges.c.run_id == run_id).distinct()
    behind: dict[str, list[str]] = {}
    for target, task in connection.execute(query):
        behind.setdefault(target, []).append(task)
    joined = sa.select(_task, steps.c.join_id).where(*conditions, steps.c.join_id.is_not(None)).distinct()
    found: dict[str, dict[str, None]] = {}
    for task, join in connection.execute(joined):
        found.setdefault(task, {}).update(dict.fromkeys(behind.get(join, ())))
    return {task: list(tasks) for task, tasks in found.items()}


def short_name(task: str) -> str:
    """A task's own name: of `module:Class.function` the last part."""
    return task.rpartition(":")[2].rpartition(".")[2]


def list_steps(
    db: Database,
    run_id: str,
    *,
    attempt: int,
    task: str = "",
    states: Sequence[str] = (),
    text: str = "",
    limit: int = 50,
    after: str | None = None,
) -> Page[TaskRun]:
    """Steps of one attempt of a run that people see, in the order of asking.

    Args:
        task: Only those of this task (`Bar.task`).
        states: Only those in states of these types.
        text: Only those whose name has this in it.
        after: Id of the last one of the page before.

    Raises:
        TaskRunNotFound: `after` is not there (any more).
    """
    column = steps.c
    conditions = [column.run_id == run_id, column.run_attempt == attempt, column.kind.in_(SHOWN_KINDS)]
    if task:
        conditions.append(_task == task)
    if states:
        conditions.append(column.state_type.in_(list(states)))
    if text:
        conditions.append(column.name.icontains(text, autoescape=True))

    def look(connection: Connection) -> Sequence[RowMapping]:
        begin = []
        if after is not None:
            last = connection.scalar(sa.select(column.sequence).where(column.id == after))
            if last is None:
                raise TaskRunNotFound(after)
            begin = [column.sequence > last]
        query = sa.select(*queries.STEP_LISTED).where(*conditions, *begin).order_by(column.sequence)
        return queries.mappings(connection, query.limit(limit + 1))

    return page_of([queries.task_run_of(row) for row in db.read(look)], limit, lambda step: step.id)


def step_places(db: Database, run_id: str, keys: Sequence[str]) -> list[TaskRun]:
    """The steps of a run's present attempt with these keys, in the order of asking."""
    column = steps.c
    current = sa.select(flow_runs.c.run_attempt).where(flow_runs.c.id == run_id).scalar_subquery()
    query = sa.select(*queries.STEP_LISTED).where(
        column.run_id == run_id, column.run_attempt == current, column.step_key.in_(list(keys))
    )
    rows = db.read(lambda connection: queries.mappings(connection, query.order_by(column.sequence)))
    return [queries.task_run_of(row) for row in rows]


# -- logs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some lines of a run, in the order they were written."""

    lines: tuple[LogLine, ...]
    #: Hand this as `before` to get the lines before these; None: there are none.
    earlier: int | None
    #: The names of the task runs among them, by id.
    names: dict[str, str]
    #: `LINES` lines were looked through, and there are more.
    cut: bool = False


def log_page(
    db: Database,
    run_id: str,
    *,
    level: int = 0,
    text: str = "",
    step_id: str = "",
    before: int | None = None,
    limit: int = 200,
) -> LogPage:
    """The last lines of a run, its tasks' included, or those before a line.

    Args:
        level: Only lines of at least this level (a number of `logging`).
        text: Only lines that have this in them.
        step_id: Only lines of this task run.
        before: Id of the first line of the page behind this one.
    """
    column = logs.c
    lines_of = written.before(run_id, before, step_id or None)
    newest = [each.desc() for each in written.place(step_id or None)]
    other = [column.level >= level] if level else []
    if text:
        other.append(column.message.icontains(text, autoescape=True))
    shown = (column.id, column.run_id, column.step_id, column.logger, column.level, column.message, column.timestamp)
    query = sa.select(*shown).where(*lines_of, *other).order_by(*newest).limit(limit + 1)
    place = sa.select(column.id).where(*lines_of).order_by(*newest).offset(LINES).limit(1)

    def look(connection: Connection) -> tuple[list[LogLine], dict[str, str], int | None]:
        floor = connection.scalar(place) if other else None
        some = query if floor is None else query.where(column.id >= floor)
        lines = [LogLine(*row) for row in connection.execute(some)]
        ids = {line.step_id for line in lines if line.step_id is not None}
        named = sa.select(steps.c.id, steps.c.name).where(steps.c.id.in_(ids))
        return lines, _pairs(connection, named) if ids else {}, floor

    lines, names, floor = db.read(look)
    kept = lines[:limit][::-1]
    if len(lines) > limit:
        return LogPage(tuple(kept), kept[0].id, names)
    return LogPage(tuple(kept), floor, names, cut=floor is not None)


def _pairs(connection: Connection, query: sa.Select[Any]) -> dict[str, Any]:
    return {row[0]: row[1] for row in connection.execute(query)}


# -- why it waits, and whether it moves --------------------------------------------------------------------------


def why_waiting(db: Database, run_id: str) -> Waiting:
    """What a run that has not ended waits for: steps, slots, workers, a time."""
    column = steps.c

    def look(connection: Connection) -> Waiting:
        row = connection.execute(sa.select(flow_runs).where(flow_runs.c.id == run_id)).mappings().one_or_none()
        if row is None:
            raise FlowRunNotFound(run_id)
        if row["phase"] == Phase.DONE:
            return Waiting()
        moment = instant(connection)
        mine = (column.run_id == run_id, column.run_attempt == row["run_attempt"])
        ready = sa.select(column.queue, sa.func.count()).where(
            *mine, phase_is(steps, Phase.READY), column.due_at <= moment, column.queue.is_not(None)
        )
        queues: dict[str, int] = _pairs(connection, ready.group_by(column.queue))
        if row["phase"] == Phase.READY and row["due_at"] <= moment and row["queue"]:
            queues[row["queue"]] = queues.get(row["queue"], 0) + 1
        later = sa.select(sa.func.min(column.due_at)).where(*mine, phase_is(steps, Phase.READY), column.due_at > moment)
        due = [connection.scalar(later)]
        if row["phase"] == Phase.READY and row["due_at"] > moment:
            due.append(row["due_at"])
        needed: Sequence[RowMapping] = ()
        if row["wait_claim"] is not None:
            query = sa.select(*queries.STEP_LISTED).where(
                *mine, phase_is_not(steps, Phase.DONE), column.awaited_by == row["wait_claim"]
            )
            needed = queries.mappings(connection, query.order_by(column.sequence).limit(5))
        waits = sa.select(slots.c.limit_name).where(slots.c.run_id == run_id, slots.c.taken_at.is_(None)).distinct()
        return Waiting(
            tuple(queries.task_run_of(each) for each in needed),
            tuple(connection.scalars(waits.order_by(slots.c.limit_name))),
            queues,
            clock.to_datetime(min((each for each in due if each is not None), default=None)),
        )

    return db.read(look)


@dataclass(frozen=True, slots=True)
class Stamps:
    """Small things that are other ones whenever a part of a run's page shows something else."""

    state: tuple[object, ...]
    steps: tuple[object, ...]
    logs: int
    artifacts: object
    is_final: bool


def stamps(db: Database, run_id: str) -> Stamps:
    """What of a run has changed, told cheaply.

    Raises:
        FlowRunNotFound: There is no such run (any more).
    """
    column = steps.c
    names = "state_type state_name state_message run_attempt phase held wait_claim wait_open owner"

    def look(connection: Connection) -> Stamps:
        query = sa.select(*(flow_runs.c[name] for name in names.split())).where(flow_runs.c.id == run_id)
        row = connection.execute(query).one_or_none()
        if row is None:
            raise FlowRunNotFound(run_id)
        mine = (column.run_id == run_id, column.run_attempt == row.run_attempt)
        newest = connection.scalar(sa.select(sa.func.max(column.sequence)).where(*mine))
        ended = connection.scalar(sa.select(sa.func.max(column.end_time)).where(*mine, phase_is(steps, Phase.DONE)))
        unfinished = sa.select(column.state_name, sa.func.count()).where(*mine, phase_is_not(steps, Phase.DONE))
        counts = connection.execute(unfinished.group_by(column.state_name).order_by(column.state_name)).all()
        line = connection.scalar(sa.select(sa.func.max(logs.c.id)).where(logs.c.run_id == run_id))
        moving = (newest, ended, *map(tuple, counts))
        made = sa.select(sa.func.max(artifacts.c.updated_at), sa.func.count()).where(artifacts.c.flow_run_id == run_id)
        shown = tuple(connection.execute(made).one())
        return Stamps(tuple(row), moving, int(line or 0), shown, row.phase == Phase.DONE)

    return db.read(look)
