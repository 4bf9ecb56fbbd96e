"""A client makes, reads, changes and deletes deployments and work pools, and starts runs of them."""

from __future__ import annotations

import asyncio

import pytest

from orchestra import get_client
from orchestra.client.orchestration import SyncOrchestraClient
from orchestra.client.schemas.actions import DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate
from orchestra.client.schemas.filters import FlowRunFilter
from orchestra.deployments import Deployment, arun_deployment
from orchestra.errors import DeploymentNotFound, ParameterTypeError, ScheduleNotFound, WorkPoolNotFound
from orchestra.schedules import Cron, Interval
from orchestra.store import workers
from orchestra.store.database import database
from orchestra.store.workers import WorkerRow
from tests.client import flows
from tests.client.test_acting import silent_broker
from tests.drive import Driver

__all__ = ["silent_broker"]


@pytest.fixture
def client(driver: Driver) -> SyncOrchestraClient:
    """A client, with the deployment `doubled/nightly`."""
    Deployment.build_from_flow(flows.doubled, "nightly", parameters={"number": 1}, cron="0 9 * * *").apply()
    return get_client(sync_client=True)


def test_a_deployment_is_read_changed_and_deleted(client: SyncOrchestraClient) -> None:
    """By its id, or its name."""
    found = client.read_deployment_by_name("doubled/nightly")
    assert [each.id for each in client.read_deployments(flow_names=["doubled"])] == [found.id]
    assert (found.parameters, found.schedules[0].cron, found.status) == ({"number": 1}, "0 9 * * *", "NOT_READY")

    client.update_deployment(found.id, DeploymentUpdate(tags=["b", "a"], parameters={"number": 4}))
    changed = client.read_deployment(found.id)
    assert (changed.tags, changed.parameters, changed.schedules) == (["a", "b"], {"number": 4}, found.schedules)
    with pytest.raises(ParameterTypeError):
        client.update_deployment(found.id, DeploymentUpdate(parameters={"number": "four"}))

    client.pause_deployment(found.id)
    assert client.read_deployment(found.id).paused
    client.resume_deployment(found.id)
    client.delete_deployment(found.id)
    with pytest.raises(DeploymentNotFound):
        client.read_deployment(found.id)


def test_schedules_are_made_switched_and_deleted(client: SyncOrchestraClient) -> None:
    """Beside those that are there."""
    name = "doubled/nightly"
    made = client.create_deployment_schedules(name, [Interval(60, slug="often"), (Cron("0 0 * * *"), False)])
    assert [(each.interval, each.cron, each.active) for each in made] == [(60, None, True), (None, "0 0 * * *", False)]

    client.update_deployment_schedule(name, "often", False)
    client.delete_deployment_schedule(name, made[1].id)
    assert [(each.slug, each.active) for each in client.read_deployment_schedules(name)] == [
        (None, True),
        ("often", False),
    ]
    with pytest.raises(ScheduleNotFound):
        client.delete_deployment_schedule(name, "gone")


def test_a_deployment_is_made_of_a_flow_that_is_known(client: SyncOrchestraClient, silent_broker: None) -> None:
    """Without its code."""
    client.create_flow_run(flows.doubled, parameters={"number": 5})
    flow = client.read_flow_by_name("doubled")
    made = client.create_deployment(
        flow.id, "by-hand", entrypoint="tests/client/flows.py:doubled", schedules=[{"cron": "0 1 * * *"}], tags=["x"]
    )

    assert client.read_deployment(made).schedules[0].cron == "0 1 * * *"


def test_a_run_of_a_deployment_is_started(client: SyncOrchestraClient, driver: Driver, silent_broker: None) -> None:
    """By a coroutine too, with its parameters checked."""
    run = client.create_flow_run_from_deployment("doubled/nightly", parameters={"number": 3}, tags=["odd"])
    other = asyncio.run(arun_deployment("doubled/nightly", timeout=0))
    with pytest.raises(ParameterTypeError):
        client.create_flow_run_from_deployment("doubled/nightly", parameters={"number": "three"})

    of_it = FlowRunFilter.model_validate({"deployment_id": {"any_": [run.deployment_id]}})
    assert {each.id for each in client.read_flow_runs(flow_run_filter=of_it)} == {run.id, other.id}
    driver.elapse()
    driver.sweep()
    assert (run.tags, driver.finish(run.id).result(), driver.finish(other.id).result()) == (["odd"], 6, 2)


def test_work_pools_queues_and_workers_are_read_and_changed(driver: Driver) -> None:
    """Sync and async clients do the same."""
    workers.register(database(), WorkerRow("w@host", "host", 1, ("etl", "other"), 2, "prefork", "1"))

    async def use() -> list[object]:
        async with get_client() as client:
            await client.create_work_pool(WorkPoolCreate(name="etl", concurrency_limit=3))
            await client.update_work_pool("etl", WorkPoolUpdate(is_paused=True))
            pool = await client.read_work_pool("etl")
            queues = await client.read_work_queues("etl")
            live = await client.read_workers_for_work_pool("etl")
            names = [each.name for each in await client.read_work_pools()]
            await client.delete_work_pool("etl")
            return [pool.is_paused, pool.concurrency_limit, queues[0].celery_queue, live[0].name, names]

    assert asyncio.run(use()) == [True, 3, "etl", "w@host", ["etl"]]
    with pytest.raises(WorkPoolNotFound):
        get_client(sync_client=True).read_work_pool("etl")
