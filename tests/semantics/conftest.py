"""Both ways of running: in this process, and message by message as workers do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from orchestra.states import State
from tests.drive import Driver
from tests.engine.conftest import driver, sqlite_database

__all__ = ["Run", "driver", "effects", "run", "sqlite_database"]

#: What bodies did, in order. Emptied before each test.
EFFECTS: list[Any] = []


class Run:
    """Runs a flow to its end, one way or the other: `run(flow, **parameters)` gives its final state."""

    def __init__(self, driver: Driver, way: str) -> None:
        self.driver, self.way = driver, way

    def __call__(self, flow: Any, /, **parameters: Any) -> State[Any]:
        """The final state."""
        if self.way == "worker":
            return self.driver.run(flow, **parameters)
        state = flow(**parameters, return_state=True)
        return asyncio.run(state) if asyncio.iscoroutine(state) else state

    def value(self, flow: Any, /, **parameters: Any) -> Any:
        """The value; raises what the flow raised."""
        return self(flow, **parameters).result()


@pytest.fixture(params=["here", "worker"])
def run(request: pytest.FixtureRequest, driver: Driver) -> Run:
    """Runs flows in this process, and as workers do."""
    return Run(driver, request.param)


@pytest.fixture
def effects() -> Iterator[list[Any]]:
    """What the bodies of this test's flows noted, in order."""
    EFFECTS.clear()
    yield EFFECTS
    EFFECTS.clear()
