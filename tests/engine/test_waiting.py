"""Sleeps, pauses, observations and waits with a timeout: what a body waits for without holding a slot."""

from __future__ import annotations

import pytest

from orchestra.errors import IllegalTransition
from orchestra.store import interventions
from tests.drive import Driver
from tests.engine import flows


def test_a_long_sleep_holds_no_slot(driver: Driver) -> None:
    """The run is parked until the sleep is over; the sweeper ends it."""
    run_id = driver.submit(flows.sleeper, seconds=3600)
    driver.settle()
    assert driver.row(run_id)["phase"] == "WAITING"

    driver.elapse()
    assert driver.finish(run_id).result() == 2
    assert driver.segments == 2


def test_a_short_sleep_is_slept_in_place(driver: Driver) -> None:
    """Under a second a park would cost more."""
    assert driver.run(flows.sleeper, seconds=0.01).result() == 2
    assert driver.segments == 1


def test_a_paused_run_waits_for_a_person(driver: Driver) -> None:
    """It shows PAUSED, and goes on once it is resumed."""
    run_id = driver.submit(flows.pausing_once, seconds=60)
    driver.settle()
    assert (driver.row(run_id)["state_type"], driver.row(run_id)["state_name"]) == ("PAUSED", "Paused")

    driver.carrier.announce(interventions.resume(driver.database, run_id))
    assert driver.finish(run_id).result() == "resumed"


def test_an_async_run_that_only_pauses_shows_it(driver: Driver) -> None:
    """PAUSED where all its branches wait for a person, RUNNING while one waits for something else."""
    run_id = driver.submit(flows.pausing_branches, seconds=60)
    driver.step()
    assert (driver.row(run_id)["state_type"], driver.row(run_id)["state_name"]) == ("RUNNING", "Waiting")
    driver.settle()
    assert (driver.row(run_id)["state_type"], driver.row(run_id)["state_name"]) == ("PAUSED", "Paused")

    driver.carrier.announce(interventions.resume(driver.database, run_id))
    assert driver.finish(run_id).result() == [2, None]


def test_a_pause_that_nobody_ends_raises(driver: Driver) -> None:
    """PauseTimeout in the body, once its time is over."""
    run_id = driver.submit(flows.pausing_once, seconds=60)
    driver.settle()
    driver.elapse()

    assert driver.finish(run_id).result() == "nobody came"
    with pytest.raises(IllegalTransition):
        interventions.resume(driver.database, run_id)


def test_a_run_paused_from_outside_starts_no_segment(driver: Driver, effects: list[str]) -> None:
    """Nor a task; both go on when it is resumed."""
    run_id = driver.submit(flows.fan_out, n=2)
    driver.step()
    interventions.hold(driver.database, run_id)
    driver.settle()
    assert driver.row(run_id)["state_type"] == "PAUSED"
    assert (driver.segments, effects) == (1, [])

    driver.carrier.announce(interventions.resume(driver.database, run_id))
    assert driver.finish(run_id).result() == 3


def test_a_run_paused_before_it_started_waits(driver: Driver) -> None:
    """And starts when it is resumed."""
    run_id = driver.submit(flows.linear, n=1)
    interventions.hold(driver.database, run_id)
    driver.settle()
    assert driver.row(run_id)["start_time"] is None

    driver.carrier.announce(interventions.resume(driver.database, run_id))
    assert driver.finish(run_id).result() == 1


@pytest.mark.parametrize("name", ["observed", "guesses"])
def test_what_a_body_saw_of_the_outside_stays(driver: Driver, name: str) -> None:
    """uuid4(), random() and the like give the same in every replay: the last segment sees what the first saw."""
    run_id = driver.submit(getattr(flows, name))
    driver.step()
    first = [step for step in driver.steps(run_id) if step.kind == "observation"]

    result = driver.finish(run_id).result()
    assert driver.segments == 2
    kept = [step.result for step in driver.steps(run_id) if step.kind == "observation"]
    assert kept[0] == first[0].result
    assert str(result[0]).encode() in kept[0]


def test_states_are_seen_as_they_were(driver: Driver) -> None:
    """`.state` and `.done()` are steps."""
    assert driver.run(flows.looks).result() == ["Pending", "Completed", True]


def test_as_completed_hands_out_every_future(driver: Driver) -> None:
    """In the order in which they were seen to end."""
    assert driver.run(flows.completed, n=8).result() == list(range(1, 9))


def test_a_result_that_comes_in_time_needs_no_timer(driver: Driver) -> None:
    """The run does not wait for the rest of a timeout that is no longer needed."""
    run_id = driver.submit(flows.impatient, seconds=3600)
    assert driver.finish(run_id, messages=20).result() == 2


def test_a_result_that_is_late_raises(driver: Driver, effects: list[str]) -> None:
    """ResultTimeout, also in every replay after the value has come."""
    run_id = driver.submit(flows.impatient, seconds=60)
    driver.step()
    late = driver.carrier.messages.pop()
    driver.end_timers(run_id)
    driver.step()
    driver.carrier.messages.append(late)

    assert driver.finish(run_id, messages=100).result() == "went on"
    assert effects.count("too late") >= 2


def test_a_timeout_of_zero_looks_once(driver: Driver) -> None:
    """It neither parks nor asks for a timer."""
    run_id = driver.submit(flows.impatient, seconds=0)
    driver.step()
    assert driver.row(run_id)["phase"] == "WAITING"
    assert driver.finish(run_id, messages=20).result() == "went on"


def test_wait_tells_the_done_from_the_others(driver: Driver) -> None:
    """As they stood when the time was over; also when the rest has come by the time of a replay."""
    run_id = driver.submit(flows.waits_for_first, seconds=60)
    driver.step()
    driver.step()
    slow = next(message for message in driver.carrier.messages if message.kind == "step")
    driver.carrier.messages.remove(slow)
    driver.step()
    driver.end_timers(run_id)
    driver.elapse(10)
    driver.step()
    driver.carrier.messages.append(slow)

    assert driver.finish(run_id, messages=100).result() == [1, 1]


def test_a_fast_future_beside_a_slow_one_is_handed_over_soon(driver: Driver) -> None:
    """At the first park of a streak at once: the grace is for the later ones."""
    run_id = driver.submit(flows.fan_out, n=2)
    driver.step()
    driver.step()

    assert driver.row(run_id)["phase"] == "READY"
    assert driver.row(run_id)["due_at"] <= driver.database.now() + 0.001
