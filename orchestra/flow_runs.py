"""What can be done to flow runs from Python: pause the one that runs here, resume another."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from datetime import timedelta

from orchestra import clock, lazy
from orchestra.awaitables import Done, in_coroutine
from orchestra.context import flow_run_context, task_run_context
from orchestra.errors import MissingContextError


def pause_flow_run(*, timeout: float | timedelta = 3600.0, key: str | None = None) -> Awaitable[None]:
    """Pause the flow run that runs here until someone resumes it; in a coroutine: `await pause_flow_run()`.

    On a worker no slot is held meanwhile.

    Args:
        timeout: Seconds to wait for that.
        key: The name of the pause in the run's history.

    Raises:
        PauseTimeout: Nobody resumed it in time.
        MissingContextError: Called outside of a flow, or in a task.
    """
    flow_run = flow_run_context.get()
    if flow_run is None or task_run_context.get() is not None:
        raise MissingContextError("pause_flow_run() works in a flow's own body only, not in tasks or outside of runs")
    seconds = clock.seconds(timeout)
    if in_coroutine():
        return flow_run.runner.pause_async(timeout=seconds, key=key)
    flow_run.runner.pause(timeout=seconds, key=key)
    return Done()


def resume_flow_run(flow_run_id: str | uuid.UUID) -> None:
    """Let a paused flow run go on.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It is not paused.
    """
    lazy.load("operations").resume(lazy.load("database")(), str(flow_run_id))
