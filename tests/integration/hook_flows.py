"""Flows with hooks for the tests with real workers; each hook notes what it was told in a file."""

from __future__ import annotations

import time
from typing import Any

from orchestra import flow, get_run_logger, task
from tests.integration.flows import note

NOTING = ("on_completion", "on_failure", "on_cancellation", "on_crashed", "on_running")


def noting(subject: Any, run: Any, state: Any) -> None:
    """Notes the name of what it was called for, and the state."""
    note(run.parameters["path"], f"{subject.name}:{state.name}")
    get_run_logger().info("a hook was told of %s", state.name)


async def noting_async(subject: Any, run: Any, state: Any) -> None:
    """Likewise, as a coroutine function."""
    noting(subject, run, state)


def lasting(subject: Any, run: Any, state: Any) -> None:
    """Notes that it starts, and takes its time, the first time."""
    note(run.parameters["path"], "lasting")
    time.sleep(run.parameters["seconds"])
    note(run.parameters["path"], "lasted")


@task(on_completion=[noting, noting_async], on_failure=noting, on_running=noting)
def noted(path: str, fails: bool = False) -> str:
    """A task with hooks."""
    if fails:
        raise ValueError("as it should")
    return "noted"


@flow(on_completion=[noting, noting_async], on_failure=noting, on_running=noting)
def hooked(path: str, fails: bool = False) -> str:
    """A submitted task, and a direct one."""
    return str(noted.submit(path).result()) + noted(path, fails)


@flow(on_cancellation=noting)
def cancelled(path: str, seconds: float = 60.0) -> None:
    """Lasts."""
    note(path, "started")
    time.sleep(seconds)


@flow(on_completion=lasting)
def slowly_hooked(path: str, seconds: float) -> str:
    """Its hook takes its time."""
    return "done"
