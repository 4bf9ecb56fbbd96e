"""Timeouts, wherever a body runs."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from orchestra import flow, task
from orchestra.errors import RunTimeout
from tests.semantics.conftest import EFFECTS, Run

pytestmark = pytest.mark.slow


@task(timeout_seconds=0.1)
def hangs() -> None:
    """Too slow."""
    time.sleep(60)


@task(timeout_seconds=0.1)
async def ahangs() -> None:
    """Too slow, async."""
    await asyncio.sleep(60)


@task(timeout_seconds=0.1)
def raises_its_own() -> None:
    """A TimeoutError of the body's own."""
    raise TimeoutError("the socket's")


@task(timeout_seconds=60)
def is_quick() -> str:
    """In time."""
    return "done"


@task
def note() -> None:
    """Note that it ran."""
    EFFECTS.append("ran")


@flow(timeout_seconds=0.2)
def slow_child() -> None:
    time.sleep(60)


@flow(timeout_seconds=0.2)
async def slow_async_child() -> None:
    await asyncio.sleep(60)


@flow
def calls(name: str) -> str:
    state = globals()[name](return_state=True)
    return f"{state.type} {state.name}"


@flow
def submits_coroutine() -> str:
    future = ahangs.submit()
    future.wait()
    return str(future.state.name)


@flow
async def awaits() -> list[str]:
    return [(await ahangs(return_state=True)).name, (await slow_async_child(return_state=True)).name]


@flow
def catches() -> str:
    try:
        hangs()
    except TimeoutError as error:
        return str(error)
    return "no error"


@flow
def catches_its_own() -> list[Any]:
    state = raises_its_own(return_state=True)
    return [state.name, state.message]


@flow
def in_time() -> list[str]:
    return [is_quick(), is_quick.submit().result()]


@flow(timeout_seconds=0.2)
def late() -> None:
    time.sleep(60)
    note()


@pytest.mark.parametrize("name", ["hangs", "slow_child"])
def test_a_blocking_body_is_stopped(run: Run, name: str) -> None:
    """Task or flow: FAILED, named `TimedOut`."""
    assert run.value(calls, name=name) == "FAILED TimedOut"


def test_coroutines_are_cancelled(run: Run) -> None:
    """Awaited or submitted, of tasks and of flows."""
    assert run.value(awaits) == ["TimedOut", "TimedOut"]
    assert run.value(submits_coroutine) == "TimedOut"


def test_a_timeout_is_a_timeout_error(run: Run) -> None:
    """It can be caught, and says how long was allowed."""
    assert run.value(catches) == "'hangs' ran longer than its timeout_seconds=0.1"


def test_a_timeout_error_of_the_bodys_own_is_a_failure_like_any_other(run: Run) -> None:
    """Not named `TimedOut`."""
    assert run.value(catches_its_own) == ["Failed", "TimeoutError: the socket's"]


def test_what_is_in_time_is_left_alone(run: Run) -> None:
    """Called and submitted."""
    assert run.value(in_time) == ["done", "done"]


def test_a_flow_over_its_time_goes_no_further(run: Run, effects: list[Any]) -> None:
    """The error is the run's."""
    with pytest.raises(RunTimeout, match=r"'late' ran longer than its timeout_seconds=0\.2"):
        run.value(late)
    assert effects == []
