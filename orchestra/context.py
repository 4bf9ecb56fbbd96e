"""What runs here now: the flow run and the task run of the calling code, as context variables."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestra.runners.base import Runner
from orchestra.specs import FlowSpec, TaskSpec


class LineCounter(Protocol):
    """Numbers the log lines of a flow body, so that a replay skips those already written."""

    def next(self) -> tuple[str, int] | None:
        """Branch and ordinal of the next line; None: it was written before, drop it."""
        ...


@dataclass(slots=True)
class FlowRunContext:
    """The flow run whose body runs here. Instants are seconds since the epoch."""

    flow: FlowSpec
    run_id: str
    run_name: str
    parameters: dict[str, Any]
    runner: Runner
    tags: tuple[str, ...] = ()
    run_attempt: int = 1
    parent_run_id: str | None = None
    root_run_id: str | None = None
    scheduled_start_time: float | None = None
    start_time: float | None = None
    log_prints: bool = False
    lines: LineCounter | None = None
    depth: int = 0


@dataclass(slots=True)
class TaskRunContext:
    """The task run whose body runs here."""

    task: TaskSpec
    task_run_id: str
    task_run_name: str
    flow_run: FlowRunContext | None
    step_key: str | None
    attempt: int
    idempotency_key: str
    parameters: dict[str, Any] = field(default_factory=dict)
    log_prints: bool = False
    #: Carries out the calls that the task's body makes; None: they run plainly, in this process.
    runner: Runner | None = None
    #: Set by a body that fails: it asks for another try after so many seconds.
    retry_delay: float | None = None


flow_run_context: ContextVar[FlowRunContext | None] = ContextVar("orchestra_flow_run", default=None)
task_run_context: ContextVar[TaskRunContext | None] = ContextVar("orchestra_task_run", default=None)


def current_runner() -> Runner | None:
    """The runner of the calling code: its task's if it is in a task, else its flow's; None: runs plainly."""
    if (task_run := task_run_context.get()) is not None:
        return task_run.runner
    if (flow_run := flow_run_context.get()) is not None:
        return flow_run.runner
    return None
