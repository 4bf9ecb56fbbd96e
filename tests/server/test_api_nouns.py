"""The API makes, changes and deletes what runs need: deployments, schedules, pools, queues, limits, cached results."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from orchestra import flow, task
from orchestra.cache_policies import INPUTS
from orchestra.transactions import transaction
from tests.client import flows


@pytest.fixture
def api(database_url: str, web: TestClient) -> TestClient:
    """A server over a database without any."""
    return web


def ask(api: TestClient, method: str, path: str, status: int = 200, **given: Any) -> Any:
    """What the API says to this; fails where it is not said with this status."""
    answer = api.request(method, f"/api/{path}", **given)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


def test_a_deployment_is_made_changed_and_deleted(api: TestClient) -> None:
    """Of a flow that the server never loads."""
    new = {
        "name": "nightly",
        "flow_name": "etl",
        "entrypoint": "nowhere:etl",
        "parameters": {"limit": 1},
        "parameter_openapi_schema": {"type": "object", "properties": {"limit": {"type": "integer"}}},
        "schedules": [{"cron": "0 3 * * *", "timezone": "Europe/Berlin", "slug": "night"}],
    }
    made = ask(api, "POST", "deployments", 201, json=new)

    assert (made["name"], made["status"], made["schedules"][0]["slug"]) == ("nightly", "NOT_READY", "night")
    assert ask(api, "GET", "deployments")["items"] == [made]
    assert ask(api, "GET", "deployments/name/etl/nightly") == made
    ask(api, "POST", "deployments", 409, json=new)
    at = f"deployments/{made['id']}"
    changed = ask(api, "PATCH", at, json={"parameters": {"limit": 2}, "tags": ["eu"], "concurrency_limit": 3})
    assert (changed["parameters"], changed["tags"], changed["concurrency_limit"]) == ({"limit": 2}, ["eu"], 3)
    assert ask(api, "PATCH", at, json={"concurrency_limit": None})["concurrency_limit"] is None
    ask(api, "PATCH", at, 422, json={"parameters": {"limit": "many"}})
    assert [ask(api, "POST", f"{at}/{verb}")["paused"] for verb in ("pause", "resume")] == [True, False]
    ask(api, "DELETE", at, 204)
    ask(api, "GET", at, 404)


def test_schedules_of_a_deployment_and_when_they_fire_next(api: TestClient) -> None:
    """The times of all that are active, the first one first."""
    new = {"name": "nightly", "flow_name": "etl", "entrypoint": "nowhere:etl"}
    at = f"deployments/{ask(api, 'POST', 'deployments', 201, json=new)['id']}"

    hourly = ask(api, "POST", f"{at}/schedules", 201, json={"interval": 3600, "slug": "hourly"})
    ask(api, "POST", f"{at}/schedules", 201, json={"rrule": "FREQ=DAILY"})
    ask(api, "POST", f"{at}/schedules", 422, json={"cron": "at night"})
    ask(api, "POST", f"{at}/schedules", 422, json={"cron": "0 3 * * *", "interval": 5})
    ask(api, "POST", f"{at}/schedules", 409, json={"interval": 60, "slug": "hourly"})

    times = [each["expected_start_time"] for each in ask(api, "GET", f"{at}/upcoming", params={"limit": 30})]
    assert (len(times), times) == (30, sorted(times))
    ask(api, "PATCH", f"{at}/schedules/hourly", 204, json={"active": False})
    assert "hourly" not in {each["schedule"] for each in ask(api, "GET", f"{at}/upcoming", params={"limit": 3})}
    ask(api, "DELETE", f"{at}/schedules/{hourly['id']}", 204)
    assert [each["rrule"] for each in ask(api, "GET", f"{at}/schedules")] == ["FREQ=DAILY"]
    ask(api, "POST", f"{at}/schedules", 201, json={"interval": 60}, params={"replace": True})
    assert [each["interval"] for each in ask(api, "GET", f"{at}/schedules")] == [60]


def test_work_pools_and_their_queues(api: TestClient) -> None:
    """With the slots of their workers, of which there are none."""
    pool = ask(api, "POST", "work_pools", 201, json={"name": "etl"})
    queue = ask(api, "POST", "work_pools/etl/queues", 201, json={"name": "urgent", "priority": 0})

    assert (pool["type"], queue["celery_queue"]) == ("process", "etl.urgent")
    ask(api, "POST", "work_pools", 409, json={"name": "etl"})
    ask(api, "POST", "work_pools", 422, json={"name": "e,t;l"})
    assert ask(api, "PATCH", "work_pools/etl", json={"concurrency_limit": 4})["concurrency_limit"] == 4
    assert [ask(api, "POST", f"work_pools/etl/{verb}")["is_paused"] for verb in ("pause", "resume")] == [True, False]
    assert ask(api, "PATCH", "work_pools/etl/queues/urgent", json={"is_paused": True})["is_paused"]
    assert ask(api, "GET", "work_pools/etl/queues/urgent")["is_paused"]
    assert [each["name"] for each in ask(api, "GET", "work_queues")] == ["urgent", "default"]
    assert {each["worker_slots"] for each in ask(api, "GET", "work_pools/etl/slots")} == {0}
    assert ask(api, "GET", "work_pools/etl/waiting") == []
    assert ask(api, "GET", "workers")["items"] == []
    ask(api, "DELETE", "work_pools/etl/queues/urgent", 204)
    ask(api, "DELETE", "work_pools/etl", 204)
    assert ask(api, "GET", "work_pools")["items"] == []


def test_concurrency_limits(api: TestClient) -> None:
    """Made, changed, deleted."""
    ask(api, "POST", "global_concurrency_limits", 201, json={"name": "tag:gpu", "limit": 2})

    ask(api, "POST", "global_concurrency_limits", 409, json={"name": "tag:gpu", "limit": 2})
    assert not ask(api, "PATCH", "global_concurrency_limits/tag:gpu", json={"active": False})["active"]
    assert ask(api, "GET", "global_concurrency_limits/tag:gpu/holders") == []
    assert [each["limit"] for each in ask(api, "GET", "global_concurrency_limits")] == [2]
    ask(api, "DELETE", "global_concurrency_limits/tag:gpu", 204)
    ask(api, "GET", "global_concurrency_limits/tag:gpu", 404)


@task(cache_policy=INPUTS, persist_result=True)
def load(day: int) -> int:
    """A task whose result is kept."""
    return day


@flow
def loading() -> None:
    """Caches two results, and rolls back a transaction."""
    load(1)
    load(2)
    with transaction():
        flows.refuse(3)


def test_cached_results_and_transactions(api: TestClient) -> None:
    """Seen page by page; cached ones deleted."""
    loading(return_state=True)

    first = ask(api, "GET", "cache", params={"limit": 1})
    second = ask(api, "GET", "cache", params={"limit": 1, "after": first["next"]})
    assert [page["items"][0]["task_name"] for page in (first, second)] == ["load", "load"]
    assert second["next"] is None
    assert ask(api, "POST", "cache/clear", json={"task": "load"}) == {"deleted": 2}
    (found,) = ask(api, "GET", "transactions", params={"state": "ROLLED_BACK"})["items"]
    assert ask(api, "GET", f"transactions/{found['flow_run_id']}")["hooks"] == []
    refused = ask(api, "POST", f"transactions/{found['flow_run_id']}/retry", 409)
    assert "the server, which runs no code of flows" in refused["detail"]
