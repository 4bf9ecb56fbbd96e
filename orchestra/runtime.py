"""What runs here, for code that is not handed it: `orchestra.runtime.flow_run.name`, `task_run.idempotency_key`…

Outside of runs every attribute has its empty value: None, [], {} or 0.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from orchestra import clock
from orchestra.context import FlowRunContext, TaskRunContext, flow_run_context, task_run_context


class _FlowRun:
    """The flow run whose body, or whose task's body, runs here."""

    __slots__ = ()

    @property
    def id(self) -> str | None:
        """The flow run's id."""
        context = _flow()
        return None if context is None else context.run_id

    @property
    def name(self) -> str | None:
        """The flow run's name."""
        context = _flow()
        return None if context is None else context.run_name

    @property
    def flow_name(self) -> str | None:
        """The flow's name."""
        context = _flow()
        return None if context is None else context.flow.name

    @property
    def flow_version(self) -> str | None:
        """The flow's version, where it declares one."""
        context = _flow()
        return None if context is None else context.flow.version

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters, validated."""
        context = _flow()
        return {} if context is None else dict(context.parameters)

    @property
    def tags(self) -> list[str]:
        """The flow run's tags."""
        context = _flow()
        return [] if context is None else list(context.tags)

    @property
    def run_count(self) -> int:
        """How many times the body has been started anew by retries, this one included."""
        context = _flow()
        return 0 if context is None else context.run_attempt

    @property
    def parent_flow_run_id(self) -> str | None:
        """The flow run that called this one."""
        context = _flow()
        return None if context is None else context.parent_run_id

    @property
    def root_flow_run_id(self) -> str | None:
        """The outermost flow run."""
        context = _flow()
        return None if context is None else context.root_run_id

    @property
    def scheduled_start_time(self) -> datetime | None:
        """When the run was to start."""
        context = _flow()
        return None if context is None else clock.to_datetime(context.scheduled_start_time or context.start_time)


class _TaskRun:
    """The task run whose body runs here."""

    __slots__ = ()

    @property
    def id(self) -> str | None:
        """The task run's id."""
        context = _task()
        return None if context is None else context.task_run_id

    @property
    def name(self) -> str | None:
        """The task run's name."""
        context = _task()
        return None if context is None else context.task_run_name

    @property
    def task_name(self) -> str | None:
        """The task's name."""
        context = _task()
        return None if context is None else context.task.name

    @property
    def parameters(self) -> dict[str, Any]:
        """The arguments by name."""
        context = _task()
        return {} if context is None else dict(context.parameters)

    @property
    def tags(self) -> list[str]:
        """The task's tags."""
        context = _task()
        return [] if context is None else sorted(context.task.tags)

    @property
    def run_count(self) -> int:
        """The number of this try, 1 for the first."""
        context = _task()
        return 0 if context is None else context.attempt

    @property
    def idempotency_key(self) -> str | None:
        """The same each time this step's body is run, for whatever reason: hand it to what must not act twice."""
        context = _task()
        return None if context is None else context.idempotency_key


flow_run = _FlowRun()
task_run = _TaskRun()


def _flow() -> FlowRunContext | None:
    return flow_run_context.get()


def _task() -> TaskRunContext | None:
    return task_run_context.get()
