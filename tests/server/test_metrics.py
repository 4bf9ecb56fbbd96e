"""`/metrics` tells what monitoring asks, counted from the database."""

from __future__ import annotations

import re

import pytest
from starlette.testclient import TestClient

from orchestra.deployments import Deployment
from orchestra.store.database import Database
from orchestra.store.workers import WorkerRow, register
from tests.client import flows
from tests.drive import Driver


def told(web: TestClient) -> dict[str, float]:
    """The samples, by name and labels."""
    text = web.get("/metrics").text
    return {name: float(value) for name, value in re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", text, re.M)}


def test_runs_queues_schedules_and_workers(
    driver: Driver, sqlite_database: Database, web: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With how long the oldest waits."""
    driver.run(flows.doubled, number=1)
    for number in (2, 3):
        driver.submit(flows.doubled, number=number)
    Deployment.build_from_flow(flows.doubled, "nightly", interval=3600).apply()
    register(sqlite_database, WorkerRow("celery@a", "a", 1, ("default", "etl"), 4, "prefork", "0.1.0"))
    web.post("/api/work_pools", json={"name": "etl"})

    numbers = told(web)

    assert numbers['orchestra_flow_runs{state="COMPLETED"}'] == 1
    assert numbers['orchestra_flow_runs{state="SCHEDULED"}'] + numbers['orchestra_flow_runs{state="PENDING"}'] == 2
    assert numbers['orchestra_queue_due{kind="flow_run",queue="default"}'] == 2
    assert numbers['orchestra_queue_oldest_due_seconds{kind="flow_run",queue="default"}'] >= 0
    assert numbers["orchestra_schedule_lateness_seconds"] >= 0
    assert numbers["orchestra_workers"] == 1
    assert numbers['orchestra_queue_slots{queue="default"}'] == 4
    assert numbers['orchestra_work_pool_slots{pool="etl"}'] == 4
    driver.submit(flows.doubled, number=4)
    assert told(web) == numbers
    monkeypatch.setattr("orchestra.server.metrics.KEPT", -1.0)
    assert told(web)['orchestra_queue_due{kind="flow_run",queue="default"}'] == 3
