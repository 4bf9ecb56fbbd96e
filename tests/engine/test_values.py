"""Values on their way through the journal: large ones, and ones that cannot be kept."""

from __future__ import annotations

from typing import Any

import pytest

from orchestra.errors import SerializationError, ValueTooLarge
from orchestra.settings import override
from orchestra.store.database import Database
from tests.drive import Driver
from tests.engine import flows


@pytest.mark.parametrize("size", [100_000, 1_200_000], ids=["over what replay reads at once", "over what a row holds"])
def test_large_results_come_back_whole(driver: Driver, effects: list[str], size: int) -> None:
    """Inline and submitted, as an argument, and as the run's own result."""
    assert driver.run(flows.large, size=size).result() == [size] * 3
    assert effects == ["blob", "blob"]
    assert driver.run(flows.large_result, size=size).result() == "y" * size


@pytest.mark.parametrize("submitted", [False, True])
def test_a_result_that_cannot_be_kept_fails_its_task(driver: Driver, submitted: bool) -> None:
    """The error names the type and the task."""
    state = driver.run(flows.unserialisable_result, submitted=submitted)

    assert state.is_failed()
    with pytest.raises(SerializationError, match=r"(?s)lock.*unserialisable|unserialisable.*lock"):
        state.result()


@pytest.mark.parametrize("submitted", [False, True])
def test_a_result_that_cannot_be_read_again_fails_its_task(driver: Driver, effects: list[str], submitted: bool) -> None:
    """At once, and not at each try to replay it."""
    state = driver.run(flows.unreadable_result, submitted=submitted, messages=20)

    assert "'unreadable" in (state.message or "")
    assert "not be read again: a stored value cannot be read here: ValueError: not again" in (state.message or "")
    assert effects == ["unreadable"]
    assert driver.run(flows.unreadable_end, messages=20).is_failed()


def test_a_task_may_have_any_name(database: Database) -> None:
    """However long, with any characters: what keys and columns cannot hold is cut or replaced."""
    assert Driver(database).run(flows.oddly_named).result() == [2, 3, 5]


def test_a_result_over_the_cap_fails_its_run(driver: Driver) -> None:
    """And says how large it is, and what to do."""
    override(result_max_bytes=1000)

    with pytest.raises(ValueTooLarge, match="reference"):
        driver.run(flows.large_result, size=2000).result()


@pytest.mark.parametrize("name", ["unserialisable_argument", "unserialisable_argument_elsewhere", "unsendable_child"])
def test_an_argument_that_cannot_be_sent_is_refused(driver: Driver, name: str) -> None:
    """At the call, where the body may catch it and go on; in each replay alike."""
    assert "cannot be" in driver.run(getattr(flows, name)).result()


def test_an_inline_call_takes_any_argument(driver: Driver) -> None:
    """It is not sent anywhere."""
    assert driver.run(flows.lock_inline).result() == "held"


def test_a_task_inside_a_function_runs_inline_and_cannot_be_submitted(driver: Driver) -> None:
    """No other process could import it; the error says where to put it."""
    value, message = driver.run(flows.local_function).result()

    assert value == 1
    assert "top level of a module" in message


@pytest.mark.parametrize("here", [True, False], ids=["in this process", "on a worker"])
def test_futures_are_resolved_inside_dataclasses_and_leave_types_as_they_are(driver: Driver, here: bool) -> None:
    """In arguments and in what a flow returns; a Counter stays one."""

    def run(flow: Any) -> Any:
        return flow() if here else driver.run(flow).result()

    assert run(flows.future_in_a_dataclass) == 2
    assert run(flows.counter_beside_a_future) == ["Counter", 4]
    assert run(flows.returns_a_dataclass) == flows.Request(2)
