"""Tasks outside of flows: the flow of one step that carries such a task.

So a background task is journaled, announced, retried, timed out, cancelled and kept for a retry by hand as any step is,
and there is no second kind of run. It is a static flow: its step is in the journal before a worker has seen it.
"""

from __future__ import annotations

from typing import Any

from orchestra.context import current_runner
from orchestra.engine import definitions
from orchestra.errors import MissingContextError
from orchestra.flows import flow
from orchestra.names import step_name
from orchestra.specs import Call, FlowSpec, TaskSpec, overridden

#: First part of the flow's name, which no flow of a user's has: what stands behind it is the task's.
PREFIX = "task:"


@flow(static=True, validate_parameters=False)
def background(task: str, args: list[Any], kwargs: dict[str, Any], options: bytes | None = None) -> Any:
    """Runs one task.

    Args:
        task: `module:qualname` of it.
        args: Its positional arguments.
        kwargs: Its arguments by name.
        options: Its encoded options that differ from those of what stands there.
    """
    runner = current_runner()
    if runner is None:
        raise MissingContextError("the flow of a background task is for orchestra to call: call the task's .delay()")
    return runner.submit_task(definitions.load_task(task, options), Call(tuple(args), kwargs)).result()


def flow_of(task: TaskSpec) -> FlowSpec:
    """The flow that carries `task`."""
    return overridden(background.spec, {"name": PREFIX + task.name})


def parameters_of(task: TaskSpec, call: Call) -> dict[str, Any]:
    """Its parameters.

    Raises:
        SerializationError: An option of the task cannot be encoded.
    """
    options = definitions.encoded_options(task)
    return {"task": task.path, "args": list(call.args), "kwargs": dict(call.kwargs), "options": options}


def step_key_of(task: TaskSpec) -> str:
    """The key of its one step."""
    return f"main/{step_name(task.name)}-0"
