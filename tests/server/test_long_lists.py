"""Pages and lists cost what they show, however long the history is: each is asked over a short one and a long one."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from benchmarks import asked, history
from benchmarks.history import Size, number_id
from orchestra.server import create_app, metrics, throughput, warming
from orchestra.store import logs, run_views, search, spans, tables
from orchestra.store.database import Database, database
from orchestra.store.tables import flow_runs
from tests.conftest import forget, fresh_database

SHORT = Size(runs=2_000, open=100, tasks=400, lines=1_000)
LONG = Size(runs=12_000, open=100, tasks=400, lines=1_000)
#: Tables of which a page must not read all rows.
GROWING = "flow_runs|steps|states|logs|events|artifacts|cache_entries|transactions"
#: What sorts all runs of the states that it asks for.
SEARCHING = "/api/flow_runs/filter"
#: By how much more the long history may cost: pages that are full only there. Of SQLite's steps, of PostgreSQL's rows.
MORE = {"sqlite": 25_000, "postgres": 1_200}


@dataclass
class Work:
    """What a request made the database do: steps of SQLite's machine, or rows that PostgreSQL looked at."""

    done: int = 0
    #: Lines of plans that read whole tables.
    scans: list[str] = field(default_factory=list)
    #: Statements that take all runs of a state, and sort them for the first few; on SQLite, which chooses by rule.
    sorts: list[str] = field(default_factory=list)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def test_no_page_and_no_list_costs_more_over_a_longer_history(
    kind: str, request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six times the history, the same work; and no plan reads a table from end to end."""
    monkeypatch.setattr(metrics, "KEPT", -1.0)
    monkeypatch.setattr(throughput, "_AGAIN", 200)
    monkeypatch.setattr(spans, "SPAN", 200)
    monkeypatch.setattr(run_views, "LINES", 200)
    walks = []
    for size in (SHORT, LONG):
        with fresh_database(kind, request, home / str(size.runs)) as url:
            monkeypatch.setenv("ORCHESTRA_DATABASE_URL", url)
            forget()
            assert list(history.fill(database(), size))
            walks.append(walk(size))

    assert [(name, work.scans) for name, work in walks[1] if work.scans] == []
    assert [(name, work.sorts) for name, work in walks[1] if work.sorts and not name.startswith(SEARCHING)] == []
    pairs = zip(*walks, strict=True)
    works = [(name, short.done, long.done) for (_, short), (name, long) in pairs]
    assert [each for each in works if each[2] > each[1] * 1.5 + MORE[kind]] == []


def test_a_list_that_scans_is_found_out(database: Database) -> None:
    """By its plan, and by what it does; this holds the test above to what it says."""
    assert list(history.fill(database, SHORT))
    column = flow_runs.c
    bad = sa.select(column.id).where(column.name == "none")
    worse = sa.select(column.id).where(column.name == "none").order_by(column.created_at.desc()).limit(1)
    good = sa.select(column.id).order_by(column.created_at.desc()).limit(1)

    found = []
    for query in (bad, worse, good):
        with worked(database) as work:
            database.read(lambda connection, query=query: connection.execute(query).all())
        found.append(work)

    assert [bool(work.scans) for work in found] == [True, False, False]
    assert found[1].done > found[2].done + SHORT.runs * 0.9


@pytest.mark.parametrize("of", ["read", "tail", "page", "search"])
def test_the_lines_of_a_task_run_are_found_among_all_of_its_run(database: Database, of: str) -> None:
    """Those few cost what they are, not what the others of the run do."""
    assert list(history.fill(database, Size(runs=200, open=10, tasks=400, lines=20_000)))
    step = history.wide_step(7)
    asks: dict[str, Callable[[], Any]] = {
        "read": lambda: logs.read(database, history.WIDE, step_id=step),
        "tail": lambda: logs.read(database, history.WIDE, step_id=step, tail=60),
        "page": lambda: run_views.log_page(database, history.WIDE, step_id=step).lines,
        "search": lambda: search.find_logs(
            database, [search.Test("task_run_id", "any", [step])], sort="TIMESTAMP_DESC", limit=60
        ),
    }

    with worked(database, as_planned=True) as work:
        lines = asks[of]()

    assert [line.step_id for line in lines] == [step] * 50
    assert logs.read(database, number_id("run", 7), step_id=step) == []
    assert work.done < {"sqlite": 5_000, "postgresql": 200}[database.dialect]


@pytest.mark.parametrize("filters", [{}, {"text": "line"}, {"text": "nothing like it"}, {"level": 40}])
def test_the_lines_of_a_run_are_found_among_those_of_all_runs(database: Database, filters: dict[str, Any]) -> None:
    """Also by their text."""
    assert list(history.fill(database, Size(runs=2_000, open=10, tasks=400, lines=400)))

    with worked(database, as_planned=True) as work:
        page = run_views.log_page(database, number_id("run", 1_000), **filters)

    assert len(page.lines) == (0 if "level" in filters or "nothing" in str(filters) else history.LINES)
    assert work.done < {"sqlite": 3_000, "postgresql": 60}[database.dialect]


@pytest.mark.parametrize("database_url", [pytest.param("postgres", marks=pytest.mark.services)], indirect=True)
def test_postgresql_knows_how_few_lines_one_run_has(database: Database) -> None:
    """Else it reads all lines there are, once these are many, where a page asks for few of one run."""
    assert list(history.fill(database, Size(runs=2_000, open=10, tasks=400, lines=400)))
    run, step = number_id("run", 1_000), number_id("step", 4_996)

    def expected(*conditions: sa.ColumnElement[bool]) -> int:
        query = sa.select(tables.logs.c.id).where(*conditions)

        def look(connection: sa.Connection) -> int:
            told = query.compile(connection, compile_kwargs={"literal_binds": True})
            plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {told}").scalar_one()
            return int(plan[0]["Plan"]["Plan Rows"])

        return database.read(look)

    assert len(logs.read(database, run)) == history.LINES
    assert len(logs.read(database, run, step_id=step)) == 1
    for step_id in (None, step):
        assert expected(*logs.before(run, None, step_id)) < 100
        assert expected(*logs.after(run, 0, step_id)) < 100


def walk(size: Size) -> list[tuple[str, Work]]:
    """Ask for everything; gives the work of each request."""
    found = []
    app = create_app()
    with TestClient(app, base_url="http://127.0.0.1:4200") as web:
        # What a server looks at when it starts: what it counts once.
        warming.warm_up(app)
        for ask in itertools.chain(asked.pages(size), asked.lists(size), asked.searches(size)):
            with worked(database()) as work:
                answer = web.get(ask.address) if ask.body is None else web.post(ask.path, json=ask.body)
            assert answer.status_code == 200, f"{ask}: {answer.text[-500:]}"
            found.append((str(ask), work))
    return found


@contextmanager
def worked(db: Database, *, as_planned: bool = False) -> Iterator[Work]:
    """The work of the statements that are made within.

    Args:
        as_planned: PostgreSQL may read whole tables, as it does of small ones, where it takes that for less work.
    """
    work, statements = Work(), []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if not statement.lstrip().startswith(("SELECT", "WITH")):
            return
        statements.append((statement, parameters))
        if db.dialect == "sqlite":
            cursor.connection.set_progress_handler(count, 10)

    def count() -> int:
        work.done += 10
        return 0

    sa.event.listen(db._engine, "before_cursor_execute", note)
    try:
        yield work
    finally:
        sa.event.remove(db._engine, "before_cursor_execute", note)
    explain = _explain_sqlite if db.dialect == "sqlite" else functools.partial(_explain_postgresql, as_planned)
    db.write(lambda connection: [explain(connection, *each, work) for each in statements])


def _explain_sqlite(connection: sa.Connection, statement: str, parameters: Any, work: Work) -> None:
    connection.connection.driver_connection.set_progress_handler(None, 0)
    plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    work.scans += [f"{line}: {statement}" for line in plan if re.fullmatch(rf"SCAN ({GROWING})", line)]
    if "USE TEMP B-TREE FOR ORDER BY" in plan and any("ix_flow_runs_state (state_type=?)" in line for line in plan):
        work.sorts.append(statement)


def _explain_postgresql(
    as_planned: bool, connection: sa.Connection, statement: str, parameters: Any, work: Work
) -> None:
    # Of tables as small as these it would read all; of large ones it does so only where there is no other way.
    connection.exec_driver_sql(f"SET LOCAL enable_seqscan = {'on' if as_planned else 'off'}")
    plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar_one()
    nodes = [(json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]]
    for node in nodes:
        nodes += node.get("Plans", [])
        if "Scan" in node["Node Type"]:
            seen = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            work.done += int(seen * node["Actual Loops"])
        if node["Node Type"] == "Seq Scan" and re.fullmatch(GROWING, node["Relation Name"]) and node["Actual Loops"]:
            work.scans.append(f"{node['Relation Name']}: {statement}")
