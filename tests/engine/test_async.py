"""Async bodies: branches that wait apart, and replay that tells them apart."""

from __future__ import annotations

import pytest

from tests.drive import Driver
from tests.engine import flows


def test_gathered_tasks_run_inline(driver: Driver, effects: list[str]) -> None:
    """In one segment."""
    assert driver.run(flows.gathered, n=5).result() == [1, 2, 3, 4, 5]
    assert driver.segments == 1


@pytest.mark.parametrize("order", [0, -1, 3])
def test_branches_may_end_in_any_order(driver: Driver, effects: list[str], order: int) -> None:
    """Each goes on when its own value is there; nothing runs twice."""
    driver.pick = lambda count: order
    assert driver.run(flows.branches, n=5).result() == [2, 3, 4, 5, 6]
    assert driver.run(flows.mixed, n=3).result() == [5, 25, 45]
    assert len([effect for effect in effects if effect.startswith("add")]) == 5 + 6


def test_an_absent_value_suspends_its_branch_only(driver: Driver) -> None:
    """All branches are dispatched before the run parks."""
    driver.submit(flows.branches, n=5)
    driver.step()
    assert len(driver.carrier.messages) == 5


def test_task_groups_are_branches_too(driver: Driver) -> None:
    """Each Task that the body creates."""
    assert driver.run(flows.grouped).result() == [1, 2, 3]


def test_a_failed_branch_fails_its_gather(driver: Driver) -> None:
    """With the task's own exception."""
    assert driver.run(flows.first_failure).result() == "branch"


def test_async_children_go_on_side_by_side(driver: Driver) -> None:
    """Sent as messages, so that none holds up the others."""
    assert driver.run(flows.aparent, n=3).result() == [1, 2, 3]
