"""The API shows flows, runs, task runs and logs, page by page; over runs of this process, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestra import tags
from tests.client import flows


@pytest.fixture
def api(database_url: str, web: TestClient) -> TestClient:
    """A server over three ended runs: two that completed, one that failed."""
    with tags("nightly", "eu"):
        flows.doubled(1)
    with tags("nightly"):
        flows.doubled(2)
    flows.refused(3, return_state=True)
    return web


def numbers(answer: Any) -> list[int]:
    """The parameter of each run of an answer, in their order."""
    found = answer.json()
    return [run["parameters"]["number"] for run in (found["items"] if isinstance(found, dict) else found)]


def test_a_list_of_runs_is_paged_by_key(api: TestClient) -> None:
    """The newest come first; the last page says that it is."""
    first = api.get("/api/flow_runs", params={"limit": 2})
    last = api.get("/api/flow_runs", params={"limit": 2, "after": first.json()["next"]})

    assert (numbers(first), numbers(last)) == ([3, 2], [1])
    assert last.json()["next"] is None


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"state_type": "FAILED"}, [3]),
        ({"state_type": ["FAILED", "COMPLETED"]}, [3, 2, 1]),
        ({"state_name": "Completed", "tag": ["eu", "nightly"]}, [1]),
        ({"flow_name": "doubled", "tag": "nightly"}, [2, 1]),
        ({"deployment_id": "none"}, []),
    ],
)
def test_a_list_is_filtered_by_its_address(api: TestClient, wanted: dict[str, Any], found: list[int]) -> None:
    """All that is given must fit."""
    assert numbers(api.get("/api/flow_runs", params=wanted)) == found


def test_runs_are_searched_by_filters_of_prefects_form(api: TestClient) -> None:
    """And counted."""
    wanted = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}, "flows": {"name": {"like_": "DOUB"}}}

    assert numbers(api.post("/api/flow_runs/filter", json={**wanted, "sort": "CREATED_ASC"})) == [1, 2]
    assert numbers(api.post("/api/flow_runs/filter", json={**wanted, "limit": 1, "offset": 1})) == [1]
    assert api.post("/api/flow_runs/count", json=wanted).json() == 2
    assert api.post("/api/task_runs/count", json=wanted).json() == 2


def test_a_run_has_prefects_field_names(api: TestClient) -> None:
    """And the states that it was in."""
    run_id = api.get("/api/flow_runs", params={"state_type": "FAILED"}).json()["items"][0]["id"]

    run = api.get(f"/api/flow_runs/{run_id}").json()

    assert (run["flow_name"], run["state_type"], run["state"]["name"]) == ("refused", "FAILED", "Failed")
    assert "3 is refused" in run["state"]["message"]
    assert [each["name"] for each in run["states"]][-1] == "Failed"
    assert api.get(f"/api/flow_runs/{run_id}/state").json()["name"] == "Failed"
    assert api.get(f"/api/flow_runs/{run_id}/states").json() == run["states"]


def test_task_runs_and_graph_of_a_run(api: TestClient) -> None:
    """In order of asking."""
    run_id = api.get("/api/flow_runs", params={"flow_name": "doubled", "limit": 1}).json()["items"][0]["id"]

    (task_run,) = api.get(f"/api/flow_runs/{run_id}/task_runs").json()["items"]
    (node,) = api.get(f"/api/flow_runs/{run_id}/graph").json()
    (count,) = api.get(f"/api/flow_runs/{run_id}/steps").json()

    assert api.get("/api/task_runs", params={"flow_run_id": run_id}).json()["items"] == [task_run]
    assert api.get(f"/api/task_runs/{task_run['id']}").json()["state_name"] == "Completed"
    assert (node["key"], node["name"]) == (task_run["dynamic_key"], task_run["name"])
    assert (count["name"], count["count"]) == ("double", 1)


def test_log_lines_of_a_run_are_paged_and_of_a_level(api: TestClient) -> None:
    """Those of its tasks among them."""
    run_id = api.get("/api/flow_runs", params={"flow_name": "doubled", "limit": 1}).json()["items"][0]["id"]
    at = f"/api/flow_runs/{run_id}/logs"

    (line,) = api.get(at, params={"level": 30}).json()["items"]
    assert (line["message"], line["level"], line["flow_run_id"]) == ("doubling 2", 30, run_id)
    assert api.get(f"/api/task_runs/{line['task_run_id']}/logs").json()["items"][0] == line
    of_run = {"logs": {"flow_run_id": {"any_": [run_id]}, "level": {"ge_": 30}}}
    assert api.post("/api/logs/filter", json=of_run).json() == [line]
    every = api.get(at).json()["items"]
    first = api.get(at, params={"limit": 1}).json()
    assert api.get(at, params={"after": first["next"]}).json()["items"] == every[1:]
    assert api.get(at, params={"limit": 1, "tail": True}).json()["items"] == every[-1:]


def test_flows_by_id_and_by_name(api: TestClient) -> None:
    """Each with the state of its newest run."""
    found = api.get("/api/flows").json()["items"]

    assert [(each["name"], each["last_run_state_name"]) for each in found] == [
        ("doubled", "Completed"),
        ("refused", "Failed"),
    ]
    assert api.get(f"/api/flows/{found[0]['id']}").json() == found[0]
    assert api.get("/api/flows/name/doubled").json() == found[0]
    assert api.post("/api/flows/count", json={"flow_runs": {"tags": {"all_": ["eu"]}}}).json() == 1


@pytest.mark.parametrize(
    "path",
    ["flow_runs/none", "flow_runs/none/logs", "task_runs/none", "flows/none", "deployments/none", "work_pools/none",
     "global_concurrency_limits/none", "transactions/none", "flow_runs/none/graph", "flow_runs?after=none"],
)  # fmt: skip
def test_what_is_not_there_is_said_to_be_so(web: TestClient, path: str) -> None:
    """As a problem, of a kind that names the noun."""
    answer = web.get(f"/api/{path}")

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["title"].endswith("NotFound")
    assert answer.json()["facts"]


def test_the_version_is_told(web: TestClient) -> None:
    """That of the package."""
    assert web.get("/api/admin/version").json() == "0.1.0"
