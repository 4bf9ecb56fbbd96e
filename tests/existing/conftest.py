"""What tests of an existing project share: its app, installed anew, and four ways to run one of its tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

import orchestra.celery
from orchestra.states import State
from tests.drive import Driver
from tests.engine.conftest import driver, sqlite_database
from tests.existing import project

__all__ = ["driver", "sqlite_database"]

Run = Callable[..., State[Any]]


@pytest.fixture
def app(home: Any) -> Iterator[Celery]:
    """The project's app, with orchestra installed; nothing noted yet of what its handlers saw."""
    project.seen.clear()
    yield orchestra.celery.install(project.app)
    project.seen.clear()


@pytest.fixture(params=["direct", "submitted"])
def flow_of_one(request: pytest.FixtureRequest) -> Any:
    """A flow that calls one task of the project, or submits it, and ends as that ends."""
    return getattr(project, request.param)


@pytest.fixture(params=["local", "worker"])
def run(request: pytest.FixtureRequest, driver: Driver, app: Celery, flow_of_one: Any) -> Run:
    """Runs one task of the project in a flow, here or by a worker's messages; gives its final state."""

    def here(name: str, *args: Any) -> State[Any]:
        return flow_of_one(name, list(args), return_state=True)

    def on_worker(name: str, *args: Any) -> State[Any]:
        return driver.run(flow_of_one, name=name, args=list(args))

    return here if request.param == "local" else on_worker
