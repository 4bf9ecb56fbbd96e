"""Free search over flows, runs, log lines and artifacts: by tests on fields with Prefect's names. Read only.

For clients that ask what they like; lists that people page through are in `queries`. What no index serves takes as long
as there are rows to look through, and is broken off after `LONGEST` seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Select, Table

from orchestra import clock
from orchestra.store import artifacts as kept
from orchestra.store import queries
from orchestra.store.database import Database
from orchestra.store.logs import LogLine
from orchestra.store.places import Place
from orchestra.store.queries import Flow, FlowRun, TaskRun
from orchestra.store.tables import (
    Kind,
    artifact_collections,
    artifacts,
    flow_runs,
    flows,
    has_tag,
    is_tagged,
    logs,
    steps,
)

Condition = ColumnElement[bool]

#: For how many seconds a search may look through rows.
LONGEST = 5.0


@dataclass(frozen=True, slots=True)
class Test:
    """One test on one field: `Test("name", "any", ["a", "b"])`."""

    #: Not a test of pytest's.
    __test__ = False

    field: str
    #: One of `_OPERATORS`; for tags "all", "any" or "is_null".
    operator: str
    value: Any


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows are meant: those whose flow, flow run and task runs pass these tests."""

    flows: tuple[Test, ...] = ()
    flow_runs: tuple[Test, ...] = ()
    task_runs: tuple[Test, ...] = ()


def find_flow_runs(db: Database, wanted: Selection, *, sort: str, limit: int | None, offset: int = 0) -> list[FlowRun]:
    """Flow runs.

    Args:
        wanted: All of it must fit.
        sort: A name of `FLOW_RUN_SORTS`.
        limit: Most runs given; None: all.
        offset: How many to leave out before.
    """
    query = queries.select_runs().where(*_run_conditions(wanted))
    return [queries.flow_run_of(row) for row in _rows(db, query, FLOW_RUN_SORTS[sort], limit, offset)]


def page_of_run_ids(db: Database, wanted: Selection, *, limit: int, after: Place | None = None) -> list[Place]:
    """The flow runs that are meant, the newest first, each by when it was created and its id.

    Args:
        limit: Most given.
        after: The last one of the page before; it may be gone.
    """
    place = sa.tuple_(flow_runs.c.created_at, flow_runs.c.id)
    query = sa.select(flow_runs.c.created_at, flow_runs.c.id).where(*_run_conditions(wanted)).limit(limit)
    if after is not None:
        query = query.where(place < sa.tuple_(sa.literal(after.at), sa.literal(after.key)))
    query = query.order_by(*FLOW_RUN_SORTS["CREATED_DESC"].by)
    return db.read(lambda connection: [Place(row.created_at, row.id) for row in connection.execute(query)])


def count_flow_runs(db: Database, wanted: Selection) -> int:
    """How many flow runs there are."""
    return _count(db, sa.select(flow_runs.c.id).where(*_run_conditions(wanted)))


def find_task_runs(db: Database, wanted: Selection, *, sort: str, limit: int | None, offset: int = 0) -> list[TaskRun]:
    """Task runs; `sort` is a name of `TASK_RUN_SORTS`. As `find_flow_runs` otherwise."""
    query = sa.select(*queries.STEP_LISTED).where(*_step_conditions(wanted))
    return [queries.task_run_of(row) for row in _rows(db, query, TASK_RUN_SORTS[sort], limit, offset)]


def count_task_runs(db: Database, wanted: Selection) -> int:
    """How many task runs there are."""
    return _count(db, sa.select(steps.c.id).where(*_step_conditions(wanted)))


def find_flows(db: Database, wanted: Selection, *, sort: str, limit: int | None, offset: int = 0) -> list[Flow]:
    """Flows; `sort` is a name of `FLOW_SORTS`. As `find_flow_runs` otherwise."""
    query = queries.select_flows().where(*_flow_conditions(wanted))
    return [queries.flow_of(row) for row in _rows(db, query, FLOW_SORTS[sort], limit, offset)]


def count_flows(db: Database, wanted: Selection) -> int:
    """How many flows there are."""
    return _count(db, sa.select(flows.c.id).where(*_flow_conditions(wanted)))


def find_logs(db: Database, tests: Iterable[Test], *, sort: str, limit: int | None, offset: int = 0) -> list[LogLine]:
    """Log lines; `sort` is a name of `LOG_SORTS`. As `find_flow_runs` otherwise."""
    names = ("id", "run_id", "step_id", "logger", "level", "message", "timestamp")
    query = sa.select(*(logs.c[name] for name in names)).where(*_conditions(_LOG_FIELDS, tests))
    return [LogLine(**row) for row in _rows(db, query, LOG_SORTS[sort], limit, offset)]


def find_artifacts(
    db: Database, tests: Iterable[Test], of: Selection, *, sort: str, limit: int | None, offset: int = 0
) -> list[kept.Artifact]:
    """Artifacts; `sort` is a name of `ARTIFACT_SORTS`. As `find_flow_runs` otherwise.

    Args:
        tests: On the artifacts.
        of: On the runs that made them.
    """
    query = sa.select(artifacts).where(*_conditions(_ARTIFACT_FIELDS, tests), *_made_by(of))
    return [kept.record(row) for row in _rows(db, query, ARTIFACT_SORTS[sort], limit, offset)]


def find_latest_artifacts(
    db: Database, tests: Iterable[Test], of: Selection, *, sort: str, limit: int | None, offset: int = 0
) -> list[kept.Artifact]:
    """The newest artifact of each key, as far as it fits; `sort` is a name of `LATEST_SORTS`. As `find_artifacts`."""
    query = kept.select_latest().where(*_conditions(_ARTIFACT_FIELDS, tests), *_made_by(of))
    return [kept.record(row) for row in _rows(db, query, LATEST_SORTS[sort], limit, offset)]


# -- what is meant -----------------------------------------------------------------------------------------------


def _run_conditions(wanted: Selection) -> list[Condition]:
    found = _conditions(_FLOW_RUN_FIELDS, wanted.flow_runs)
    if wanted.flows:
        of_flows = _conditions(_FLOW_FIELDS, wanted.flows)
        found.append(flow_runs.c.flow_name.in_(_alone(sa.select(flows.c.name).where(*of_flows))))
    if wanted.task_runs:
        of_tasks = _conditions(_TASK_RUN_FIELDS, wanted.task_runs)
        found.append(flow_runs.c.id.in_(_alone(sa.select(steps.c.run_id).where(_IS_TASK, *of_tasks))))
    return found


def _step_conditions(wanted: Selection) -> list[Condition]:
    found = [_IS_TASK, *_conditions(_TASK_RUN_FIELDS, wanted.task_runs)]
    if wanted.flow_runs or wanted.flows:
        of_runs = Selection(flows=wanted.flows, flow_runs=wanted.flow_runs)
        found.append(steps.c.run_id.in_(_alone(sa.select(flow_runs.c.id).where(*_run_conditions(of_runs)))))
    return found


def _made_by(wanted: Selection) -> list[Condition]:
    found: list[Condition] = []
    if wanted.flows or wanted.flow_runs:
        of_runs = Selection(flows=wanted.flows, flow_runs=wanted.flow_runs)
        found.append(artifacts.c.flow_run_id.in_(_alone(sa.select(flow_runs.c.id).where(*_run_conditions(of_runs)))))
    if wanted.task_runs:
        of_tasks = _conditions(_TASK_RUN_FIELDS, wanted.task_runs)
        found.append(artifacts.c.task_run_id.in_(_alone(sa.select(steps.c.id).where(_IS_TASK, *of_tasks))))
    return found


def _flow_conditions(wanted: Selection) -> list[Condition]:
    found = _conditions(_FLOW_FIELDS, wanted.flows)
    if wanted.flow_runs or wanted.task_runs:
        of_runs = _run_conditions(Selection(flow_runs=wanted.flow_runs, task_runs=wanted.task_runs))
        found.append(flows.c.name.in_(_alone(sa.select(flow_runs.c.flow_name).where(*of_runs))))
    return found


def _alone(query: Select[Any]) -> Select[Any]:
    """A query within another one that has its own rows of the same tables."""
    return query.correlate(None)


def _conditions(fields: Mapping[str, Any], tests: Iterable[Test]) -> list[Condition]:
    return [_condition(fields, test) for test in tests]


def _condition(fields: Mapping[str, Any], test: Test) -> Condition:
    field = fields[test.field]
    if field is flow_runs.c.state_name and test.operator == "any":
        return _named(test.value)
    if isinstance(field, sa.Table):
        return _of_tags(field, test)
    return _OPERATORS[test.operator](field, _plain(test.value))


def _named(names: Sequence[str]) -> Condition:
    """Flow runs in states of these names; by the index over their types, where these are known."""
    types = {queries.type_of_name(name) for name in names}
    named = flow_runs.c.state_name.in_(names)
    return named if None in types else sa.and_(flow_runs.c.state_type.in_(sorted(map(str, types))), named)


def _of_tags(table: sa.Table, test: Test) -> Condition:
    tagged = is_tagged(table)
    if test.operator == "is_null":
        return sa.not_(tagged) if test.value else tagged
    having = [has_tag(table, tag) for tag in test.value]
    if test.operator == "all":
        return sa.and_(tagged, *having) if having else sa.true()
    return sa.and_(tagged, sa.or_(sa.false(), *having))


def _plain(value: Any) -> Any:
    """A value as a column holds it: instants as seconds, enums as their text."""
    if isinstance(value, datetime):
        return clock.to_instant(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(each) for each in value]
    return value if isinstance(value, (bool, int, float)) else str(value)


_OPERATORS: dict[str, Callable[[Any, Any], Condition]] = {
    "any": lambda column, values: column.in_(values),
    "not_any": lambda column, values: sa.or_(column.is_(None), column.not_in(values)),
    "like": lambda column, text: column.icontains(text, autoescape=True),
    "before": lambda column, moment: column <= moment,
    "after": lambda column, moment: column >= moment,
    "ge": lambda column, number: column >= number,
    "le": lambda column, number: column <= number,
    "is_null": lambda column, empty: column.is_(None) if empty else column.is_not(None),
    "exists": lambda column, there: column.is_not(None) if there else column.is_(None),
}

_IS_TASK = steps.c.kind == sa.literal_column(f"'{Kind.TASK.value}'")
_RUN_EXPECTED = sa.func.coalesce(flow_runs.c.scheduled_at, flow_runs.c.start_time, flow_runs.c.created_at)
_STEP_EXPECTED = sa.func.coalesce(steps.c.start_time, steps.c.due_at, steps.c.created_at)

_FLOW_FIELDS = {"id": flows.c.id, "name": flows.c.name}
#: A table instead of a column: its tags.
_FLOW_RUN_FIELDS: dict[str, Any] = {
    "id": flow_runs.c.id,
    "name": flow_runs.c.name,
    "tags": flow_runs,
    "state_type": flow_runs.c.state_type,
    "state_name": flow_runs.c.state_name,
    "parent_flow_run_id": flow_runs.c.parent_run_id,
    "root_flow_run_id": flow_runs.c.root_run_id,
    "flow_version": flow_runs.c.version,
    "deployment_id": flow_runs.c.deployment_id,
    "work_queue_name": flow_runs.c.queue,
    "idempotency_key": flow_runs.c.idempotency_key,
    "created": flow_runs.c.created_at,
    "start_time": flow_runs.c.start_time,
    "end_time": flow_runs.c.end_time,
    "expected_start_time": _RUN_EXPECTED,
}
_TASK_RUN_FIELDS: dict[str, Any] = {
    "id": steps.c.id,
    "name": steps.c.name,
    "tags": steps,
    "state_type": steps.c.state_type,
    "state_name": steps.c.state_name,
    "flow_run_id": steps.c.run_id,
    "task_key": steps.c.path,
    "created": steps.c.created_at,
    "start_time": steps.c.start_time,
    "end_time": steps.c.end_time,
    "expected_start_time": _STEP_EXPECTED,
}
_LOG_FIELDS: dict[str, Any] = {
    "flow_run_id": logs.c.run_id,
    "task_run_id": logs.c.step_id,
    "name": logs.c.logger,
    "level": logs.c.level,
    "timestamp": logs.c.timestamp,
}

_ARTIFACT_FIELDS: dict[str, Any] = {
    "id": artifacts.c.id,
    "latest_id": artifacts.c.id,
    "key": artifacts.c.key,
    "type": artifacts.c.type,
    "flow_run_id": artifacts.c.flow_run_id,
    "task_run_id": artifacts.c.task_run_id,
}


@dataclass(frozen=True, slots=True)
class _Order:
    by: Sequence[ColumnElement[Any]]
    #: What is sorted by, where rows may be without it: these come last.
    value: ColumnElement[Any] | None = None


def _by(*columns: ColumnElement[Any], value: ColumnElement[Any] | None = None) -> _Order:
    return _Order(columns, value)


def _run_sorts(table: Table, expected: ColumnElement[Any]) -> dict[str, _Order]:
    """The orders that flow runs and task runs have in common."""
    column = table.c
    return {
        "CREATED_DESC": _by(column.created_at.desc(), column.id.desc()),
        "ID_DESC": _by(column.id.desc()),
        "NAME_ASC": _by(column.name, column.id),
        "NAME_DESC": _by(column.name.desc(), column.id.desc()),
        "START_TIME_ASC": _by(column.start_time, column.id, value=column.start_time),
        "START_TIME_DESC": _by(column.start_time.desc(), column.id.desc(), value=column.start_time),
        "END_TIME_DESC": _by(column.end_time.desc(), column.id.desc(), value=column.end_time),
        "EXPECTED_START_TIME_ASC": _by(expected, column.id),
        "EXPECTED_START_TIME_DESC": _by(expected.desc(), column.id.desc()),
    }


FLOW_RUN_SORTS: dict[str, _Order] = {
    **_run_sorts(flow_runs, _RUN_EXPECTED),
    "CREATED_ASC": _by(flow_runs.c.created_at, flow_runs.c.id),
}
TASK_RUN_SORTS: dict[str, _Order] = {
    **_run_sorts(steps, _STEP_EXPECTED),
    #: In order of asking, where it is one run's.
    "CREATED_ASC": _by(steps.c.created_at, steps.c.run_id, steps.c.run_attempt, steps.c.sequence),
}
FLOW_SORTS: dict[str, _Order] = {
    "NAME_ASC": _by(flows.c.name),
    "NAME_DESC": _by(flows.c.name.desc()),
    "CREATED_DESC": _by(flows.c.created_at.desc(), flows.c.id.desc()),
    "UPDATED_DESC": _by(flows.c.updated_at.desc(), flows.c.id.desc()),
}
LOG_SORTS: dict[str, _Order] = {
    "TIMESTAMP_ASC": _by(logs.c.timestamp, logs.c.id),
    "TIMESTAMP_DESC": _by(logs.c.timestamp.desc(), logs.c.id.desc()),
}
ARTIFACT_SORTS: dict[str, _Order] = {
    "CREATED_DESC": _by(artifacts.c.created_at.desc(), artifacts.c.id.desc()),
    "UPDATED_DESC": _by(artifacts.c.updated_at.desc(), artifacts.c.id.desc()),
    "UPDATED_ASC": _by(artifacts.c.updated_at, artifacts.c.id),
    "ID_DESC": _by(artifacts.c.id.desc()),
    "KEY_ASC": _by(artifacts.c.key, artifacts.c.created_at, artifacts.c.id),
    "KEY_DESC": _by(artifacts.c.key.desc(), artifacts.c.created_at.desc(), artifacts.c.id.desc()),
}
LATEST_SORTS: dict[str, _Order] = {
    "CREATED_DESC": _by(artifact_collections.c.created_at.desc(), artifact_collections.c.key.desc()),
    "UPDATED_DESC": _by(artifacts.c.updated_at.desc(), artifact_collections.c.key.desc()),
    "UPDATED_ASC": _by(artifacts.c.updated_at, artifact_collections.c.key),
    "ID_DESC": _by(artifacts.c.id.desc()),
    "KEY_ASC": _by(artifact_collections.c.key),
    "KEY_DESC": _by(artifact_collections.c.key.desc()),
}


# -- asking ------------------------------------------------------------------------------------------------------


def _rows(db: Database, query: Select[Any], order: _Order, limit: int | None, offset: int) -> Sequence[Any]:
    def look(connection: Connection) -> Sequence[Any]:
        if order.value is None:
            return _some(connection, query.order_by(*order.by), limit, offset)
        # Two queries, since an index of PostgreSQL has those without a value at its other end.
        valued = query.where(order.value.is_not(None))
        found = _some(connection, valued.order_by(*order.by), limit, offset)
        if len(found) == limit:
            return found
        passed = 0 if found or not offset else offset - int(connection.scalar(_counted(valued)) or 0)
        rest = query.where(order.value.is_(None)).order_by(*order.by)
        return [*found, *_some(connection, rest, None if limit is None else limit - len(found), passed)]

    return db.search(look, seconds=LONGEST)


def _some(connection: Connection, query: Select[Any], limit: int | None, offset: int) -> Sequence[Any]:
    return queries.mappings(connection, query.limit(limit).offset(offset or None))


def _count(db: Database, query: Select[Any]) -> int:
    return int(db.search(lambda connection: connection.scalar(_counted(query)), seconds=LONGEST) or 0)


def _counted(query: Select[Any]) -> Select[Any]:
    return sa.select(sa.func.count()).select_from(query.subquery())
