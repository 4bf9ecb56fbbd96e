"""With ORCHESTRA_API_URL the command line and clients ask a server, and see and do the same as with its database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from orchestra import get_client, settings
from orchestra.cli import cli
from orchestra.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from orchestra.client.schemas.filters import FlowRunFilter, LogFilter, TaskRunFilter
from orchestra.client.schemas.sorting import FlowRunSort
from orchestra.deployments import Deployment
from orchestra.errors import (
    ArtifactNotFound,
    ConfigurationError,
    FlowRunNotFound,
    IllegalTransition,
    InvalidArtifact,
    InvalidRunInput,
    LimitNotFound,
    StoreUnavailable,
    TaskRunNotFound,
)
from orchestra.server import create_app
from orchestra.store import artifacts, behind
from orchestra.store.database import database
from tests.client import flows
from tests.drive import Driver
from tests.engine import rerun_flows

API = "http://127.0.0.1:4200/api"


def refuse(*_: object) -> None:
    """In the place of the database: nobody here may ask it but the server."""
    raise AssertionError("the database was asked")


@pytest.fixture
def through_api(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server answers at the network's edge; the command line and clients know only its address."""
    with TestClient(create_app(), base_url="http://127.0.0.1:4200") as web:
        monkeypatch.setattr("orchestra.client.caller._client", lambda url, headers: web)
        monkeypatch.setattr("orchestra.client.backend.database", refuse)
        monkeypatch.setenv("ORCHESTRA_API_URL", API)
        settings.reset()
        yield


def said(*args: str, code: int = 0) -> Any:
    """What a command prints: its JSON, or its text."""
    result = CliRunner().invoke(cli, list(args), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout) if "json" in args else result.output


def test_a_client_reads_the_same(driver: Driver, through_api: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record for record, values of runs among them."""
    good, bad = driver.submit(flows.doubled, number=4), driver.submit(flows.refused, number=4)
    driver.finish(good)
    driver.finish(bad)
    behind.flush()

    def looked() -> list[Any]:
        with get_client(sync_client=True) as client:
            failed = FlowRunFilter.model_validate({"state": {"type": {"any_": ["FAILED"]}}})
            runs = client.read_flow_runs(sort=FlowRunSort.NAME_ASC, limit=1, offset=1)
            lines = client.read_logs(LogFilter.model_validate({"flow_run_id": {"any_": [good]}}))
            return [
                *runs,
                client.read_flow_run(bad),
                client.count_flow_runs(flow_run_filter=failed),
                client.read_task_runs(limit=None),
                client.read_flow_run_states(good),
                client.read_flows(),
                lines,
                client.read_flow_run(good).state.result(),
                repr(client.read_task_run(client.read_task_runs(limit=1)[0].id).state.result(raise_on_failure=False)),
            ]

    through = looked()
    monkeypatch.delenv("ORCHESTRA_API_URL")
    monkeypatch.setattr("orchestra.client.backend.database", database)
    settings.reset()
    assert through == looked()


def test_what_cannot_be_done_raises_the_same(driver: Driver, through_api: None) -> None:
    """With the facts of the error."""
    run_id = driver.submit(flows.asking)
    driver.settle()
    with get_client(sync_client=True) as client:
        with pytest.raises(FlowRunNotFound) as missing:
            client.read_flow_run("none")
        assert missing.value.flow_run_id == "none"
        with pytest.raises(IllegalTransition, match="cannot be retried"):
            client.retry_flow_run(run_id)
        with pytest.raises(InvalidRunInput, match="yes"):
            client.resume_flow_run(run_id, {"yes": "perhaps"})
        with pytest.raises(LimitNotFound):
            client.read_global_concurrency_limit_by_name("none")
        with pytest.raises(ConfigurationError, match="start a run of a deployment"):
            client.create_flow_run(flows.doubled, parameters={"number": 1})
        client.resume_flow_run(run_id, flows.Approval(yes=True))
    driver.sweep()
    assert driver.finish(run_id).result() is True


def test_a_run_is_retried_from_a_task(driver: Driver, through_api: None) -> None:
    """By its id or, on the command line, by its name; what no task run is called is said."""
    run_id = driver.submit(rerun_flows.in_a_row)
    driver.finish(run_id)
    with get_client(sync_client=True) as client:
        (last,) = client.read_task_runs(task_run_filter=TaskRunFilter.model_validate({"name": {"any_": ["step-2"]}}))
        with pytest.raises(TaskRunNotFound):
            client.retry_flow_run(run_id, from_task_run_id=run_id)
        client.retry_flow_run(run_id, from_task_run_id=last.id)
    driver.sweep()
    counts = [value[-1] for value in driver.finish(run_id).result()]

    assert "has no task run named 'load'" in said("flow-run", "retry", run_id, "--from-task", "load", code=2)
    assert "--from-task take one run" in said("flow-run", "retry", run_id, run_id, "--from-task", "step-2", code=2)
    assert "runs again" in said("flow-run", "retry", run_id, "--from-task", "step-2")
    driver.sweep()
    later = [value[-1] for value in driver.finish(run_id).result()]
    assert (later[:2], int(later[2])) == (counts[:2], int(counts[2]) + 1)


def test_a_name_that_several_tasks_have_is_refused(driver: Driver, through_api: None) -> None:
    """With the ids of those that have it."""
    run_id = driver.submit(rerun_flows.in_branches)
    driver.finish(run_id)

    refused = said("flow-run", "retry", run_id, "--from-task", "lone-0", code=2)
    assert all(key in refused for key in ("main.1/lone-0", "main.2/lone-0"))


def test_the_command_line_shows_and_acts(driver: Driver, through_api: None) -> None:
    """Runs, their tasks and log lines; a deployment is run, watched, paused and resumed."""
    run_id = driver.submit(flows.refused, number=1)
    driver.finish(run_id)
    behind.flush()

    assert [run["id"] for run in said("flow-run", "ls", "-o", "json")] == [run_id]
    assert said("flow-run", "inspect", run_id, "-o", "json")["result"]["message"] == "1 is refused"
    assert "1 is refused" in said("flow-run", "logs", run_id)
    assert said("flow-run", "logs", run_id, "--tail", "1", "-o", "json")[0]["flow_run_id"] == run_id
    assert said("task-run", "ls", "--flow-run", run_id, "-o", "json")[0]["state_type"] == "FAILED"
    assert "ended Failed" in said("flow-run", "watch", run_id, code=6)
    assert "runs again" in said("flow-run", "retry", run_id)
    assert "is paused" in said("flow-run", "pause", run_id)
    assert "goes on" in said("flow-run", "resume", run_id)
    assert "is being cancelled" in said("flow-run", "cancel", run_id)
    driver.settle()
    assert "is deleted" in said("flow-run", "delete", run_id)
    assert "there is no flow run" in said("flow-run", "inspect", run_id, code=3)
    assert said("flow", "ls", "-o", "json")[0]["name"] == "refused"


def test_a_deployment_is_run_by_the_command_line(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Its parameters are checked by the server."""
    Deployment.build_from_flow(flows.doubled, "nightly", parameters={"number": 1}).apply()
    request.getfixturevalue("through_api")

    run_id = said("deployment", "run", "doubled/nightly", "--param", "number=4").split()[0]
    driver.sweep()
    assert driver.finish(run_id).result() == 8
    again = said("flow-run", "create", "--deployment", "doubled/nightly").split()[0]
    assert said("flow-run", "ls", "--deployment", "doubled/nightly", "-o", "json")[0]["id"] == again
    assert "'number'" in said("deployment", "run", "doubled/nightly", "--param", "number=four", code=2)
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("doubled/nightly")
        made = client.create_flow_run_from_deployment(deployment.id, parameters={"number": 5}, idempotency_key="5")
        assert (
            client.create_flow_run_from_deployment(deployment.id, parameters={"number": 5}, idempotency_key="5") == made
        )
    said("deployment", "pause", "doubled/nightly")
    assert said("deployment", "inspect", "doubled/nightly", "-o", "json")["paused"]
    said("deployment", "resume", "doubled/nightly")
    assert [each["name"] for each in said("deployment", "ls", "-o", "json")] == ["nightly"]
    assert said("work-pool", "ls", "-o", "json") == []
    said("gcl", "create", "etl", "--limit", "2")
    assert said("gcl", "inspect", "etl", "-o", "json")["limit"] == 2


def test_a_server_that_does_not_answer_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to look at."""
    monkeypatch.setenv("ORCHESTRA_API_URL", "http://127.0.0.1:1/api")
    settings.reset()

    with pytest.raises(StoreUnavailable, match="ORCHESTRA_API_URL is right"):
        get_client(sync_client=True).hello()
    assert "does not answer" in said("flow-run", "ls", code=5)


@pytest.mark.parametrize(
    "command",
    [
        f"deploy {flows.__name__}:doubled --name nightly",
        f"flow-run create --flow {flows.__name__}:doubled",
    ],
)
def test_what_loads_code_says_that_it_needs_the_database(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """In the place of asking another one than the server's."""
    monkeypatch.setenv("ORCHESTRA_API_URL", API)
    settings.reset()

    assert "this needs the database itself" in said(*command.split(), code=2)


OWN = [
    "worker start",
    "worker start --pool etl",
    "beat start",
    "dev",
    "server start",
    f"task serve {flows.__name__}:double",
    "db current",
    "db upgrade",
    "db reset --yes",
    "db clean",
    "db prune",
]


@pytest.mark.parametrize("command", OWN)
def test_nothing_runs_on_this_homes_database_for_another_hosts_server(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """It says what to set, and makes no database here."""
    monkeypatch.setenv("ORCHESTRA_API_URL", "https://orchestra.example")
    settings.reset()

    told = said(*command.split(), code=2)

    assert "set ORCHESTRA_DATABASE_URL" in told
    assert "ORCHESTRA_BROKER_URL" in told
    assert list(home.glob("orchestra.db*")) == []


def test_who_is_refused_is_told_how_to_say_that_the_server_is_this_homes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its public name is not known to be this machine's: the database is named then."""
    monkeypatch.setenv("ORCHESTRA_API_URL", "https://orchestra.example")
    settings.reset()
    assert f"set ORCHESTRA_DATABASE_URL=sqlite:///{home / 'orchestra.db'}" in said("beat", "start", code=2)

    monkeypatch.setenv("ORCHESTRA_DATABASE_URL", f"sqlite:///{home / 'orchestra.db'}")
    settings.reset()

    assert "the schema is now" in said("db", "upgrade")


@pytest.mark.parametrize("named", ["--allow-host", "--host"])
def test_a_server_is_started_though_its_own_public_name_is_worked_with(
    home: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """It goes on to what such a server needs: somebody who can log in."""
    monkeypatch.setenv("ORCHESTRA_API_URL", "https://Orchestra.example/api")
    settings.reset()

    told = said("server", "start", named, "orchestra.example", code=2)

    assert "nobody could log in yet" in told
    assert "while ORCHESTRA_API_URL is unset" in told


@pytest.mark.parametrize(
    "given",
    [
        {"ORCHESTRA_API_URL": "http://localhost:4200"},
        {"ORCHESTRA_API_URL": "http://[::1]:4200"},
        {
            "ORCHESTRA_API_URL": "https://orchestra.example",
            "ORCHESTRA_DATABASE_URL": "sqlite:///{home.parent}/shared.db",
        },
    ],
)
def test_a_server_of_this_host_or_a_named_database_is_meant(
    home: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    """Commands of this host's database go on."""
    for name, value in given.items():
        monkeypatch.setenv(name, value.format(home=home))
    settings.reset()

    assert "the schema is now" in said("db", "upgrade")


def test_doctor_looks_at_the_server_that_is_worked_with(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And makes no database in this home, which nobody would ask."""
    monkeypatch.setenv("ORCHESTRA_API_URL", "http://nowhere.invalid:4200")
    settings.reset()

    told = said("doctor", code=1)

    assert "left out" in told
    assert "nowhere.invalid:4200/api does not answer" in told
    assert list(home.glob("orchestra.db*")) == []


def test_variables_are_set_and_read(through_api: None) -> None:
    """By the command line, and read by clients."""
    said("variable", "set", "region", "eu-west-1")
    said("variable", "set", "region", "us", code=4)
    said("variable", "set", "region", '["us"]', "--overwrite", "--tag", "etl")
    assert said("variable", "get", "region") == '["us"]\n'
    assert [(each["name"], each["tags"]) for each in said("variable", "ls", "-o", "json")] == [("region", ["etl"])]
    with get_client(sync_client=True) as client:
        assert [each.value for each in client.read_variables()] == [["us"]]
        assert client.read_variable_by_name("nowhere") is None

    said("variable", "unset", "region")
    said("variable", "get", "region", code=3)


def test_artifacts_are_seen_and_deleted(through_api: None) -> None:
    """Versions of a key, and single ones."""
    for number, text in enumerate(("one", "two")):
        new = artifacts.NewArtifact(id=text, key="report", type="markdown", data=json.dumps(text))
        database().write(partial(artifacts.add, new=new, moment=float(number)))
    assert [each["id"] for each in said("artifact", "ls", "-o", "json")] == ["two"]
    assert [each["id"] for each in said("artifact", "ls", "--all", "-o", "json")] == ["two", "one"]
    assert [each["data"] for each in said("artifact", "inspect", "report", "-o", "json")] == ["two", "one"]

    said("artifact", "delete", "--id", "two")
    assert [each["data"] for each in said("artifact", "inspect", "one", "-o", "json")] == ["one"]
    said("artifact", "delete", "report", "--yes")
    said("artifact", "inspect", "report", code=3)


def test_artifacts_are_made_and_changed(through_api: None) -> None:
    """By a client, as with the database."""
    with get_client(sync_client=True) as client:
        new = ArtifactCreate(key="report", type="progress", data=1.5, description="rows", metadata_={"by": "hand"})
        made = client.create_artifact(new)
        client.update_artifact(made.id, ArtifactUpdate(data=2.0))
        found = client.read_artifact(made.id)

        assert (found.data, found.description, found.metadata_) == (2.0, "rows", {"by": "hand"})
        with pytest.raises(InvalidArtifact):
            client.create_artifact(ArtifactCreate(key="No Key"))
        with pytest.raises(ArtifactNotFound):
            client.update_artifact("none", ArtifactUpdate(data=1))


def test_events_are_told_and_listed(through_api: None) -> None:
    """With the same filters."""
    told = said("events", "emit", "order.shipped", "--resource-id", "order.42", "--payload", '{"parts": 2}').strip()
    said("events", "emit", "parcel.sent", "--resource-id", "parcel.1")
    behind.flush()

    (event,) = said("events", "ls", "--event", "order.*", "-o", "json")
    assert (event["id"], event["payload"]) == (told, {"parts": 2})
