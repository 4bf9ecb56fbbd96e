"""Workflows for teams that run Celery: the public face.

Names are loaded when they are first used; importing orchestra does no work.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestra import artifacts as artifacts
    from orchestra import context as context
    from orchestra import events as events
    from orchestra import exceptions as exceptions
    from orchestra import flows as flows
    from orchestra import futures as futures
    from orchestra import logging as logging
    from orchestra import runtime as runtime
    from orchestra import states as states
    from orchestra import tasks as tasks
    from orchestra import transactions as transactions
    from orchestra import variables as variables
    from orchestra.annotations import allow_failure, quote, unmapped
    from orchestra.client.orchestration import get_client
    from orchestra.context import tags
    from orchestra.flow_runs import (
        apause_flow_run,
        aresume_flow_run,
        asuspend_flow_run,
        pause_flow_run,
        resume_flow_run,
        suspend_flow_run,
    )
    from orchestra.flows import Flow, deploy, flow, serve
    from orchestra.futures import as_completed, wait
    from orchestra.logging import disable_run_logger, get_run_logger
    from orchestra.observations import now, once, patched, random, sleep, uuid4
    from orchestra.retries import exponential_backoff
    from orchestra.states import State
    from orchestra.tasks import Task, task

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # Definitions
    "flow",
    "task",
    "Flow",
    "Task",
    # Around arguments and options
    "allow_failure",
    "exponential_backoff",
    "quote",
    "unmapped",
    # Futures and states
    "State",
    "as_completed",
    "wait",
    # Inside a run
    "get_run_logger",
    "disable_run_logger",
    "tags",
    "pause_flow_run",
    "resume_flow_run",
    "suspend_flow_run",
    "apause_flow_run",
    "aresume_flow_run",
    "asuspend_flow_run",
    "sleep",
    "now",
    "once",
    "patched",
    "random",
    "uuid4",
    # From outside of runs
    "deploy",
    "get_client",
    "serve",
]

_HOMES = {
    "annotations": ("allow_failure", "quote", "unmapped"),
    "client.orchestration": ("get_client",),
    "context": ("tags",),
    "flow_runs": tuple(f"{a}{verb}_flow_run" for verb in ("pause", "resume", "suspend") for a in ("", "a")),
    "flows": ("Flow", "deploy", "flow", "serve"),
    "futures": ("as_completed", "wait"),
    "logging": ("disable_run_logger", "get_run_logger"),
    "observations": ("now", "once", "patched", "random", "sleep", "uuid4"),
    "retries": ("exponential_backoff",),
    "states": ("State",),
    "tasks": ("Task", "task"),
}
#: Modules that `import orchestra` is enough for: `orchestra.runtime.flow_run.name`.
_MODULES = frozenset(
    "artifacts context events exceptions flows futures logging runtime states tasks transactions variables".split()
)
_HOME_OF = {name: module for module, found in _HOMES.items() for name in found}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("celery-orchestra")
    if name in _MODULES:
        return import_module(f"orchestra.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'orchestra' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"orchestra.{_HOME_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
