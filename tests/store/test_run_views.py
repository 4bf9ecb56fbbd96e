"""What the page of a run shows, for small runs and wide ones."""

from __future__ import annotations

from typing import Any

import pytest

from orchestra.errors import FlowRunNotFound
from orchestra.store import run_views
from orchestra.store.database import Database
from orchestra.store.tables import edges, flow_runs, logs, steps

NOW = 1_800_000_000.0
RUN = "11111111-0000-0000-0000-000000000000"


def step(number: int, name: str, **values: Any) -> dict[str, Any]:
    """The row of a step; ended unless told otherwise."""
    begin = values.pop("begin", NOW + number)
    row: dict[str, Any] = {
        "run_id": RUN,
        "run_attempt": 1,
        "step_key": f"main/{name}-{number}",
        "id": f"step-{number:04d}",
        "branch": "main",
        "position": number,
        "sequence": number,
        "kind": "task",
        "name": f"{name}-{number}",
        "path": f"etl:{name}",
        "recorded_attempt": 1,
        "phase": "DONE",
        "state_type": "COMPLETED",
        "state_name": "Completed",
        "created_at": begin,
        "start_time": begin,
        "end_time": begin + 1,
        "queue": "default",
        "due_at": 1.0,
        "join_id": None,
        "inline": False,
        "awaited_by": None,
        "state_message": None,
    }
    return row | values


def seed(database: Database, rows: list[dict[str, Any]], **run: Any) -> Database:
    """A run of these steps."""
    values = {
        "id": RUN,
        "name": "otter",
        "flow_name": "etl",
        "path": "etl:flow",
        "runner": "celery",
        "root_run_id": RUN,
        "phase": "WAITING",
        "state_type": "RUNNING",
        "state_name": "Waiting",
        "created_at": NOW,
        "queue": "default",
        "due_at": 1.0,
    } | run

    def work(connection: Any) -> None:
        connection.execute(flow_runs.insert().values(values))
        connection.execute(steps.insert(), rows)

    database.write(work)
    return database


@pytest.fixture
def small(database: Database) -> Database:
    """Two steps side by side, one behind both that waits, one that an earlier attempt had done."""
    open_one = {"phase": "WAITING", "state_type": "PENDING", "state_name": "Pending", "start_time": None}
    rows = [
        step(0, "kept", recorded_attempt=1, run_attempt=2),
        step(1, "read", run_attempt=2, recorded_attempt=2, begin=NOW + 5),
        step(2, "read", run_attempt=2, recorded_attempt=2, begin=NOW + 5, state_type="FAILED", state_name="Failed"),
        step(3, "join", run_attempt=2, recorded_attempt=2, join_id="j", awaited_by=7, end_time=None, **open_one),
    ]
    seed(database, rows, run_attempt=2, wait_claim=7)
    joined = [
        {
            "run_id": RUN,
            "run_attempt": 2,
            "upstream": f"main/read-{n}",
            "join_id": "j",
            "target_id": "j",
            "strict": True,
        }
        for n in (1, 2)
    ]
    lines = [
        {"run_id": RUN, "step_id": "step-0001", "logger": "l", "level": 20 + 10 * (n % 2), "message": f"line {n}"}
        | {"timestamp": NOW + n}
        for n in range(6)
    ]

    def work(connection: Any) -> None:
        connection.execute(edges.insert(), joined)
        connection.execute(logs.insert(), lines)

    database.write(work)
    return database


def test_each_attempt_has_its_own_timeline(small: Database) -> None:
    """What an earlier one had done is counted, and does not stretch the axis."""
    first, second = (run_views.timeline(small, RUN, attempt) for attempt in (1, 2))

    assert ([bar.name for bar in first.bars], first.kept) == (["kept-0"], 0)
    assert ([bar.name for bar in second.bars], second.kept) == (["read-1", "read-2", "join-3"], 1)
    assert run_views.attempts(small, RUN) == 2


def test_the_graph_knows_dependencies_and_order(small: Database) -> None:
    """A dependency goes before the order of time."""
    found, total = run_views.graph(small, RUN)

    assert total == 4
    assert [(each.name, each.upstream, each.ordered) for each in found] == [
        ("kept-0", (), True),
        ("read-1", ("main/kept-0",), True),
        ("read-2", ("main/kept-0",), True),
        ("join-3", ("main/read-1", "main/read-2"), False),
    ]


def test_steps_of_one_task_are_one_where_there_are_many(database: Database) -> None:
    """In the timeline, in the graph, and in the filter of the table."""
    rows = [step(number, "map") for number in range(12)]
    rows += [step(12 + n, "then", join_id="j", begin=NOW + 30, state_type="FAILED", end_time=None) for n in range(3)]
    seed(database, rows)
    joined = {"run_id": RUN, "run_attempt": 1, "join_id": "j", "target_id": "j", "strict": True}
    upstream = [joined | {"upstream": f"main/map-{n}"} for n in range(12)]
    database.write(lambda connection: connection.execute(edges.insert(), upstream))

    timeline = run_views.timeline(database, RUN, 1, most=10)
    assert [(bar.name, bar.count, bar.states) for bar in timeline.bars] == [
        ("map", 12, {"COMPLETED": 12}),
        ("then", 3, {"FAILED": 3}),
    ]
    found, total = run_views.graph(database, RUN, most=10)
    assert (total, [(each.name, each.count, each.upstream) for each in found]) == (
        15,
        [("map", 12, ()), ("then", 3, ("etl:map",))],
    )
    page = run_views.list_steps(database, RUN, attempt=1, task="etl:map", limit=10)
    following = run_views.list_steps(database, RUN, attempt=1, task="etl:map", limit=10, after=page.next)
    assert [each.name for each in (*page.items, *following.items)] == [f"map-{number}" for number in range(12)]


def test_log_lines_are_paged_backwards(small: Database) -> None:
    """By level and text, with the names of their tasks."""
    page = run_views.log_page(small, RUN, limit=4)
    before = run_views.log_page(small, RUN, limit=4, before=page.earlier)

    assert [line.message for line in page.lines] == ["line 2", "line 3", "line 4", "line 5"]
    assert ([line.message for line in before.lines], before.earlier) == (["line 0", "line 1"], None)
    assert page.names == {"step-0001": "read-1"}
    assert [line.message for line in run_views.log_page(small, RUN, level=30, text="LINE 3").lines] == ["line 3"]


def test_a_search_of_the_log_looks_through_a_bounded_number_of_lines(
    small: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it says so, and where to look on; those of one task run are all found."""
    monkeypatch.setattr(run_views, "LINES", 2)

    page = run_views.log_page(small, RUN, text="line 1")
    assert (page.lines, page.cut) == ((), True)
    while page.cut and not page.lines:
        page = run_views.log_page(small, RUN, text="line 1", before=page.earlier)

    assert [line.message for line in page.lines] == ["line 1"]
    assert {line.step_id for line in run_views.log_page(small, RUN, step_id="step-0001").lines} == {"step-0001"}


def test_a_run_says_what_it_waits_for(small: Database) -> None:
    """The steps that it cannot go on without."""
    assert [each.name for each in run_views.why_waiting(small, RUN).needed] == ["join-3"]


def test_a_run_that_nobody_takes_names_its_queue(database: Database) -> None:
    """So does one whose steps wait for a worker."""
    ready = step(0, "read", phase="READY", state_type="PENDING", start_time=None, end_time=None)
    seed(database, [ready], phase="READY", state_type="PENDING")

    assert run_views.why_waiting(database, RUN).queues == {"default": 2}


def test_stamps_change_with_what_is_shown(small: Database) -> None:
    """And with nothing else."""
    before = run_views.stamps(small, RUN)
    assert run_views.stamps(small, RUN) == before
    line = {"run_id": RUN, "logger": "l", "level": 20, "message": "more", "timestamp": NOW}
    small.write(lambda connection: connection.execute(logs.insert().values(line)))
    ended = steps.update().where(steps.c.id == "step-0003").values(phase="DONE", end_time=NOW + 9)
    small.write(lambda connection: connection.execute(ended))

    after = run_views.stamps(small, RUN)

    assert (after.state == before.state, after.steps == before.steps, after.logs == before.logs) == (True, False, False)


def test_a_run_that_is_not_there_is_named(database: Database) -> None:
    """Each part says so."""
    for ask in (run_views.stamps, run_views.attempts, run_views.graph, run_views.why_waiting):
        with pytest.raises(FlowRunNotFound):
            ask(database, "nothing")  # type: ignore[operator]
