"""Replay: code that asks for other steps than its journal holds is parked, not run."""

from __future__ import annotations

import logging

import pytest

from orchestra.errors import UpstreamFailed
from orchestra.store import interventions
from tests.drive import Driver
from tests.engine import flows

#: Flows whose code is other code once the switch is on, with what the journal holds and what the body asks then.
CHANGED = [
    pytest.param("changes", "main/add-1", "main/total-0", id="a new branch of an if"),
    pytest.param("renames", "main/add-0", "main/renamed-0", id="a renamed task"),
    pytest.param("drops", "main/add-1", None, id="a step that was the last"),
]


def parked_by_changed_code(driver: Driver, switch: dict[str, bool], name: str) -> str:
    """Start a run, let its code change while it waits, and carry it on; gives the run's id."""
    run_id = driver.submit(getattr(flows, name))
    driver.step()
    switch["on"] = True
    driver.settle()
    return run_id


@pytest.mark.parametrize(("name", "recorded", "asked"), CHANGED)
def test_changed_code_is_parked(
    driver: Driver, effects: list[str], switch: dict[str, bool], name: str, recorded: str, asked: str | None
) -> None:
    """As NonDeterministic, type PAUSED, both sides shown; nothing is run."""
    run_id = parked_by_changed_code(driver, switch, name)

    row = driver.row(run_id)
    assert (row["phase"], row["state_type"], row["state_name"]) == ("READY", "PAUSED", "NonDeterministic")
    assert recorded in row["state_message"]
    assert (asked or "has ended") in row["state_message"]
    assert effects == ["add 1 1", "add 2 1"]


@pytest.mark.parametrize(("name", "recorded", "asked"), CHANGED)
def test_mended_code_goes_on(
    driver: Driver, effects: list[str], switch: dict[str, bool], name: str, recorded: str, asked: str | None
) -> None:
    """`flow-run retry` replays it; no finished step is run again, and the run attempt stays."""
    run_id = parked_by_changed_code(driver, switch, name)
    switch["on"] = False
    driver.carrier.announce(interventions.retry(driver.database, run_id))

    assert driver.finish(run_id).is_completed()
    assert effects == ["add 1 1", "add 2 1"]
    assert driver.row(run_id)["run_attempt"] == 1


def test_a_parked_mismatch_may_be_cancelled(driver: Driver, switch: dict[str, bool]) -> None:
    """That ends it."""
    run_id = parked_by_changed_code(driver, switch, "changes")
    driver.carrier.announce(interventions.cancel(driver.database, run_id))

    assert driver.finish(run_id, messages=20).is_cancelled()


def test_a_body_that_swallows_the_mismatch_does_not_go_on(
    driver: Driver, effects: list[str], switch: dict[str, bool]
) -> None:
    """Every further call raises it again."""
    run_id = parked_by_changed_code(driver, switch, "swallows_mismatch")

    assert driver.row(run_id)["state_name"] == "NonDeterministic"
    assert "went on" not in effects


def test_other_inputs_only_warn(
    driver: Driver, effects: list[str], switch: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    """The recorded result is kept."""
    run_id = driver.submit(flows.other_inputs)
    driver.step()
    switch["on"] = True

    with caplog.at_level(logging.WARNING):
        assert driver.finish(run_id).result() == "end"
    assert "replayed with other inputs" in caplog.text
    assert effects == ["add 1 1", "add 2 1"]


def test_code_that_changed_behind_its_journal_is_no_mismatch(
    driver: Driver, effects: list[str], switch: dict[str, bool]
) -> None:
    """A run goes on under changed code if replay agrees."""
    run_id = driver.submit(flows.changes_later)
    driver.step()
    switch["on"] = True

    assert driver.finish(run_id).result() == "new code"


def test_results_that_are_not_kept_are_made_again(driver: Driver, effects: list[str]) -> None:
    """A direct call to a task with persist_result=False is run in each replay."""
    assert driver.run(flows.unkept_results).result() == 1
    assert driver.segments == 2
    assert effects.count("unkept 1") == 2


def test_each_call_that_is_not_journaled_has_a_key_of_its_own(driver: Driver) -> None:
    """The same in every replay: who is called with it can tell the calls apart."""
    keys = driver.run(flows.unkept_keys).result()

    assert len(set(keys)) == 3
    assert keys[0].startswith("main/unkept_key")


def test_a_call_that_is_not_journaled_waits_for_what_must_succeed(driver: Driver, effects: list[str]) -> None:
    """As any other: it is not run after a failure."""
    assert driver.run(flows.unkept_after_a_failure, as_state=True).result() == "UpstreamFailed"
    with pytest.raises(UpstreamFailed):
        driver.run(flows.unkept_after_a_failure, as_state=False).result()
    assert effects == ["fail", "fail"]


def test_a_run_was_to_start_at_one_time_in_all_its_segments(driver: Driver) -> None:
    """Though what it waited for was due later."""
    starts = driver.run(flows.scheduled_starts).result()

    assert driver.segments > 1
    assert len(set(starts)) == 1


def test_what_a_task_changes_in_place_is_its_own(driver: Driver) -> None:
    """The flow's body sees the same in its first run and in a replay, which does not run the task."""
    assert driver.run(flows.changes_arguments).result() == [3, 3, 2] * 2
