"""Runs of deployments whose work pool cannot carry them out here and now."""

from __future__ import annotations

from typing import Any

import pytest

from orchestra import work_pools as types
from orchestra.deployments import Deployment
from orchestra.engine import deployed
from orchestra.store import deployments, queries, runs, slot_records, work_pools
from tests.drive import Driver
from tests.engine import version_flows
from tests.integration import subprocess_flows


def start(driver: Driver, kind: str, **job_variables: Any) -> str:
    """A run of a deployment to a pool of this type, carried as far as it goes at first; its id."""
    database = driver.database
    template = types.type_named(kind).base_job_template()
    work_pools.create(database, "pool", kind, base_job_template=template)
    image = {"image": "etl:1"} if types.type_named(kind).has_image else {}
    Deployment.build_from_flow(
        subprocess_flows.whereabouts, "d", work_pool_name="pool", job_variables=image | job_variables
    ).apply()
    found = deployments.read(database, "whereabouts/d")
    new = deployed.new_run(database, found, {})
    driver.carrier.announce(runs.create(database, new).announcements)
    driver.step()
    return new.id


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_run_that_wants_a_container_waits_and_says_so(driver: Driver, kind: str) -> None:
    """It does not go on in a worker's process instead, and has not started."""
    run = queries.read_flow_run(driver.database, start(driver, kind)).run

    assert f"waiting for a worker that starts its {kind} container" in (run.state.message or "")
    assert (run.state_type, run.start_time) == ("SCHEDULED", None)


def test_a_run_that_waits_for_what_is_not_here_takes_no_slot(driver: Driver) -> None:
    """Neither its container nor its version: another run has the slot of its limit meanwhile."""
    run_id = start(driver, "docker")
    work_pools.update(driver.database, "pool", concurrency_limit=1)
    driver.elapse(6)
    driver.sweep()
    driver.step()

    assert "container" in driver.row(run_id)["state_message"]
    assert slot_records.holders(driver.database, "pool", ["default"]) == []


def test_a_run_whose_version_is_not_here_takes_no_slot(driver: Driver) -> None:
    """Another run has the slot of its limit meanwhile."""
    Deployment.build_from_flow(version_flows.pinned, "d", concurrency_limit=1).apply()
    found = deployments.read(driver.database, "pinned/d")
    first, second = (deployed.new_run(driver.database, found, {}) for _ in range(2))
    second.version = None
    for new in (first, second):
        new.queue = "default"
        driver.carrier.announce(runs.create(driver.database, new).announcements)
    with version_flows.deployed(version_flows.pinned, "2"):
        driver.step()

        assert "version '1'" in driver.row(first.id)["state_message"]
        assert driver.finish(second.id).is_completed()


@pytest.mark.parametrize(
    ("job_variables", "told"),
    [
        ({"command": "no-such-program -m orchestra.workers.execute"}, "there is no program for the command"),
        ({"command": "python 'x"}, "cannot be read"),
        ({"working_dir": "/no/such/folder"}, "there is no working_dir '/no/such/folder'"),
    ],
)
def test_a_process_that_cannot_be_started_crashes_its_run(
    driver: Driver, job_variables: dict[str, Any], told: str
) -> None:
    """It says what is not there on the worker."""
    run = queries.read_flow_run(driver.database, start(driver, "process", **job_variables)).run

    assert run.state_name == "Crashed"
    assert told in (run.state.message or "")
