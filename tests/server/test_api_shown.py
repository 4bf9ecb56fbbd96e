"""The API shows artifacts, variables and events, and changes them."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestra import flow
from orchestra.artifacts import create_markdown_artifact, create_table_artifact
from orchestra.store import behind


@flow
def reporting(day: int) -> None:
    """Shows two things."""
    create_markdown_artifact(f"# day {day}", key="report")
    create_table_artifact([{"day": day}])


@pytest.fixture
def api(database_url: str, web: TestClient) -> TestClient:
    """A server over what two runs have shown."""
    reporting(1)
    reporting(2)
    behind.flush()
    return web


def ask(api: TestClient, method: str, path: str, status: int = 200, **given: Any) -> Any:
    """What the API says to this; fails where it is not said with this status."""
    answer = api.request(method, f"/api/{path}", **given)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


def test_artifacts_by_key_and_by_run(api: TestClient) -> None:
    """The newest version of a key; all of them page by page; deleted one by one, or all of a key."""
    (latest,) = ask(api, "GET", "artifacts/latest")["items"]
    first = ask(api, "GET", "artifacts", params={"key": "report", "limit": 1})
    second = ask(api, "GET", "artifacts", params={"key": "report", "limit": 1, "after": first["next"]})

    assert (latest["data"], first["items"]) == ("# day 2", [latest])
    assert (second["items"][0]["data"], second["next"]) == ("# day 1", None)
    assert ask(api, "GET", "artifacts/report/latest") == ask(api, "GET", f"artifacts/{latest['id']}") == latest
    of_run = ask(api, "GET", "artifacts", params={"flow_run_id": latest["flow_run_id"], "with_data": False})["items"]
    assert [(each["type"], each["data"]) for each in of_run] == [("table", None), ("markdown", None)]
    ask(api, "DELETE", f"artifacts/{latest['id']}", 204)
    assert ask(api, "GET", "artifacts/report/latest")["data"] == "# day 1"
    assert ask(api, "DELETE", "artifacts/key/report") == {"deleted": 1}
    ask(api, "GET", "artifacts/report/latest", 404)


def test_an_artifact_is_made_and_changed(api: TestClient) -> None:
    """It is the newest version of its key then; a change makes no other one."""
    new = {"key": "report", "type": "markdown", "data": "# by hand", "metadata_": {"by": "ada"}}
    made = ask(api, "POST", "artifacts", 201, json=new)
    assert ask(api, "GET", "artifacts/report/latest") == made
    assert {name: made[name] for name in new} == new

    changed = ask(api, "PATCH", f"artifacts/{made['id']}", json={"data": [{"a": 1}], "type": "table"})

    assert (changed["data"], changed["type"], changed["metadata_"]) == ([{"a": 1}], "table", {"by": "ada"})
    assert len(ask(api, "GET", "artifacts", params={"key": "report"})["items"]) == 3
    told = ask(api, "GET", "events", params={"event": "orchestra.artifact.created", "limit": 1})["items"]
    assert told[0]["resource"]["orchestra.resource.name"] == "report"
    ask(api, "PATCH", "artifacts/none", 404, json={"data": 1})


def test_an_artifact_is_made_once_under_an_idempotency_key(api: TestClient) -> None:
    """Asked for again it is as it was changed since; under another key or run, it is refused."""
    once = {"Idempotency-Key": "sales of monday"}
    made = ask(api, "POST", "artifacts", 201, json={"key": "progress", "data": 1}, headers=once)
    ask(api, "PATCH", f"artifacts/{made['id']}", json={"data": 2})

    again = ask(api, "POST", "artifacts", 201, json={"key": "progress", "data": 1}, headers=once)

    assert (again["id"], again["data"]) == (made["id"], 2)
    ask(api, "POST", "artifacts", 409, json={"key": "other", "data": 1}, headers=once)


@pytest.mark.parametrize(
    "wrong",
    [{"key": "No Key"}, {"type": "t" * 65}, {"description": "nul \0"}, {"metadata_": {"a": 1}}, {"id": "of another"}],
)
def test_an_artifact_that_cannot_be_kept_is_refused(api: TestClient, wrong: dict[str, Any]) -> None:
    """With what is wrong; nothing is kept."""
    before = ask(api, "GET", "artifacts")

    ask(api, "POST", "artifacts", 422, json={"data": 1} | wrong)

    assert ask(api, "GET", "artifacts") == before


def test_variables(api: TestClient) -> None:
    """Set once, changed, unset."""
    made = ask(api, "POST", "variables", 201, json={"name": "limits", "value": {"rows": 10}, "tags": ["etl"]})

    ask(api, "POST", "variables", 409, json={"name": "limits", "value": 1})
    ask(api, "POST", "variables", 422, json={"name": "No Name", "value": 1})
    assert ask(api, "GET", "variables")["items"] == [made]
    changed = ask(api, "PATCH", "variables/limits", json={"value": [1]})
    assert (changed["value"], changed["tags"]) == ([1], ["etl"])
    ask(api, "DELETE", "variables/limits", 204)
    ask(api, "GET", "variables/limits", 404)
    ask(api, "PATCH", "variables/limits", 404, json={"value": 1})


def test_events_are_read_and_told(api: TestClient) -> None:
    """Those of runs, of acts, and of others."""
    run_id = ask(api, "GET", "flow_runs")["items"][0]["id"]
    shipped = {"event": "order.shipped", "resource": {"orchestra.resource.id": "order.42"}, "payload": {"to": "eu"}}

    told = ask(api, "POST", "events", 201, json=shipped)

    (found,) = ask(api, "GET", "events", params={"event": "order.*"})["items"]
    assert (found["id"], found["payload"], found["resource"]) == (told["id"], {"to": "eu"}, shipped["resource"])
    of_run = ask(api, "GET", "events", params={"flow_run_id": run_id, "event": "orchestra.flow-run.*", "limit": 1})
    assert of_run["items"][0]["event"] == "orchestra.flow-run.Completed"
    assert of_run["next"] is not None
    ask(api, "POST", "events", 422, json={"event": "order.shipped", "resource": {}})
    ask(api, "GET", "events", 422, params={"after": "nowhere"})
