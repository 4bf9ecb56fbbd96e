"""Names of runs from the users' templates."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from orchestra import names
from orchestra.engine.parameters import signature, validate
from orchestra.errors import ParameterError
from orchestra.serializers import clean_text
from orchestra.specs import FlowSpec, TaskSpec

_logger = logging.getLogger("orchestra.engine")

#: Longest run name, in characters.
_LONGEST = 200


def flow_run_name(flow: FlowSpec, parameters: dict[str, Any]) -> str:
    """The name of a run of `flow`: its template filled in, else two random words."""
    if flow.flow_run_name is None:
        return names.run_name()
    return _made(flow.flow_run_name, _fitting(flow, parameters)) or names.run_name()


def task_run_name(task: TaskSpec, parameters: dict[str, Any], default: str) -> str:
    """The name of a run of `task`: its template filled in, else `default`."""
    if task.task_run_name is None:
        return default
    return _made(task.task_run_name, parameters) or default


def _fitting(flow: FlowSpec, parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters as the body gets them: a run is named alike wherever it is started."""
    try:
        return validate(flow.fn, parameters) if flow.validate_parameters else parameters
    except ParameterError:
        return parameters


def _made(template: str | Callable[..., str], parameters: dict[str, Any]) -> str | None:
    try:
        text = template.format(**parameters) if isinstance(template, str) else _asked(template, parameters)
        return clean_text(str(text))[:_LONGEST]
    except Exception as error:
        _logger.warning("the run name %r could not be made (%s: %s)", template, type(error).__name__, error)
        return None


def _asked(function: Callable[..., str], parameters: dict[str, Any]) -> str:
    return function(parameters=parameters) if "parameters" in signature(function).parameters else function()
