"""Runs of a flow with `version=` wait for a worker that has it; others take any code that replay agrees to."""

from __future__ import annotations

import pytest

from orchestra.store import interventions
from orchestra.store.tables import Phase
from tests.drive import Driver
from tests.engine import version_flows as flows


@pytest.fixture(autouse=True)
def effects() -> list[str]:
    """What the bodies did."""
    flows.effects.clear()
    return flows.effects


@pytest.mark.parametrize("found", ["2", None])
def test_a_worker_of_another_version_leaves_a_run_alone(driver: Driver, effects: list[str], found: str | None) -> None:
    """It says who is missing, and the run goes on where the version is."""
    run_id = driver.submit(flows.pinned)
    with flows.deployed(flows.pinned, found):
        driver.step()
    row = driver.row(run_id)

    assert "no worker of version '1' listens on queue 'default'" in row["state_message"]
    assert (row["phase"], row["state_type"], effects) == (Phase.READY, "SCHEDULED", [])
    # Its deadline counts from when it begins.
    assert (row["start_time"], row["deadline_at"]) == (None, None)
    driver.elapse(6)
    assert driver.finish(run_id).result() == ["left", "right"]


def test_a_step_waits_for_the_version_of_its_run(driver: Driver, effects: list[str]) -> None:
    """Its code is the flow's: one that was begun under a version is not mixed with another's."""
    run_id = driver.submit(flows.pinned)
    driver.step()
    with flows.deployed(flows.pinned, "2"):
        while driver.step():
            pass
    assert effects == ["begin"]
    assert all("no worker of version '1'" in row.state_message for row in driver.steps(run_id) if not row.done)

    driver.elapse(6)
    assert driver.finish(run_id).result() == ["left", "right"]
    assert sorted(effects) == ["begin", "left", "right"]


def test_where_somebody_has_the_version_it_is_sent_there_at_once(driver: Driver, effects: list[str]) -> None:
    """On the queue of that version; nothing is waited for."""
    run_id = driver.submit(flows.pinned)
    driver.carrier.versions.add("default@1")
    with flows.deployed(flows.pinned, "2"):
        driver.step()
    (message,) = driver.carrier.messages

    assert (message.queue, message.version, message.delay) == ("default", "1", 0.0)
    assert driver.row(run_id)["state_message"] == "waiting for a worker of version '1' on queue 'default'"
    assert driver.finish(run_id).result() == ["left", "right"]


def test_a_run_without_a_version_goes_on_under_code_that_has_one(driver: Driver, effects: list[str]) -> None:
    """It is pinned to none: replay decides."""
    run_id = driver.submit(flows.free)
    driver.step()
    with flows.deployed(flows.free, "2"):
        assert driver.finish(run_id).result() == "work"
    assert effects == ["begin", "work"]


def test_a_run_that_waits_for_its_version_may_be_cancelled(driver: Driver, effects: list[str]) -> None:
    """By any worker."""
    run_id = driver.submit(flows.pinned)
    with flows.deployed(flows.pinned, "2"):
        driver.step()
        driver.carrier.announce(interventions.cancel(driver.database, run_id))
        assert driver.finish(run_id).is_cancelled()
    assert effects == []
