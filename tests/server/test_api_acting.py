"""The API acts on runs of workers as the command line does."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestra import settings
from orchestra.deployments import Deployment
from tests.client import flows
from tests.drive import Driver
from tests.engine import rerun_flows


def deployed(**options: Any) -> str:
    """The id of a deployment of the flow that doubles."""
    return Deployment.build_from_flow(flows.doubled, "nightly", parameters={"number": 1}, **options).apply()


def test_a_run_is_started_by_its_deployment(driver: Driver, web: TestClient) -> None:
    """Without a broker: a worker's sweeper finds it, and the worker carries it out."""
    deployed()

    answer = web.post("/api/flow_runs", json={"deployment": "doubled/nightly", "parameters": {"number": 4}})

    assert answer.status_code == 201
    assert (answer.json()["flow_name"], answer.json()["state_name"]) == ("doubled", "Pending")
    driver.sweep()
    assert driver.finish(answer.json()["id"]).result() == 8


def test_the_same_key_gives_the_same_run(driver: Driver, web: TestClient) -> None:
    """Other parameters under it are a conflict."""
    at, key = f"/api/deployments/{deployed()}/create_flow_run", {"Idempotency-Key": "today"}

    first, second = web.post(at, headers=key, json={"name": "one"}), web.post(at, headers=key)
    other = web.post(at, headers=key, json={"parameters": {"number": 9}})

    assert first.json()["id"] == second.json()["id"]
    assert (first.json()["name"], first.json()["idempotency_key"]) == ("one", "today")
    assert (other.status_code, other.json()["title"]) == (409, "IdempotencyConflict")


@pytest.mark.parametrize("parameters", [{"number": "four"}, {"number": 4, "times": 2}])
def test_parameters_that_do_not_fit_start_nothing(driver: Driver, web: TestClient, parameters: dict[str, Any]) -> None:
    """By the schema that the deployment keeps."""
    answer = web.post(f"/api/deployments/{deployed()}/create_flow_run", json={"parameters": parameters})

    assert (answer.status_code, answer.json()["title"]) == (422, "ParameterTypeError")
    assert web.post("/api/flow_runs/count", json={}).json() == 0


def test_a_run_is_held_and_goes_on(driver: Driver, web: TestClient) -> None:
    """And is cancelled at last."""
    run_id = driver.submit(flows.doubled, number=1)

    def ask(verb: str) -> str:
        return str(web.post(f"/api/flow_runs/{run_id}/{verb}").json()["name"])

    assert [ask("pause"), ask("resume"), ask("suspend"), ask("cancel")] == [
        "Paused",
        "Scheduled",
        "Suspended",
        "Cancelled",
    ]
    driver.settle()
    assert web.post(f"/api/flow_runs/{run_id}/pause").status_code == 409


def test_a_failed_run_is_retried_and_deleted(driver: Driver, web: TestClient) -> None:
    """It is deleted only when it has ended."""
    run_id = driver.submit(flows.refused, number=1)
    assert web.delete(f"/api/flow_runs/{run_id}").status_code == 409
    driver.finish(run_id)

    assert web.post(f"/api/flow_runs/{run_id}/retry").status_code == 200
    driver.sweep()
    driver.finish(run_id)
    assert web.get(f"/api/flow_runs/{run_id}").json()["run_count"] == 2
    assert web.delete(f"/api/flow_runs/{run_id}").status_code == 204
    assert web.get(f"/api/flow_runs/{run_id}").status_code == 404


def test_a_run_is_retried_from_a_task(driver: Driver, web: TestClient) -> None:
    """What came before is kept; a task run that is not there, or of another run, is refused."""
    run_id, other = driver.submit(rerun_flows.in_a_row), driver.submit(flows.doubled, number=1)
    driver.finish(run_id)
    driver.finish(other)
    first, second, third = (task["id"] for task in web.get(f"/api/flow_runs/{run_id}/task_runs").json()["items"])

    def ask(flow_run_id: str, task_run_id: str) -> int:
        given = {"from_task_run_id": task_run_id}
        return int(web.post(f"/api/flow_runs/{flow_run_id}/retry", json=given).status_code)

    assert (ask(run_id, "nothing"), ask(other, second)) == (404, 409)
    assert ask(run_id, second) == 200
    driver.sweep()
    driver.finish(run_id)
    now = [task["id"] for task in web.get(f"/api/flow_runs/{run_id}/task_runs").json()["items"]]
    assert now[0] == first
    assert {second, third}.isdisjoint(now)


def test_a_run_is_given_what_it_waits_for(driver: Driver, web: TestClient) -> None:
    """What does not fit is refused by the schema that is shown."""
    run_id = driver.submit(flows.asking)
    driver.settle()
    (pause,) = web.get(f"/api/flow_runs/{run_id}").json()["pauses"]
    assert pause["schema"]["required"] == ["yes"]

    refused = web.post(f"/api/flow_runs/{run_id}/resume", json={"run_input": {"yes": "perhaps"}})
    assert (refused.status_code, refused.json()["title"]) == (422, "InvalidRunInput")
    web.post(f"/api/flow_runs/{run_id}/resume", json={"run_input": {"yes": True}})
    driver.sweep()
    assert driver.finish(run_id).result() is True


def test_a_state_is_set_by_the_verb_that_does_so(driver: Driver, web: TestClient) -> None:
    """One that nobody sets by hand is refused."""
    at = f"/api/flow_runs/{driver.submit(flows.doubled, number=1)}/set_state"

    done = web.post(at, json={"state": {"type": "COMPLETED"}})
    cancelled = web.post(at, json={"state": {"type": "CANCELLING", "name": "Cancelling"}})

    assert (done.status_code, done.json()["title"]) == (409, "IllegalTransition")
    assert (cancelled.json()["status"], cancelled.json()["state"]["name"]) == ("ACCEPT", "Cancelled")


def test_all_runs_that_a_filter_finds_are_acted_on(driver: Driver, web: TestClient) -> None:
    """A page at a time, each told what became of it; those to which it cannot be done are left out."""
    driver.run(flows.doubled, number=0)
    runs = [driver.submit(flows.doubled, number=number) for number in range(1, 5)]
    of_flow = {"flows": {"name": {"any_": ["doubled"]}}}

    first = web.post("/api/flow_runs/bulk_cancel", json={**of_flow, "limit": 3}).json()
    rest = web.post("/api/flow_runs/bulk_cancel", json={**of_flow, "after": first["next"]}).json()

    done = [each["id"] for each in first["outcomes"] + rest["outcomes"] if each["done"]]
    assert (done, rest["next"]) == ([*reversed(runs)], None)
    driver.settle()
    deleted = web.post("/api/flow_runs/bulk_delete", json=of_flow).json()["outcomes"]
    assert [each["done"] for each in deleted] == [True] * 5
    assert web.post("/api/flow_runs/count", json={}).json() == 0


def test_a_run_that_cannot_be_retried_holds_up_no_other(driver: Driver, web: TestClient) -> None:
    """It is told why."""
    flows.refused(3, return_state=True)
    run_id = driver.submit(flows.refused, number=1)
    driver.finish(run_id)

    outcomes = web.post("/api/flow_runs/bulk_retry", json={}).json()["outcomes"]

    assert {each["id"]: each["done"] for each in outcomes}[run_id]
    (local,) = [each for each in outcomes if not each["done"]]
    assert "it ran in a process of its own" in local["detail"]


def test_where_the_broker_is_silent_an_act_is_done(
    driver: Driver, web: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweeper tells the workers instead."""
    monkeypatch.setenv("ORCHESTRA_BROKER_URL", "redis://127.0.0.1:1/0")
    settings.reset()
    run_id = driver.submit(flows.refused, number=1)
    driver.finish(run_id)

    assert web.post(f"/api/flow_runs/{run_id}/retry").status_code == 200
    driver.elapse()
    driver.sweep()
    assert not driver.finish(run_id).is_completed()


def test_no_code_of_users_is_imported(driver: Driver, web: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither their app nor their flows, whatever is asked."""
    deployment_id = deployed(work_pool_name=None)
    monkeypatch.setenv("ORCHESTRA_APP", "tests.server.no_such_app")
    monkeypatch.setenv("ORCHESTRA_FLOWS", "tests.server.no_such_flows")
    settings.reset()
    run_id = driver.submit(flows.doubled, number=1)

    assert web.post(f"/api/flow_runs/{run_id}/cancel").status_code == 200
    by_route = web.post(f"/api/deployments/{deployment_id}/create_flow_run")
    assert by_route.status_code == 422
    assert "name a work queue" in by_route.json()["detail"]
    named = web.post(f"/api/deployments/{deployment_id}/create_flow_run", json={"work_queue_name": "default"})
    assert (named.status_code, named.json()["work_queue_name"]) == (201, "default")
