"""Cancel: whatever the run is doing, nothing new is started, and it ends Cancelled."""

from __future__ import annotations

import pytest

from orchestra.errors import CancelledRun, IllegalTransition
from orchestra.states import StateType
from orchestra.store import interventions
from tests.drive import Driver
from tests.engine import flows


def cancel(driver: Driver, run_id: str) -> None:
    """Cancel a run, and send what that makes due."""
    driver.carrier.announce(interventions.cancel(driver.database, run_id))


def test_a_run_that_has_not_started_is_cancelled_at_once(driver: Driver, effects: list[str]) -> None:
    """Its message is dropped."""
    run_id = driver.submit(flows.linear, n=1)
    cancel(driver, run_id)

    assert driver.row(run_id)["state_type"] == "CANCELLED"
    driver.settle()
    assert driver.final(run_id).is_cancelled()
    assert effects == []


def test_a_parked_run_starts_nothing_more(driver: Driver, effects: list[str]) -> None:
    """Tasks that nobody works on are CANCELLED with it; a last segment ends the run."""
    run_id = driver.submit(flows.fan_out, n=4)
    driver.step()
    driver.step()
    cancel(driver, run_id)
    assert driver.row(run_id)["state_type"] == "CANCELLING"

    state = driver.finish(run_id)
    assert state.type is StateType.CANCELLED
    assert effects == ["add 0 1"]
    assert [step.state_name for step in driver.steps(run_id)] == ["Completed"] + ["Cancelled"] * 3
    with pytest.raises(CancelledRun):
        state.result()


@pytest.mark.parametrize(("name", "parameters"), [("sleeper", {"seconds": 3600}), ("pausing_once", {"seconds": 3600})])
def test_a_run_that_sleeps_or_is_paused_is_cancelled(driver: Driver, name: str, parameters: dict[str, float]) -> None:
    """Without waiting for the timer."""
    run_id = driver.submit(getattr(flows, name), **parameters)
    driver.step()
    cancel(driver, run_id)

    assert driver.finish(run_id, messages=20).is_cancelled()


def test_a_run_paused_from_outside_is_cancelled(driver: Driver) -> None:
    """What holds it is lifted."""
    run_id = driver.submit(flows.fan_out, n=2)
    driver.step()
    interventions.hold(driver.database, run_id)
    cancel(driver, run_id)

    assert driver.finish(run_id, messages=20).is_cancelled()


def test_a_run_that_awaits_its_retry_is_cancelled(driver: Driver, effects: list[str]) -> None:
    """Its next attempt does not start."""
    run_id = driver.submit(flows.flow_retried_later)
    driver.step()
    cancel(driver, run_id)

    assert driver.finish(run_id, messages=20).is_cancelled()
    assert effects.count("body") == 1


def test_children_are_cancelled_with_their_parent(driver: Driver, effects: list[str]) -> None:
    """Parked ones, too; each gets a last segment of its own."""
    run_id = driver.submit(flows.counted, n=2)
    driver.step()
    cancel(driver, run_id)

    assert driver.finish(run_id, messages=30).is_cancelled()
    child = driver.steps(run_id)[0].child_run_id
    assert child is not None
    assert driver.finish(child, messages=30).is_cancelled()
    assert effects == []


def test_a_body_that_is_cancelled_while_it_runs_stops_at_its_next_call(driver: Driver, effects: list[str]) -> None:
    """What it dispatched meanwhile is not run either."""
    run_id = driver.submit(flows.cancels_itself)
    driver.step()

    assert driver.finish(run_id, messages=30).is_cancelled()
    assert effects == ["cancel"]


def test_a_cancelled_run_may_be_retried(driver: Driver, effects: list[str]) -> None:
    """It goes on where it was."""
    run_id = driver.submit(flows.fan_out, n=3)
    driver.step()
    driver.step()
    cancel(driver, run_id)
    assert driver.finish(run_id).is_cancelled()

    driver.carrier.announce(interventions.retry(driver.database, run_id))
    assert driver.finish(run_id).result() == 6
    assert sorted(effects) == ["add 0 1", "add 1 1", "add 2 1"]


def test_an_ended_run_cannot_be_cancelled(driver: Driver) -> None:
    """Its state stays; cancelling a cancelled one again changes nothing."""
    done = driver.submit(flows.linear, n=1)
    driver.finish(done)
    with pytest.raises(IllegalTransition):
        interventions.cancel(driver.database, done)

    run_id = driver.submit(flows.linear, n=1)
    cancel(driver, run_id)
    cancel(driver, run_id)
    assert driver.final(run_id).is_cancelled()


def test_a_cancel_that_was_acknowledged_stands(driver: Driver) -> None:
    """Also where the body was about to end well, and had not heard of it."""
    assert driver.run(flows.is_cancelled_at_its_end, messages=50).type is StateType.CANCELLED
