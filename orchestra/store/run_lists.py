"""Lists of flow runs as people filter them, paged by key; read only.

A page looks at a bounded number of runs, however many there are (`spans.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, RowMapping

from orchestra.errors import FlowRunNotFound
from orchestra.states import StateType
from orchestra.store import queries, spans
from orchestra.store.database import Database, instant
from orchestra.store.queries import FlowRun
from orchestra.store.spans import Found, Part, unindexed, usual
from orchestra.store.tables import Phase, flow_runs, has_tag, is_tagged, phase_is

_Condition = ColumnElement[bool]
#: Types of state in which runs end badly, of themselves.
_BAD = (StateType.FAILED.value, StateType.CRASHED.value)


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which flow runs are meant; all of it must fit."""

    #: Types of state ("FAILED"), or names ("Late"); empty: any.
    states: tuple[str, ...] = ()
    flow_name: str = ""
    deployment_id: str = ""
    #: A run must have all of them.
    tags: tuple[str, ...] = ()
    #: Part of its name or its flow's, or its id.
    text: str = ""
    #: Created, or ended where `by_end`, at this instant or later.
    since: float | None = None
    by_end: bool = False
    parent_run_id: str = ""
    #: Without runs that another one started.
    top_only: bool = False


@dataclass(frozen=True, slots=True)
class RunPage:
    """One page of a list of runs."""

    items: tuple[FlowRun, ...]
    #: Hand this as `after` to get the next page; None: this was the last.
    next: str | None
    #: The page ended before it was full, since it had looked through so many runs; 0: it did not.
    looked: int = 0


@dataclass(frozen=True, slots=True)
class RunName:
    """A run as a confirmation lists it."""

    id: str
    name: str
    flow_name: str
    state_type: str
    state_name: str


def list_runs(db: Database, wanted: RunFilter, *, limit: int = 50, after: str | None = None) -> RunPage:
    """The newest runs that fit, first.

    Args:
        limit: Most runs on the page.
        after: `next` of the page before.

    Raises:
        FlowRunNotFound: `after` is not there (any more).
    """
    found = db.read(lambda connection: _look(connection, queries.select_runs(), wanted, limit + 1, after))
    more = len(found.rows) > limit
    items = tuple(queries.flow_run_of(row) for row in found.rows[:limit])
    return RunPage(items, items[-1].id if more else found.floor, looked=0 if more else found.looked)


def matching(db: Database, wanted: RunFilter, *, limit: int) -> list[RunName]:
    """The newest runs that fit, at most `limit`, looked for as a page does."""
    names = ("id", "name", "flow_name", "state_type", "state_name", "created_at")
    shown = sa.select(*(flow_runs.c[name] for name in names))
    found = db.read(lambda connection: _look(connection, shown, wanted, limit, None))
    return [_name(row) for row in found.rows]


def named(db: Database, ids: Sequence[str]) -> list[RunName]:
    """Those of these runs that are there, the newest first."""
    names = ("id", "name", "flow_name", "state_type", "state_name")
    query = sa.select(*(flow_runs.c[name] for name in names)).where(flow_runs.c.id.in_(list(ids)))
    query = query.order_by(flow_runs.c.created_at.desc(), flow_runs.c.id.desc())
    return [_name(row) for row in db.read(lambda connection: queries.mappings(connection, query))]


def _name(row: RowMapping) -> RunName:
    return RunName(row["id"], row["name"], row["flow_name"], row["state_type"], row["state_name"])


# -- how a page is looked for ------------------------------------------------------------------------------------


def _look(connection: Connection, shown: sa.Select[Any], wanted: RunFilter, limit: int, after: str | None) -> Found:
    start = queries.place_of(connection, flow_runs, after, FlowRunNotFound)
    return spans.newest(connection, shown, flow_runs, _parts(wanted), limit=limit, start=start)


def _parts(wanted: RunFilter) -> list[Part]:
    """The queries that are made."""
    column = flow_runs.c
    types, names = _states(wanted.states)
    rest = _rest(wanted)
    begin = None if wanted.by_end else wanted.since
    since = [] if begin is None else [column.created_at >= begin]
    if names:
        rest.append(column.state_name.in_(names))
    if wanted.parent_run_id:
        # These few are sorted.
        return [Part([column.parent_run_id == wanted.parent_run_id], since + rest + _flow(wanted) + _type_in(types))]
    if types and queries.OPEN.issuperset(types):
        # Of a flow or deployment there are many more runs than have not ended.
        rest += _flow(wanted) + _deployment(wanted)
        return [Part([column.state_type == kind, *since], rest) for kind in types]
    if wanted.deployment_id:
        of_deployment = [column.deployment_id == wanted.deployment_id, *since]
        return [Part(of_deployment, rest + _flow(wanted) + _type_in(types), is_scattered=True)]
    if wanted.flow_name:
        return [Part([column.flow_name == wanted.flow_name, *since], rest + _type_in(types), is_scattered=True)]
    if types:
        return [Part([column.state_type == kind, *since], rest, is_scattered=True) for kind in types]
    if wanted.tags:
        return [Part([is_tagged(flow_runs), *since], rest, is_scattered=True)]
    return [Part(since, rest)]


def _rest(wanted: RunFilter) -> list[_Condition]:
    column = flow_runs.c
    found: list[_Condition] = [has_tag(flow_runs, tag) for tag in wanted.tags]
    if wanted.text:
        like = (each.icontains(wanted.text, autoescape=True) for each in (column.name, column.flow_name))
        found.append(sa.or_(column.id == wanted.text.lower(), *like))
    if wanted.since is not None and wanted.by_end:
        found.append(column.end_time >= wanted.since)
    if wanted.top_only:
        found.append(column.parent_run_id.is_(None))
    return found


def _flow(wanted: RunFilter) -> list[_Condition]:
    return [unindexed(flow_runs.c.flow_name) == wanted.flow_name] if wanted.flow_name else []


def _deployment(wanted: RunFilter) -> list[_Condition]:
    return [unindexed(flow_runs.c.deployment_id) == wanted.deployment_id] if wanted.deployment_id else []


def _type_in(types: Sequence[str]) -> list[_Condition]:
    return [unindexed(flow_runs.c.state_type).in_(types)] if types else []


def _states(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """The types to look at, and the names where these are finer than types."""
    kinds = {kind.value for kind in StateType}
    types = [each for each in given if each in kinds]
    names = [each for each in given if each not in kinds]
    if not names:
        return types, []
    below = [queries.type_of_name(name) for name in names]
    if None in below:
        return [], [*names, *(kind.capitalize() for kind in types)]
    return list(dict.fromkeys([*types, *map(str, below)])), [*names, *_names_of(types)]


def _names_of(types: Sequence[str]) -> list[str]:
    """All names that states of these types may have."""
    return [name for kind in types for name in queries.names_of_type(kind)]


# -- what a dashboard counts -------------------------------------------------------------------------------------


def count_open(db: Database) -> dict[str, int]:
    """How many runs have not ended, by type of state."""
    column = flow_runs.c
    query = sa.select(column.state_type, sa.func.count()).where(column.state_type.in_(sorted(queries.OPEN)))
    rows = db.read(lambda connection: connection.execute(query.group_by(column.state_type)).all())
    return {kind: count for kind, count in rows}


def late(db: Database, *, seconds: float, limit: int = 20) -> list[FlowRun]:
    """Runs that should have started so many seconds ago or more and have not, the longest overdue first."""
    column = flow_runs.c

    def look(connection: Connection) -> Sequence[RowMapping]:
        overdue = (phase_is(flow_runs, Phase.READY), column.start_time.is_(None), column.held.is_(None))
        due = column.due_at <= instant(connection) - seconds
        query = queries.select_runs().where(*overdue, due).order_by(column.due_at, column.id).limit(limit)
        return queries.mappings(connection, query)

    return [queries.flow_run_of(row) for row in db.read(look)]


@dataclass(frozen=True, slots=True)
class Ended:
    """How many runs ended in one stretch of time, by the type of the state in which they did."""

    #: Seconds since the epoch.
    begin: float
    completed: int
    failed: int
    crashed: int
    cancelled: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.completed + self.failed + self.crashed + self.cancelled

    @property
    def badly(self) -> int:
        """Those that failed or crashed."""
        return self.failed + self.crashed


#: In the order of `Ended`.
_ENDS = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)


def ended_since(db: Database, since: float, until: float, *, parts: int) -> list[Ended]:
    """How many runs ended in each of so many equal parts of a time; instants are seconds since the epoch."""
    width = (until - since) / parts
    values = {"since": since, "width": width}
    rows = db.read(lambda connection: connection.execute(_ended_by_part(parts), values).all())
    return [Ended(since + number * width, *map(int, counts)) for number, *counts in sorted(map(tuple, rows))]


@functools.lru_cache(maxsize=64)
def _ended_by_part(parts: int) -> sa.CompoundSelect[Any]:
    """Made once: it is long, and building it took longer than what it does."""
    since, width = sa.bindparam("since", type_=sa.Double), sa.bindparam("width", type_=sa.Double)
    column = flow_runs.c

    def counted(number: int) -> sa.Select[Any]:
        place, following = (sa.literal_column(str(each), sa.Double) for each in (number, number + 1))
        return _count_ends(
            number, column.end_time >= since + place * width, column.end_time < since + following * width
        )

    # One stretch of the index each: grouping by a computed part would sort every run of that time.
    return sa.union_all(*(counted(number) for number in range(parts)))


def ended_after(db: Database, since: float) -> Ended:
    """How many runs ended at an instant (seconds since the epoch) or later, by clocks that are ahead of ours too."""
    query = _count_ends(0, flow_runs.c.end_time >= since)
    _, *counts = db.read(lambda connection: connection.execute(query).one())
    return Ended(since, *map(int, counts))


def first_end(db: Database, since: float | None) -> float | None:
    """When the first run ended, at an instant (seconds since the epoch) or later; None: none did."""
    column = flow_runs.c
    begin = [column.end_time.is_not(None)] if since is None else [column.end_time >= since]
    query = sa.select(sa.func.min(column.end_time)).where(*begin)
    found: float | None = db.read(lambda connection: connection.scalar(query))
    return found


def _count_ends(number: int, *within: _Condition) -> sa.Select[Any]:
    column = flow_runs.c
    of_type = (column.state_type == sa.literal_column(f"'{kind.value}'") for kind in _ENDS)
    sums = (sa.func.count(sa.case((each, sa.literal_column("1")))) for each in of_type)
    shown: list[ColumnElement[Any]] = [sa.literal_column(str(number)).label("part"), *sums]
    return sa.select(*shown).where(column.end_time.is_not(None), *within)


def ended_badly(db: Database, since: float, *, limit: int = 20) -> list[FlowRun]:
    """Runs that failed or crashed at `since` (seconds since the epoch) or later, the last first."""
    column = flow_runs.c
    # In the words of the index over such runs.
    failed = column.state_type.in_([sa.literal_column(f"'{kind}'") for kind in _BAD])
    query = queries.select_runs().where(usual(failed), column.end_time >= since)
    query = query.order_by(column.end_time.desc(), column.id.desc()).limit(limit)
    return [queries.flow_run_of(row) for row in db.read(lambda connection: queries.mappings(connection, query))]


def stamp(db: Database) -> tuple[object, ...]:
    """Something small that is another one whenever the lists of runs show something else."""
    column = flow_runs.c
    newest = sa.select(sa.func.max(column.created_at))
    last = sa.select(sa.func.max(column.end_time)).where(column.end_time.is_not(None))

    def look(connection: Connection) -> tuple[object, ...]:
        return connection.scalar(newest), connection.scalar(last)

    return (*db.read(look), *sorted(count_open(db).items()))
