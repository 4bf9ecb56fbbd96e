"""Retries of tasks and flows on workers, and `flow-run retry`."""

from __future__ import annotations

import pytest

from orchestra.errors import IllegalTransition
from orchestra.store import interventions
from tests.drive import Driver
from tests.engine import flows


@pytest.mark.parametrize("name", ["retried", "retried_submitted"])
def test_short_delays_are_slept_in_place(driver: Driver, effects: list[str], name: str) -> None:
    """The step's own attempt is counted up; its claim stays the same."""
    run_id = driver.submit(getattr(flows, name))

    assert driver.finish(run_id).result() == 3
    assert [step.attempt for step in driver.steps(run_id)] == [3]


@pytest.mark.parametrize("submitted", [False, True])
def test_long_delays_free_the_slot(driver: Driver, effects: list[str], submitted: bool) -> None:
    """Between two tries the step is AwaitingRetry, READY when its delay is over."""
    run_id = driver.submit(flows.retried_later, submitted=submitted)
    for attempt in (2, 3):
        driver.settle()
        step = driver.steps(run_id)[0]
        assert (step.phase, step.state_type, step.state_name) == ("READY", "SCHEDULED", "AwaitingRetry")
        assert step.attempt == attempt
        driver.elapse(3601)

    assert driver.finish(run_id).result() == 3


def test_a_task_that_goes_on_failing_fails_its_run(driver: Driver, effects: list[str]) -> None:
    """With the exception of its last try, after as many as were allowed."""
    state = driver.run(flows.hopeless_flow)

    assert state.message == "RuntimeError: never"
    assert effects == ["hopeless", "hopeless"]


def test_a_flow_retry_runs_no_finished_task_again(driver: Driver, effects: list[str]) -> None:
    """The whole body is run again, as a new run attempt."""
    run_id = driver.submit(flows.flow_retried)

    assert driver.finish(run_id).result() == 2
    assert effects == ["add 1 1", "body", "body"]
    assert driver.row(run_id)["run_attempt"] == 2


def test_a_flow_retry_waits_for_its_delay(driver: Driver, effects: list[str]) -> None:
    """Without a slot."""
    run_id = driver.submit(flows.flow_retried_later)
    driver.settle()
    assert driver.row(run_id)["state_name"] == "AwaitingRetry"
    assert [message.delay for message in driver.carrier.messages] == [3600]

    driver.elapse(3601)
    assert driver.finish(run_id).result() == "second"
    assert effects == ["add 1 1", "body", "body"]


def test_a_retry_by_hand_runs_what_failed_and_what_depends_on_it(
    driver: Driver, effects: list[str], switch: dict[str, bool]
) -> None:
    """What had ended well is kept; the failed row stays as history."""
    switch["on"] = True
    run_id = driver.submit(flows.recoverable)
    assert driver.finish(run_id).is_failed()

    switch["on"] = False
    driver.carrier.announce(interventions.retry(driver.database, run_id))
    assert driver.finish(run_id).result() == [2, "x", "str: x"]
    assert effects == ["add 1 1", "breaks x", "breaks x"]
    assert [step.state_name for step in driver.steps(run_id, 1)] == ["Failed", "UpstreamFailed"]


def test_a_retry_of_a_run_that_ended_well_runs_no_task(driver: Driver, effects: list[str]) -> None:
    """Its body is replayed."""
    run_id = driver.submit(flows.fan_out, n=3)
    first = driver.finish(run_id).result()

    driver.carrier.announce(interventions.retry(driver.database, run_id))
    assert driver.finish(run_id).result() == first
    assert len(effects) == 3


def test_a_retry_sees_its_own_failures_and_not_those_of_before(
    driver: Driver, effects: list[str], switch: dict[str, bool]
) -> None:
    """What the first attempt saw of a failed future does not hold for the second."""
    switch["on"] = True
    run_id = driver.submit(flows.looks_at_failure)
    assert driver.finish(run_id).message == "RuntimeError: seen to fail"

    switch["on"] = False
    driver.carrier.announce(interventions.retry(driver.database, run_id))
    assert driver.finish(run_id).result() == ["Completed", True, "x"]


def test_retries_may_be_repeated(driver: Driver, effects: list[str], switch: dict[str, bool]) -> None:
    """Each opens a run attempt, and keeps what all before it have finished."""
    switch["on"] = True
    run_id = driver.submit(flows.recoverable)
    for _ in range(3):
        assert driver.finish(run_id).is_failed()
        driver.carrier.announce(interventions.retry(driver.database, run_id))
    switch["on"] = False

    assert driver.finish(run_id).result() == [2, "x", "str: x"]
    assert driver.row(run_id)["run_attempt"] == 4
    assert effects.count("add 1 1") == 1
    assert effects.count("breaks x") == 4


def test_children_that_ended_well_are_not_run_again(
    driver: Driver, effects: list[str], switch: dict[str, bool]
) -> None:
    """Those that failed are run anew, as other runs."""
    switch["on"] = True
    run_id = driver.submit(flows.family)
    assert driver.finish(run_id).is_failed()
    switch["on"] = False
    driver.carrier.announce(interventions.retry(driver.database, run_id))

    assert driver.finish(run_id).result() == [1, "y"]
    assert effects.count("add 0 1") == 1


def test_a_run_that_has_not_ended_cannot_be_retried(driver: Driver) -> None:
    """Nothing is changed."""
    run_id = driver.submit(flows.linear, n=1)

    with pytest.raises(IllegalTransition, match="before it has ended"):
        interventions.retry(driver.database, run_id)
    assert driver.finish(run_id).result() == 1


def test_a_local_task_is_retried_where_it_is(driver: Driver, effects: list[str]) -> None:
    """A task that no other process could import sleeps its delay in place, however long."""
    assert driver.run(flows.local_retry).result() == "done"
    assert driver.segments == 1
