"""Lists of runs: what fits, page by page, and never by reading them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra import clock
from orchestra.store import queries, run_lists, spans
from orchestra.store.database import Database
from orchestra.store.run_lists import RunFilter
from orchestra.store.tables import flow_runs
from tests.store.test_queries import add_run

NOW = 1_800_000_000.0


@pytest.fixture
def seeded(database: Database) -> Database:
    """60 runs, one a minute: every third failed, every second tagged, two flows."""
    rows = [
        {
            "id": f"run-{number:02d}",
            "name": f"otter-{number}",
            "flow_name": ("etl", "report")[number % 2],
            "path": "m:f",
            "runner": "celery",
            "root_run_id": f"run-{number:02d}",
            "phase": "DONE",
            "state_type": "FAILED" if number % 3 == 0 else "COMPLETED",
            "state_name": "TimedOut" if number % 6 == 0 else "Failed" if number % 3 == 0 else "Completed",
            "tags": '["a", "b"]' if number % 2 == 0 else "[]",
            "created_at": NOW + number * 60,
            "start_time": NOW + number * 60,
            "end_time": NOW + number * 60 + 30,
            "parent_run_id": "run-00" if number % 5 == 0 else None,
        }
        for number in range(60)
    ]
    database.write(lambda connection: connection.execute(flow_runs.insert(), rows))
    return database


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (RunFilter(), lambda n: True),
        (RunFilter(states=("FAILED",)), lambda n: n % 3 == 0),
        (RunFilter(states=("TimedOut",)), lambda n: n % 6 == 0),
        (RunFilter(states=("FAILED", "COMPLETED"), flow_name="etl"), lambda n: n % 2 == 0),
        (RunFilter(tags=("a", "b"), text="OTTER-1"), lambda n: n % 2 == 0 and str(n).startswith("1")),
        (RunFilter(text="run-07"), lambda n: n == 7),
        (RunFilter(since=NOW + 3000), lambda n: n >= 50),
        (RunFilter(since=NOW + 3000, by_end=True), lambda n: n * 60 + 30 >= 3000),
        (RunFilter(top_only=True), lambda n: n % 5 != 0),
        (RunFilter(parent_run_id="run-00"), lambda n: n % 5 == 0),
    ],
)
def test_runs_that_fit_come_page_by_page(seeded: Database, wanted: RunFilter, fits: Any) -> None:
    """All of them, each once, the newest first."""
    found: list[str] = []
    after = None
    while True:
        page = run_lists.list_runs(seeded, wanted, limit=7, after=after)
        found.extend(run.name for run in page.items)
        if page.next is None:
            break
        after = page.next

    assert found == [f"otter-{number}" for number in reversed(range(60)) if fits(number)]
    assert [run.name for run in run_lists.matching(seeded, wanted, limit=100)] == found


def test_a_page_looks_through_a_bounded_number_of_runs(seeded: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it says that it was cut, and the next goes on from there."""
    monkeypatch.setattr(spans, "SPAN", 10)

    found, pages, after = [], 0, None
    while pages == 0 or after is not None:
        page = run_lists.list_runs(seeded, RunFilter(text="otter-3"), after=after)
        found += [run.name for run in page.items]
        after, pages = page.next, pages + 1

    assert found == [*(f"otter-{number}" for number in range(39, 29, -1)), "otter-3"]
    assert pages > 3


def test_a_page_tells_how_many_runs_it_looked_through(seeded: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer where they stand far apart; nothing where it is full, or the last."""
    monkeypatch.setattr(spans, "SPAN", 20)

    def looked(**wanted: Any) -> int:
        return run_lists.list_runs(seeded, RunFilter(**wanted), limit=2).looked

    assert looked(text="none") == 20
    assert looked(text="none", flow_name="etl") == 5
    assert looked(text="otter") == looked() == 0


def test_a_run_that_goes_on_is_found_however_many_of_its_flow_have_ended(
    seeded: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one page, which looks through those that have not ended, of all flows."""
    monkeypatch.setattr(spans, "SPAN", 4)
    add_run(seeded, "slow", at=NOW - 100, deployment_id="d", state_type="RUNNING")

    for flow, deployment in (("etl", ""), ("", "d"), ("etl", "d")):
        wanted = RunFilter(states=("RUNNING",), flow_name=flow, deployment_id=deployment)
        listed = queries.list_flow_runs(
            seeded, state_types=["RUNNING"], flow_name=flow or None, deployment_id=deployment or None
        )
        assert [run.name for run in run_lists.list_runs(seeded, wanted).items] == ["slow"]
        assert [run.name for run in listed.items] == ["slow"]
    assert run_lists.list_runs(seeded, RunFilter(states=("RUNNING",), flow_name="report")).items == ()


def test_ends_are_counted_by_time(seeded: Database) -> None:
    """In equal parts of it."""
    parts = run_lists.ended_since(seeded, NOW, NOW + 3600, parts=6)

    assert [(part.total, part.completed, part.badly) for part in parts] == [(10, 6, 4), (10, 7, 3), (10, 7, 3)] * 2
    assert [run.name for run in run_lists.ended_badly(seeded, NOW + 3000)] == ["otter-57", "otter-54", "otter-51"]


def test_lists_never_read_all_runs(seeded: Database) -> None:
    """SQLite goes by an index for each, and sorts none."""
    if not seeded.read(lambda connection: connection.dialect.name == "sqlite"):
        pytest.skip("PostgreSQL plans by what is in the tables, and here is little")
    wanted = [
        RunFilter(),
        RunFilter(states=("FAILED", "CRASHED")),
        RunFilter(states=("FAILED",), flow_name="etl", text="x"),
        RunFilter(deployment_id="d", states=("FAILED",)),
        RunFilter(tags=("a",), since=NOW),
        RunFilter(since=NOW, by_end=True),
    ]
    with explained(seeded) as plans:
        for each in wanted:
            run_lists.list_runs(seeded, each)
        run_lists.ended_since(seeded, NOW, clock.now(), parts=4)
        run_lists.ended_badly(seeded, NOW)
        run_lists.late(seeded, seconds=15)
        run_lists.stamp(seeded)

    bad = [plan for plan in plans if "SCAN flow_runs" in plan and "USING" not in plan]
    assert bad == []
    assert len(plans) > 10


@contextmanager
def explained(database: Database) -> Iterator[list[str]]:
    """What SQLite says of how it answers each query that is made within."""
    plans: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if statement.lstrip().startswith("SELECT"):
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[3] for row in cursor.fetchall())

    sa.event.listen(database._engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        sa.event.remove(database._engine, "before_cursor_execute", explain)
