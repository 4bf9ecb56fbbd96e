"""Deployments on real workers: a worker of the pool's queue loads the flow by its entrypoint."""

from __future__ import annotations

from typing import Any

import pytest

from orchestra import clock
from orchestra.deployments import Deployment, run_deployment
from orchestra.errors import IdempotencyConflict, ParameterTypeError
from orchestra.handles import FlowRunHandle
from orchestra.store import queries, work_pools
from orchestra.store.database import Database
from tests.conftest import WorkerFactory
from tests.helpers import wait_until
from tests.integration import deployed_flows
from tests.servers import Broker

pytestmark = pytest.mark.services


@pytest.fixture
def pool(database: Database, broker: Broker) -> str:
    """A work pool with the deployment `doubled/nightly`."""
    work_pools.create(database, "etl", "process")
    Deployment.build_from_flow(deployed_flows.doubled, "nightly", work_pool_name="etl", parameters={"times": 2}).apply()
    return "etl"


def start(**parameters: Any) -> FlowRunHandle:
    """A run that is not waited for."""
    return run_deployment("doubled/nightly", parameters, timeout=0)


def test_a_worker_of_the_pool_runs_deployments(pool: str, worker_factory: WorkerFactory, database: Database) -> None:
    """It was told of no flow: the entrypoint is enough, for the tasks too, and defaults are filled in."""
    worker_factory(queues=pool)

    run = start(number=4)

    assert run.result(timeout=40) == 12
    record = queries.read_flow_run(database, run.id).run
    assert (record.flow_name, record.work_queue_name, record.parameters) == (
        "doubled",
        "etl",
        {"number": 4, "times": 2},
    )
    assert [each.id for each in queries.list_flow_runs(database, deployment_id=record.deployment_id).items] == [run.id]


def test_a_flow_body_runs_a_deployment_as_a_step(pool: str, worker_factory: WorkerFactory, database: Database) -> None:
    """A child run, once, however often the body is replayed; and one slot is enough for both."""
    Deployment.build_from_flow(deployed_flows.above, "all", work_pool_name=pool).apply()
    worker_factory(queues=pool, concurrency=1)

    run = run_deployment("above/all", {"number": 4}, timeout=0)

    assert run.result(timeout=60) == 12
    children = queries.list_flow_runs(database, parent_flow_run_id=run.id).items
    assert [(each.flow_name, each.state_name) for each in children] == [("doubled", "Completed")]


def test_a_paused_pool_starts_nothing_until_it_is_resumed(
    pool: str, worker_factory: WorkerFactory, database: Database
) -> None:
    """The run says why it waits, and has not started."""
    work_pools.update(database, pool, paused=True)
    worker_factory(queues=pool)
    run = start(number=1)

    def told() -> bool:
        return "is paused" in (queries.read_flow_run(database, run.id).run.state.message or "")

    wait_until(told, "the run to say why it waits", 30)
    waiting = queries.read_flow_run(database, run.id).run
    assert (waiting.state_type, waiting.start_time) == ("SCHEDULED", None)
    work_pools.update(database, pool, paused=False)
    assert run.result(timeout=40) == 6


def test_wrong_parameters_make_no_run(pool: str, database: Database) -> None:
    """Where the run is started, without the flow's code."""
    for wrong in ({"number": "four"}, {}, {"number": 1, "no_such": 2}):
        with pytest.raises(ParameterTypeError, match="deployment 'doubled/nightly' do not fit"):
            start(**wrong)

    assert queries.list_flow_runs(database).items == ()


def test_an_idempotency_key_gives_the_same_run(pool: str) -> None:
    """With other parameters it is an error."""
    first = run_deployment("doubled/nightly", {"number": 1}, timeout=0, idempotency_key="a")
    again = run_deployment("doubled/nightly", {"number": 1}, timeout=0, idempotency_key="a")

    assert first.id == again.id
    with pytest.raises(IdempotencyConflict):
        run_deployment("doubled/nightly", {"number": 2}, timeout=0, idempotency_key="a")


def test_a_run_can_start_later_in_another_queue(pool: str, database: Database) -> None:
    """With tags and a name of its own."""
    when = clock.to_datetime(database.now() + 3600)

    run = run_deployment(
        "doubled/nightly",
        {"number": 1},
        timeout=0,
        scheduled_time=when,
        work_queue_name="urgent",
        tags=["b"],
        flow_run_name="by hand",
    )

    record = queries.read_flow_run(database, run.id).run
    assert (record.state_type, record.expected_start_time) == ("SCHEDULED", when)
    assert (record.work_queue_name, record.tags, record.name) == ("etl.urgent", ("b",), "by hand")
