"""The lists and records that people read."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra import serializers
from orchestra.errors import FlowRunNotFound, GraphTooLarge, TaskRunNotFound
from orchestra.store import journal, queries, spans
from orchestra.store.database import Database
from orchestra.store.tables import edges, flow_runs, flows, logs, states, steps


def add_run(db: Database, name: str = "run", *, at: float = 1_000.0, flow: str = "etl", **values: Any) -> str:
    """Insert a finished flow run; returns its id."""
    run_id = values.pop("id", str(uuid.uuid4()))
    row = {
        "id": run_id,
        "name": name,
        "flow_name": flow,
        "path": "m:f",
        "runner": "local",
        "root_run_id": run_id,
        "phase": "DONE",
        "state_type": "COMPLETED",
        "state_name": "Completed",
        "created_at": at,
        "start_time": at,
        "end_time": at + 2,
        "parameters": serializers.encode({"n": 1}),
    }
    db.write(lambda conn: conn.execute(flow_runs.insert().values(row | values)))
    return run_id


def add_step(db: Database, run_id: str, number: int, **values: Any) -> str:
    """Insert a finished task run; returns its id."""
    step_id = str(uuid.uuid4())
    row = {
        "run_id": run_id,
        "run_attempt": 1,
        "step_key": f"main/work-{number}",
        "id": step_id,
        "branch": "main",
        "position": number,
        "sequence": number,
        "kind": "task",
        "name": f"work-{number}",
        "path": "m:work",
        "recorded_attempt": 1,
        "phase": "DONE",
        "state_type": "COMPLETED",
        "state_name": "Completed",
        "created_at": 1_000.0 + number,
        "start_time": 1_000.0,
        "end_time": 1_001.0,
    }
    db.write(lambda conn: conn.execute(steps.insert().values(row | values)))
    return step_id


def pages(ask: Any) -> list[list[str]]:
    """The names on all pages of a list."""
    found, after = [], None
    while True:
        page = ask(after)
        found.append([item.name for item in page.items])
        if page.next is None:
            return found
        after = page.next


def test_runs_come_newest_first_page_by_page_also_at_equal_times(database: Database) -> None:
    """Keyset paging gives every run once, whatever the page's size."""
    for number in range(7):
        add_run(database, f"r{number}", at=1_000.0 + number // 3)
    whole = pages(lambda after: queries.list_flow_runs(database, limit=100, after=after))
    parts = pages(lambda after: queries.list_flow_runs(database, limit=3, after=after))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert [name for part in parts for name in part] == whole[0]
    assert whole[0][0] == "r6"
    assert set(whole[0][1:4]) == {"r3", "r4", "r5"}


def test_runs_are_filtered_by_flow_state_and_parent(database: Database) -> None:
    """Each filter narrows; several types are merged in order of time."""
    parent = add_run(database, "parent", at=1)
    add_run(database, "child", at=2, parent_run_id=parent, root_run_id=parent)
    add_run(database, "late", at=3, flow="other", state_type="SCHEDULED", state_name="Late")
    add_run(database, "failed", at=4, state_type="FAILED", state_name="Failed")

    def names(**given: Any) -> list[str]:
        return [run.name for run in queries.list_flow_runs(database, **given).items]

    assert names(parent_flow_run_id=parent) == ["child"]
    assert names(flow_name="other") == ["late"]
    assert names(state_types=["FAILED"]) == ["failed"]
    assert names(state_types=["SCHEDULED", "FAILED"]) == ["failed", "late"]
    assert names(state_types=["SCHEDULED", "FAILED"], limit=1) == ["failed"]
    assert names(state_names=["Late"]) == ["late"]
    assert names(state_names=["Late", "Unheard"]) == ["late"]
    assert names(state_names=["Failed"], flow_name="other") == []


def test_a_page_looks_through_a_bounded_number_of_records(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it names the next one, though it holds less than it might; a page that is to be full goes on itself.

    Of the runs of one flow, which stand far apart, it looks through a fourth as many.
    """
    monkeypatch.setattr(spans, "SPAN", 10)
    runs = [add_run(database, f"r{number}", at=1_000.0 + number) for number in range(40)]
    for number in (3, 31):
        add_step(database, runs[number], number, state_type="FAILED", state_name="Odd")
    for number in range(40, 60):
        add_step(database, runs[0], number)

    def of_runs(after: str | None) -> Any:
        return queries.list_flow_runs(database, flow_name="etl", state_types=["FAILED"], after=after)

    def of_steps(limit: int, after: str | None) -> Any:
        return queries.list_task_runs(database, state_names=["Odd"], limit=limit, after=after)

    assert pages(of_runs) == [[]] * 14
    found = pages(lambda after: of_steps(9, after))
    assert (found[0], [name for part in found for name in part]) == ([], ["work-31", "work-3"])
    assert [each.name for each in queries.full_page(of_steps, 1, None).items] == ["work-31"]
    assert [each.name for each in queries.full_page(of_steps, 9, None).items] == ["work-31", "work-3"]


def test_a_graph_of_too_many_edges_is_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in megabytes; one edge less is given."""
    run_id = add_run(database)
    upstream = [add_step(database, run_id, number) and f"main/work-{number}" for number in range(3)]
    for number in range(3, 6):
        add_step(database, run_id, number, join_id="join")
    rows = [{"upstream": key, "join_id": "join", "target_id": "join"} for key in upstream]
    common = {"run_id": run_id, "run_attempt": 1, "strict": True}
    database.write(lambda conn: conn.execute(edges.insert(), [row | common for row in rows]))

    monkeypatch.setattr(queries, "_MOST_EDGES", 9)
    assert [len(node.upstream) for node in queries.run_graph(database, run_id)] == [0, 0, 0, 3, 3, 3]
    monkeypatch.setattr(queries, "_MOST_EDGES", 8)
    with pytest.raises(GraphTooLarge, match=r"9 edges.*by task"):
        queries.run_graph(database, run_id)


def test_a_page_after_a_run_that_is_gone_is_refused(database: Database) -> None:
    """The key of a page must be there."""
    with pytest.raises(FlowRunNotFound):
        queries.list_flow_runs(database, after="gone")
    with pytest.raises(TaskRunNotFound):
        queries.list_task_runs(database, after="gone")


@pytest.mark.parametrize(
    "given", [{}, {"flow_name": "etl"}, {"state_types": ["FAILED"]}, {"state_types": ["FAILED"], "flow_name": "etl"}]
)
def test_a_page_of_runs_is_read_in_the_order_of_an_index(database: Database, given: dict[str, Any]) -> None:
    """No filter that the command line offers makes the database sort the table."""
    if database.dialect != "sqlite":
        pytest.skip("PostgreSQL sorts a table this small")
    after = add_run(database)
    seen: list[str] = []

    def explain(conn: Any, cursor: Any, statement: str, arguments: Any, context: Any, many: bool) -> None:
        if "ORDER BY flow_runs" in statement:
            seen.extend(row[-1] for row in cursor.connection.execute("EXPLAIN QUERY PLAN " + statement, arguments))

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", explain)
    try:
        queries.list_flow_runs(database, after=after, **given)
    finally:
        sa.event.remove(sa.engine.Engine, "before_cursor_execute", explain)
    assert seen
    assert not [line for line in seen if "TEMP B-TREE" in line or line.startswith("SCAN flow_runs USING TABLE")]


def test_the_steps_that_ended_lately_are_found_by_an_index(database: Database) -> None:
    """A poll does not walk over the whole run attempt."""
    if database.dialect != "sqlite":
        pytest.skip("PostgreSQL scans a table this small")
    seen: list[str] = []

    def explain(conn: Any, cursor: Any, statement: str, arguments: Any, context: Any, many: bool) -> None:
        if "end_time >=" in statement:
            seen.extend(row[-1] for row in cursor.connection.execute("EXPLAIN QUERY PLAN " + statement, arguments))

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", explain)
    try:
        journal.load_done(database, add_run(database), 1, 1_000.0)
    finally:
        sa.event.remove(sa.engine.Engine, "before_cursor_execute", explain)
    assert [line for line in seen if "ix_steps_ended (run_id=? AND run_attempt=? AND end_time>?)" in line]


def test_a_run_is_read_with_prefects_field_names_and_its_values_as_previews(database: Database) -> None:
    """Parameters and results are shown without unpickling; times are aware."""
    parent = add_run(database, "parent", at=5.0)
    link = add_step(database, parent, 0, kind="subflow")
    run_id = add_run(
        database,
        at=10.0,
        result=serializers.encode([1, "ü"]),
        tags='["a"]',
        parent_run_id=parent,
        parent_attempt=1,
        parent_step_key="main/work-0",
        root_run_id=parent,
        state_message="done",
    )
    found = queries.read_flow_run(database, run_id)
    assert found.result == [1, "ü"]
    assert found.run.parameters == {"n": 1}
    assert (found.run.parent_flow_run_id, found.run.parent_task_run_id) == (parent, link)
    assert (found.run.total_run_time, found.run.tags, found.run.state.message) == (2.0, ("a",), "done")
    assert found.run.created is not None
    assert found.run.created.isoformat() == "1970-01-01T00:00:10+00:00"
    assert found.run.is_final


def test_a_run_that_is_not_there_is_said_so(database: Database) -> None:
    """Every single record that is missing raises its own error."""
    for read in (queries.read_flow_run, queries.flow_run_state, queries.step_counts, queries.run_graph):
        with pytest.raises(FlowRunNotFound, match="gone"):
            read(database, "gone")
    with pytest.raises(TaskRunNotFound, match="gone"):
        queries.read_task_run(database, "gone")


def test_the_state_of_a_run_is_its_history_in_order(database: Database) -> None:
    """History is the run's own, or one task run's; how that ended is told by its row."""
    run_id = add_run(database)
    step = add_step(database, run_id, 0)
    rows = [(None, "RUNNING"), (step, "SCHEDULED"), (None, "COMPLETED")]
    for number, (step_id, kind) in enumerate(rows):
        values = {"run_id": run_id, "step_id": step_id, "type": kind, "name": kind.capitalize(), "timestamp": number}
        database.write(lambda conn, values=values: conn.execute(states.insert().values(values)))
    assert [state.type for state in queries.read_flow_run(database, run_id).states] == ["RUNNING", "COMPLETED"]
    assert [state.type for state in queries.state_history(database, run_id, step)] == ["SCHEDULED", "COMPLETED"]


def test_task_runs_of_a_run_come_in_order_of_asking_of_its_present_attempt(database: Database) -> None:
    """Older attempts and other kinds of step are shown only when asked for."""
    run_id = add_run(database, run_attempt=2)
    add_step(database, run_id, 7, state_type="FAILED", state_name="Failed")
    for number in range(5):
        add_step(database, run_id, number, run_attempt=2)
    add_step(database, run_id, 5, run_attempt=2, kind="sleep")

    def names(after: str | None = None, **given: Any) -> Any:
        return queries.list_task_runs(database, flow_run_id=run_id, limit=2, after=after, **given)

    now = ["work-0", "work-1"], ["work-2", "work-3"], ["work-4"]
    assert pages(names) == [*now]
    every = pages(lambda after: names(after, every_attempt=True))
    assert every == [["work-7", "work-0"], ["work-1", "work-2"], ["work-3", "work-4"]]
    assert pages(lambda after: names(after, kinds=()))[-1] == ["work-4", "work-5"]
    assert pages(lambda after: names(after, every_attempt=True, state_types=["FAILED"])) == [["work-7"]]
    newest = pages(lambda after: queries.list_task_runs(database, limit=4, after=after))
    assert newest[0][0] == "work-7"
    assert [len(page) for page in newest] == [4, 2]


def test_steps_are_counted_by_task_and_state(database: Database) -> None:
    """What progress bars show."""
    run_id = add_run(database)
    for number in range(3):
        add_step(database, run_id, number)
    add_step(database, run_id, 3, state_type="RUNNING", state_name="Running", phase="CLAIMED")
    add_step(database, run_id, 4, path="m:Other.load")
    counts = {(c.name, c.state_name): c.count for c in queries.step_counts(database, run_id)}
    assert counts == {("work", "Completed"): 3, ("work", "Running"): 1, ("load", "Completed"): 1}


def test_a_task_run_is_read_with_inputs_result_and_upstream(database: Database) -> None:
    """The upstream of a step is what its join counted."""
    run_id = add_run(database)
    add_step(database, run_id, 0)
    step = add_step(
        database, run_id, 1, join_id="main/work-1", inputs=serializers.encode({"x": 2}), result=serializers.encode("ok")
    )
    row = {
        "run_id": run_id,
        "run_attempt": 1,
        "upstream": "main/work-0",
        "join_id": "main/work-1",
        "target_id": "main/work-1",
        "strict": True,
    }
    database.write(lambda conn: conn.execute(edges.insert().values(row)))
    found = queries.read_task_run(database, step)
    assert (found.task_inputs, found.result, found.upstream) == ({"x": 2}, "ok", ("main/work-0",))
    assert [node.upstream for node in queries.run_graph(database, run_id)] == [(), ("main/work-0",)]


def test_flows_come_by_name_with_their_newest_run(database: Database) -> None:
    """A flow that never ran is listed too."""
    for name in ("a", "b", "c"):
        values = {"id": str(uuid.uuid4()), "name": name, "path": f"m:{name}", "created_at": 1.0, "updated_at": 1.0}
        database.write(lambda conn, values=values: conn.execute(flows.insert().values(values)))
    add_run(database, at=1, flow="a")
    add_run(database, at=2, flow="a", state_type="FAILED", state_name="Failed")
    listed = queries.list_flows(database).items
    assert [(flow.name, flow.last_run_state_name) for flow in listed] == [("a", "Failed"), ("b", None), ("c", None)]
    assert pages(lambda after: queries.list_flows(database, limit=2, after=after)) == [["a", "b"], ["c"]]


def test_what_waits_for_a_worker_is_counted_by_queue(database: Database) -> None:
    """Runs and tasks that are due count; what is due later, runs, or is local does not."""
    ready = {"phase": "READY", "due_at": 1.0, "queue": "etl"}
    run_id = add_run(database, runner="celery", **ready)
    add_run(database, runner="local", **ready)
    add_run(database, runner="celery", **(ready | {"due_at": 1e12}))
    add_step(database, run_id, 0, **ready)
    add_step(database, run_id, 1, **(ready | {"queue": "slow"}))
    assert queries.waiting_by_queue(database) == {"etl": 2, "slow": 1}


def test_reading_needs_no_log(database: Database) -> None:
    """A run without any log line or state is read as well."""
    run_id = add_run(database, parameters=None)
    assert queries.read_flow_run(database, run_id).run.parameters == {}
    assert database.read(lambda conn: conn.scalar(sa.select(sa.func.count()).select_from(logs))) == 0
