"""Start a task outside of a flow on Celery: its `.delay()` and `.apply_async()`."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from orchestra import background
from orchestra.celery.dispatch import CeleryCarrier, carrier
from orchestra.celery.submit import finished, submit_flow_run
from orchestra.engine import local
from orchestra.engine.arguments import find_futures, replace_futures, settled
from orchestra.errors import UpstreamFailed
from orchestra.handles import FlowRunHandle, TaskRunHandle
from orchestra.specs import Call, FlowSpec, TaskSpec, overridden, require_importable


def submit_task_run(
    task: TaskSpec,
    call: Call,
    *,
    queue: str | None = None,
    countdown: float | timedelta | None = None,
    eta: datetime | None = None,
    priority: int | None = None,
    idempotency_key: str | None = None,
    tags: Iterable[str] = (),
) -> TaskRunHandle:
    """Write a task's run, announce it once, and return a handle on it. As `submit_flow_run` otherwise.

    What is in `wait_for`, and futures among the arguments, are waited for here.

    Raises:
        NoBroker: There is neither an app nor a broker.
        NotImportable: A worker could not import the task.
        UpstreamFailed: What it was to wait for did not succeed; no run was made.
        IdempotencyConflict: The key was used with other arguments.
    """
    carrying, call = carrier(), _settled(call)
    if carrying.app.conf.task_always_eager:
        state = finished(carrying, local.runner().call_task(task, call))
        return TaskRunHandle(str(uuid.uuid4()), background.step_key_of(task), final=state)
    require_importable(task.path, "task")
    queue, priority = routed(task, carrying, queue, priority)
    flow, parameters = as_flow(task, call, queue, priority)
    handle = submit_flow_run(
        flow,
        parameters,
        queue=queue,
        countdown=countdown,
        eta=eta,
        priority=priority,
        idempotency_key=idempotency_key,
        tags=tags,
    )
    return TaskRunHandle(handle.id, background.step_key_of(task), carrying)


def routed(
    task: TaskSpec, carrying: CeleryCarrier, queue: str | None, priority: int | None
) -> tuple[str | None, int | None]:
    """Queue and priority of a task's run: the call's own, else the decorator's, else as the app routes the task."""
    found, ranked = carrying.route(task.routed_as)
    return queue or task.queue or found, next(
        (each for each in (priority, task.priority, ranked) if each is not None), None
    )


def as_flow(task: TaskSpec, call: Call, queue: str | None, priority: int | None) -> tuple[FlowSpec, dict[str, Any]]:
    """The flow that carries a task's run, and its parameters.

    Args:
        task: The task.
        call: Its arguments.
        queue: Where it goes, as `routed` gave it.
        priority: Likewise.
    """
    chosen = {"queue": queue, "priority": priority}
    task = overridden(task, {name: value for name, value in chosen.items() if value is not None})
    return background.flow_of(task), background.parameters_of(task, call)


def _settled(call: Call) -> Call:
    """The call with values in the place of futures, all waited for.

    Raises:
        UpstreamFailed: One did not succeed.
    """
    handles = [each for each in call.wait_for if isinstance(each, FlowRunHandle)]
    others = [each for each in call.wait_for if not isinstance(each, FlowRunHandle)]
    for handle in handles:
        if not (state := handle.wait()).is_completed():
            raise UpstreamFailed(handle.id, state.message or state.name)
    for future, _ in find_futures([call.args, call.kwargs, others]):
        future.wait()
    replace_futures(others, settled)
    return Call(replace_futures(call.args, settled), replace_futures(call.kwargs, settled))
