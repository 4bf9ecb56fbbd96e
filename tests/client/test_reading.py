"""A client reads flows, runs, states and logs; over runs of this process, on both databases."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from pydantic import ValidationError

from orchestra import get_client, tags
from orchestra.cli import cli
from orchestra.client.orchestration import SyncOrchestraClient
from orchestra.client.schemas.filters import FlowFilter, FlowRunFilter, LogFilter, TaskRunFilter
from orchestra.client.schemas.sorting import FlowRunSort, TaskRunSort
from orchestra.errors import FlowNotFound, FlowRunNotFound, MissingResult, TaskRunNotFound
from orchestra.states import StateType
from tests.client import flows


@pytest.fixture
def client(database_url: str) -> SyncOrchestraClient:
    """A client, over three ended runs: two that completed, one that failed."""
    with tags("nightly", "eu"):
        flows.doubled(1)
    with tags("nightly"):
        flows.doubled(2)
    flows.refused(3, return_state=True)
    return get_client(sync_client=True)


def runs(**fields: Any) -> FlowRunFilter:
    """A filter of flow runs."""
    return FlowRunFilter.model_validate(fields)


def numbers(client: SyncOrchestraClient, **wanted: Any) -> list[Any]:
    """The parameter of each run found, in their order."""
    return [run.parameters["number"] for run in client.read_flow_runs(**wanted)]  # type: ignore[index]


def test_a_run_is_read_with_prefects_field_names(client: SyncOrchestraClient) -> None:
    """The newest comes first."""
    run = client.read_flow_runs(limit=1)[0]

    assert (run.flow_name, run.parameters, run.state_type, run.state_name) == (
        "refused",
        {"number": 3},
        StateType.FAILED,
        "Failed",
    )
    assert run.state.is_failed()
    assert isinstance(run.total_run_time, timedelta)
    assert client.read_flow_run(run.id) == client.read_flow_run(uuid.UUID(run.id))


def test_a_record_is_what_the_command_line_shows(client: SyncOrchestraClient) -> None:
    """Field by field, as JSON."""
    run = client.read_flow_runs(limit=1)[0]
    result = CliRunner().invoke(cli, ["flow-run", "ls", "--limit", "1", "-o", "json"], catch_exceptions=False)

    (shown,) = json.loads(result.stdout)
    told = json.loads(run.model_dump_json())
    assert shown.keys() == told.keys()
    moments = {name for name, value in shown.items() if isinstance(value, str) and value.endswith("+00:00")}
    assert {name: told[name] for name in told.keys() - moments} == {
        name: shown[name] for name in shown.keys() - moments
    }


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, [3, 2, 1]),
        ({"flow_run_filter": runs(state={"type": {"any_": ["COMPLETED"]}})}, [2, 1]),
        ({"flow_run_filter": runs(state={"name": {"not_any_": ["Completed"]}})}, [3]),
        ({"flow_run_filter": runs(tags={"all_": ["eu", "nightly"]})}, [1]),
        ({"flow_run_filter": runs(tags={"any_": ["eu", "nightly"]})}, [2, 1]),
        ({"flow_run_filter": runs(tags={"is_null_": True})}, [3]),
        ({"flow_run_filter": runs(start_time={"before_": datetime(2000, 1, 1, tzinfo=UTC)})}, []),
        ({"flow_run_filter": runs(end_time={"is_null_": True})}, []),
        ({"flow_filter": FlowFilter.model_validate({"name": {"like_": "DOUB"}})}, [2, 1]),
        ({"flow_filter": FlowFilter.model_validate({"name": {"any_": ["refused"]}})}, [3]),
        ({"task_run_filter": TaskRunFilter.model_validate({"state": {"type": {"any_": ["FAILED"]}}})}, [3]),
        ({"sort": FlowRunSort.START_TIME_ASC, "limit": 2}, [1, 2]),
        ({"limit": 1, "offset": 1}, [2]),
        ({"limit": None}, [3, 2, 1]),
    ],
)
def test_runs_are_found_by_what_is_asked(client: SyncOrchestraClient, wanted: Any, found: list[int]) -> None:
    """By fields of their own, of their flow, and of their tasks; sorted and paged."""
    assert numbers(client, **wanted) == found
    if not wanted.keys() & {"sort", "limit", "offset"}:
        assert client.count_flow_runs(**wanted) == len(found)


def test_flows_are_found_by_their_runs(client: SyncOrchestraClient) -> None:
    """And by name."""
    failed = runs(state={"type": {"any_": ["FAILED"]}})

    assert [flow.name for flow in client.read_flows()] == ["doubled", "refused"]
    assert [flow.name for flow in client.read_flows(flow_run_filter=failed)] == ["refused"]
    assert client.count_flows(flow_run_filter=failed) == 1
    assert client.read_flow(client.read_flow_by_name("doubled").id).last_run_state_name == "Completed"


def test_task_runs_are_found_by_their_flow_run(client: SyncOrchestraClient) -> None:
    """And by their state and tags."""
    first = client.read_flow_runs(sort=FlowRunSort.CREATED_ASC, limit=1)[0]
    of_first = runs(id={"any_": [first.id]})

    (found,) = client.read_task_runs(flow_run_filter=of_first)
    assert (found.name, found.flow_run_id, found.tags) == ("double-0", first.id, ["eu", "nightly"])
    assert client.read_task_run(found.id) == found
    names = [run.name for run in client.read_task_runs(sort=TaskRunSort.NAME_ASC)]
    assert names == ["double-0", "double-0", "refuse-0"]
    tagged = TaskRunFilter.model_validate({"tags": {"all_": ["eu"]}})
    assert client.count_task_runs(task_run_filter=tagged) == 1


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """The statements that are sent to any database meanwhile."""
    sent: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        sent.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    yield sent
    sa.event.remove(sa.Engine, "before_cursor_execute", note)


def test_a_search_is_one_query_however_much_it_finds(client: SyncOrchestraClient, statements: list[str]) -> None:
    """Runs come with their flow, state and tags."""
    client.count_flow_runs()
    for search in (client.read_flow_runs, client.read_task_runs, client.read_flows, client.read_logs):
        statements.clear()
        assert len(search()) > 1
        assert len(statements) == 1


def test_log_lines_are_found_by_run_and_level(client: SyncOrchestraClient) -> None:
    """In the order of their time."""
    first, second = client.read_flow_runs(sort=FlowRunSort.CREATED_ASC, limit=2)
    wanted = LogFilter.model_validate({"level": {"ge_": 30}, "flow_run_id": {"any_": [first.id, second.id]}})

    lines = client.read_logs(wanted)
    assert [line.message for line in lines] == ["doubling 1", "doubling 2"]
    assert lines[0].task_run_id == client.read_task_runs(flow_run_filter=runs(id={"any_": [first.id]}))[0].id
    assert [line.message for line in client.read_logs(wanted, limit=1, offset=1)] == ["doubling 2"]


def test_the_states_of_a_run_are_read_in_their_order(client: SyncOrchestraClient) -> None:
    """From the first to the present one."""
    run = client.read_flow_runs(limit=1)[0]

    assert [state.name for state in client.read_flow_run_states(run.id)] == ["Running", "Failed"]


def test_what_is_not_there_is_named(client: SyncOrchestraClient) -> None:
    """Each by its own error."""
    for read, error in (
        (client.read_flow_run, FlowRunNotFound),
        (client.read_task_run, TaskRunNotFound),
        (client.read_flow, FlowNotFound),
        (client.read_flow_by_name, FlowNotFound),
    ):
        with pytest.raises(error, match="'gone'"):
            read("gone")


@pytest.mark.parametrize("sync_client", [True, False])
def test_methods_that_are_still_to_come_say_so(sync_client: Literal[True]) -> None:
    """Others are missing as anywhere."""
    client = get_client(sync_client=sync_client)

    with pytest.raises(AttributeError, match="automations come in a later version"):
        client.read_automations()
    assert not hasattr(client, "no_such_method")


def test_a_filter_that_does_not_exist_is_refused() -> None:
    """A misspelled one would else find everything."""
    with pytest.raises(ValidationError, match="stat"):
        runs(stat={"type": {"any_": ["FAILED"]}})


def test_a_result_that_was_not_kept_is_no_value(client: SyncOrchestraClient) -> None:
    """Flows of one process keep none; a failed run has an exception that says what it knows."""
    failed, completed, *_ = client.read_flow_runs()

    with pytest.raises(MissingResult, match="was not kept"):
        completed.state.result()
    assert "3 is refused" in str(failed.state.result(raise_on_failure=False))


def test_a_result_that_was_kept_is_read(client: SyncOrchestraClient) -> None:
    """Also in one process, where the flow says so; in a coroutine it is awaited."""
    flows.doubled.with_options(persist_result=True)(21)

    async def ask() -> Any:
        async with get_client() as asking:
            (newest,) = await asking.read_flow_runs(limit=1)
            return await newest.state.result()

    assert client.read_flow_runs(limit=1)[0].state.result() == 42
    assert asyncio.run(ask()) == 42


async def _all_async() -> list[Any]:
    async with get_client() as client:
        assert await client.api_healthcheck() is None
        return [run.flow_name for run in await client.read_flow_runs(limit=2)]


def test_in_a_coroutine_the_client_is_awaited(client: SyncOrchestraClient) -> None:
    """The same methods."""
    assert asyncio.run(_all_async()) == ["refused", "doubled"]
