"""`patched("name")`: runs of the old code go on by it, new runs go by the new one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestra.errors import DefinitionError
from tests.drive import Driver
from tests.engine import patch_flows as flows


@pytest.fixture(autouse=True)
def effects() -> Iterator[list[str]]:
    """What the bodies did; the old code is there."""
    flows.effects.clear()
    flows.code["is"] = "old"
    flows.failures["left"] = 0
    yield flows.effects
    flows.code["is"] = "old"


def carried_on_by(driver: Driver, code: str, run_id: str) -> None:
    """Let there be other code now, and carry the run to its end by that."""
    flows.code["is"] = code
    assert driver.finish(run_id).is_completed()


@pytest.mark.parametrize("flow", [flows.opens_and_closes, flows.renames], ids=lambda flow: flow.name)
def test_a_run_of_the_old_code_goes_on_by_the_old_code(driver: Driver, effects: list[str], flow: object) -> None:
    """It passed the point before there was a patch; no step of it is run again, and later calls say the same."""
    run_id = driver.submit(flow)
    driver.step()
    carried_on_by(driver, "patched", run_id)

    assert [each for each in effects if "new" in each] == []
    assert len(effects) == len(set(effects))


def test_a_new_run_goes_by_the_new_code(driver: Driver, effects: list[str]) -> None:
    """And says so again in each replay."""
    run_id = driver.submit(flows.opens_and_closes)
    carried_on_by(driver, "patched", run_id)

    assert effects == ["begin", "open new", "work", "close new"]
    assert driver.segments > 1


def test_a_run_that_has_not_come_there_goes_by_the_new_code(driver: Driver, effects: list[str]) -> None:
    """What counts is the point in the body, not when the run began."""
    run_id = driver.submit(flows.branches)
    driver.step()
    carried_on_by(driver, "patched", run_id)

    assert sorted(effects)[:2] == ["new 1", "new 2"]


def test_branches_go_by_what_was_said_before_they_began(driver: Driver, effects: list[str]) -> None:
    """Once the body was told, its asyncio Tasks are told the same."""
    flows.code["is"] = "patched"
    run_id = driver.submit(flows.branches)
    carried_on_by(driver, "patched", run_id)

    assert [step.key for step in driver.steps(run_id) if step.kind == "patch"] == ["main/patched new-code"]


def test_a_patch_may_be_dropped_from_the_code(driver: Driver, effects: list[str]) -> None:
    """A run that was told True goes on under code that has no patch any more, and only the new way."""
    flows.code["is"] = "patched"
    run_id = driver.submit(flows.opens_and_closes)
    driver.step()
    carried_on_by(driver, "dropped", run_id)

    assert effects == ["begin", "open new", "work", "close new"]


def test_a_retried_run_is_told_as_before(driver: Driver, effects: list[str]) -> None:
    """What it passed in an earlier attempt stays the old way; from the step that failed on it goes by new code."""
    flows.failures["left"] = 1
    run_id = driver.submit(flows.mended_by_a_patch)
    driver.step()
    carried_on_by(driver, "patched", run_id)

    assert effects == ["old begin", "mended"]
    assert driver.row(run_id)["run_attempt"] == 2


def test_a_run_in_this_process_goes_by_the_new_code() -> None:
    """It begins and ends under one code."""
    flows.code["is"] = "patched"

    assert flows.here() is True
    assert flows.by_new_code() is True


def test_a_patch_has_a_name(driver: Driver) -> None:
    """Anything else is refused, with what to do."""
    for wrong in ("", "  ", 7):
        with pytest.raises(DefinitionError, match="name of a change"):
            driver.run(flows.wrong_name, name=wrong).result()
