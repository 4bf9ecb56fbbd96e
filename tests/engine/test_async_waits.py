"""What goes on in an async body while a branch of it waits for steps, and what ends such a wait."""

from __future__ import annotations

from typing import Any

import pytest

from orchestra.store.tables import Phase
from tests.drive import Driver
from tests.engine import async_flows as flows


@pytest.mark.parametrize(
    ("flow", "effect"),
    [(flows.beside_a_thread, "thread"), (flows.beside_a_process, "process")],
    ids=["thread", "process"],
)
def test_a_run_parks_after_its_inline_calls(driver: Driver, effects: list[str], flow: Any, effect: str) -> None:
    """What they wait for, a thread or a process, the loop cannot see; none is thrown away and run again."""
    assert driver.run(flow, messages=1000).result() == ["done", 1]
    assert effects.count(effect) == 1


def test_an_inline_call_that_waits_for_a_step_does_not_hold_its_slot(driver: Driver, effects: list[str]) -> None:
    """Where it waits by way of a future of its flow, the run parks, and the call runs again."""
    assert driver.run(flows.waits_within, messages=1000).result() == 1
    assert effects == ["within", "remote 1", "within"]


@pytest.mark.parametrize("how", ["result", "call"])
def test_a_wait_that_is_not_awaited_is_refused_beside_inline_calls(
    driver: Driver, effects: list[str], how: str
) -> None:
    """Rather than that it stops them; and again in each replay, where the value is there."""
    assert driver.run(flows.waits_unawaited, how=how, messages=1000).result() == ["done", 2, 5]
    assert effects.count("opens") == 1


def test_a_loop_that_a_body_runs_itself_parks(driver: Driver, effects: list[str]) -> None:
    """Nobody asks this loop whether it is idle; its waits park as those of plain code do."""
    run_id = driver.submit(flows.loop_within)
    driver.settle()
    assert driver.row(run_id)["phase"] == Phase.WAITING
    driver.end_timers(run_id)
    assert driver.finish(run_id, messages=1000).result() == [2, 3]
    assert effects == ["aadd 1 1", "remote 3"]


def test_a_loop_that_a_body_runs_itself_goes_through_its_waits_in_turn(driver: Driver) -> None:
    """One branch for all its Tasks, so that one wait is over before the next."""
    assert driver.run(flows.loop_within_gathers, n=3, messages=1000).result() == [0, 1, 2]


def test_a_loop_that_a_body_runs_itself_cannot_wait_beside_its_tasks(driver: Driver, effects: list[str]) -> None:
    """That would stop them: the flow should be async."""
    state = driver.run(flows.loop_within_beside_a_task, messages=1000)
    assert state.is_failed()
    assert "make the flow async" in str(state.message)


@pytest.mark.parametrize("how", ["timeout", "wait_for"])
def test_a_replay_abandons_the_same_call(driver: Driver, effects: list[str], how: str) -> None:
    """Its body is not run again; the flow's own timer ends it again."""
    assert driver.run(flows.timeout_around_a_call, how=how, messages=1000).result() == 1
    assert effects == ["endless", "stopped", "late", "remote 1", "late"]


def test_a_branch_that_another_cancels_is_cancelled_again(driver: Driver, effects: list[str]) -> None:
    """At the same call, which takes its place in the journal."""
    assert driver.run(flows.first_wins, messages=1000).result() == [1, 1]
    assert effects.count("endless") == 1


def test_a_call_that_the_deadline_ends_is_ended_again(driver: Driver, effects: list[str]) -> None:
    """Whatever the body does after that."""
    state = driver.run(flows.over_time, messages=1000)
    assert state.name == "TimedOut"
    assert effects == ["endless", "stopped", "remote 2", 2]


@pytest.mark.parametrize("how", ["await", "wait", "sleep", "short sleep", "pass on"])
def test_a_replay_abandons_the_same_wait(driver: Driver, effects: list[str], how: str) -> None:
    """Though what it waited for is there by then; and nothing that was abandoned holds up the end."""
    assert driver.run(flows.timeout_around_a_step, how=how, messages=1000).result() == [6, "done", 2]
    assert sorted(effects) == ["aadd 5 1", "opens", "remote 1", "remote 2"]


@pytest.mark.parametrize("order", [0, -1, 1])
def test_a_cancelled_branch_need_not_get_as_far_again(driver: Driver, effects: list[str], order: int) -> None:
    """Where the journal answers at once, it is cancelled before it begins; whatever ended first."""
    driver.pick = lambda count: order
    assert driver.run(flows.fails_beside_a_wait, messages=1000).result() == 2
    assert len(effects) == len(set(effects))


def test_a_retry_does_not_abandon_what_was_abandoned_before(driver: Driver, effects: list[str]) -> None:
    """What was cancelled is history then, as what failed."""
    assert driver.run(flows.retried_after_a_timeout, messages=1000).result() == ["in time", "done"]


def test_a_short_timeout_around_a_step_holds(driver: Driver, effects: list[str]) -> None:
    """The run stays for it in a slot that nothing else wants; a replay takes the same path."""
    assert driver.run(flows.timeout_around_remote, seconds=0.1, messages=1000).result() == 2
    assert effects == ["remote 1", "remote 2"]


def test_a_long_timeout_around_a_step_begins_anew(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    """The run parks, and says so."""
    assert driver.run(flows.timeout_around_remote, seconds=3600, messages=1000).result() == 1
    assert "begins anew" in caplog.text


def test_a_timeout_does_not_keep_a_step_from_the_only_slot(driver: Driver) -> None:
    """The run parks for it."""
    assert driver.run(flows.timeout_around_own, messages=1000).result() == 2
    assert driver.segments == 2


def test_a_run_is_held_where_nobody_cancels_again(driver: Driver, effects: list[str]) -> None:
    """Its code is not what it was; it does not wait in its slot for ever."""
    run_id = driver.submit(flows.timeout_that_changes)
    driver.settle()
    assert driver.row(run_id)["state_name"] == "NonDeterministic"
