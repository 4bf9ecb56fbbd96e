"""Machines ask whatever the OpenAPI document allows, and more: nothing of it makes the server fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import given as asked_with
from hypothesis.errors import Unsatisfiable
from starlette.testclient import TestClient

from orchestra import tags
from orchestra.deployments import Deployment
from orchestra.server import create_app
from tests.client import flows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: Of each operation, and of each kind of request.
EXAMPLES = 3
_Mode = schemathesis.GenerationMode
_HERE = "http://127.0.0.1:4200"
_GIVEN = ("method", "url", "params", "json", "data", "content", "headers")
_FEW = settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture
def web(sqlite_database: object) -> Iterator[TestClient]:
    """A server over a few runs, a deployment, a pool and a limit."""
    with tags("nightly"):
        flows.doubled(1)
    flows.refused(3, return_state=True)
    Deployment.build_from_flow(flows.doubled, "nightly", parameters={"number": 1}).apply()
    with TestClient(create_app(), base_url=_HERE, raise_server_exceptions=False) as client:
        client.post("/api/work_pools", json={"name": "etl"})
        client.post("/api/global_concurrency_limits", json={"name": "etl", "limit": 1})
        yield client


def places(web: TestClient) -> dict[str, str]:
    """What is there, by the names that paths have for it."""
    run = web.get("/api/flow_runs", params={"flow_name": "doubled"}).json()["items"][0]
    return {
        "flow_run_id": run["id"],
        "flow_id": run["flow_id"],
        "flow_name": "doubled",
        "task_run_id": web.get("/api/task_runs").json()["items"][0]["id"],
        "deployment_id": web.get("/api/deployments").json()["items"][0]["id"],
        "deployment_name": "nightly",
        "schedule": "night",
        "pool": "etl",
        "name": "etl",
    }


def test_nothing_makes_the_server_fail(web: TestClient) -> None:
    """Each operation is asked what its schema allows, and what it does not, of what is there and of what is not."""
    document = schemathesis.openapi.from_dict(web.get("/api/openapi.json").json())
    failures: list[str] = []

    def ask(case: schemathesis.Case) -> None:
        request = case.as_transport_kwargs(base_url=_HERE)
        given = {name: each for name, each in request.items() if name in _GIVEN}
        if not isinstance(given.get("data"), dict | None):
            given["content"] = given.pop("data")
        answer = web.request(**given)
        if answer.status_code >= 500:
            failures.append(f"{request}: {answer.text}")

    # Last what deletes, so that the others have something to ask for.
    found = (each.ok() for each in document.get_all_operations())
    operations = sorted(found, key=lambda each: each.method == "delete" or "delete" in each.path)
    names = places(web)
    for operation in operations:
        there = {name: each for name, each in names.items() if f"{{{name}}}" in operation.path}
        _ask_often(operation, ask, generation_mode=_Mode.POSITIVE, **({"path_parameters": there} if there else {}))
        _ask_often(operation, ask, generation_mode=_Mode.NEGATIVE)

    assert len(operations) > 70
    assert failures == []


def _ask_often(operation: Any, ask: Any, **kind: Any) -> None:
    # An operation that takes nothing cannot be asked wrongly.
    with contextlib.suppress(Unsatisfiable):
        _FEW(asked_with(case=operation.as_strategy(**kind))(ask))()
