"""Timeouts of flows and tasks on workers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.drive import Driver
from tests.engine import flows


def test_a_parked_flow_is_timed_out(driver: Driver) -> None:
    """Parked time counts; the call that waits raises."""
    run_id = driver.submit(flows.late)
    driver.step()
    driver.elapse(10)
    message = driver.carrier.messages.pop()
    driver.settle()
    driver.carrier.messages.append(message)

    state = driver.finish(run_id, messages=100)
    assert (state.type, state.name) == ("FAILED", "TimedOut")


@pytest.mark.parametrize("name", ["late_but_calm", "late_at_a_call"])
def test_a_body_that_catches_its_timeout_goes_on(driver: Driver, effects: list[str], name: str) -> None:
    """The timeout is journaled: replay raises it at the same place, also when the value is there by then."""
    run_id = driver.submit(getattr(flows, name))
    driver.step()
    late = list(driver.carrier.messages)
    driver.carrier.messages.clear()
    driver.elapse(4000)
    driver.settle()
    driver.carrier.messages += late

    state = driver.finish(run_id, messages=100)
    assert state.result() == "cleaned up", state
    assert effects.count("timed out") >= 2


def test_a_run_that_is_timed_out_already_costs_nothing_while_it_waits(driver: Driver) -> None:
    """Its deadline does not wake it again and again."""
    run_id = driver.submit(flows.late_but_calm)
    driver.step()
    driver.carrier.messages.clear()
    driver.elapse(10)
    driver.sweep()
    driver.step()
    driver.carrier.messages.clear()
    assert driver.row(run_id)["phase"] == "WAITING"

    driver.sweep()
    driver.sweep()
    assert driver.row(run_id)["phase"] == "WAITING"


def test_a_blocked_flow_body_is_interrupted(driver: Driver) -> None:
    """In the main thread also inside a blocking call."""
    assert driver.run(flows.blocked).name == "TimedOut"
    assert driver.run(flows.blocked_async).name == "TimedOut"


def test_an_async_flow_with_a_timeout_holds_no_slot_while_it_waits(driver: Driver) -> None:
    """Its deadline is kept by the sweeper."""
    run_id = driver.submit(flows.patient)
    driver.step()
    assert driver.row(run_id)["phase"] == "WAITING"
    assert driver.finish(run_id).result() == 2


@pytest.mark.parametrize("submitted", [False, True])
def test_a_task_is_timed_out(driver: Driver, submitted: bool) -> None:
    """Inline and on its own."""
    assert driver.run(flows.with_slow_task, submitted=submitted).result() == "TimedOut"


@pytest.mark.parametrize("kind", ["child", "task"])
def test_a_flow_is_timed_out_while_a_call_of_its_blocks(driver: Driver, effects: list[str], kind: str) -> None:
    """The call inside is interrupted; a child goes on alone, and is waited for."""
    run_id = driver.submit(flows.times_out_around, kind=kind)
    assert driver.finish(run_id, messages=100).name == "TimedOut"


def test_a_body_in_a_thread_that_took_too_long_is_timed_out_at_its_end(driver: Driver) -> None:
    """Nothing could stop it."""
    with ThreadPoolExecutor() as threads:
        state = threads.submit(driver.run, flows.busy_for_too_long).result()

    assert (state.type, state.name) == ("FAILED", "TimedOut")
