"""The errors under the module name, and also the names, that Prefect users know; they live in `orchestra.errors`."""

from __future__ import annotations

from orchestra import errors
from orchestra.errors import *  # noqa: F403 - the whole tree

# Prefect's names of what has another name here.
OrchestraException = errors.OrchestraError
OrchestraSignal = errors.Signal
TerminationSignal = errors.Terminated
ObjectNotFound = errors.NotFound
UpstreamTaskError = errors.UpstreamFailed
MissingFlowError = ScriptError = errors.DefinitionNotFound
FlowPauseTimeout = errors.PauseTimeout
FlowRunWaitTimeout = errors.ResultTimeout
NotPausedError = errors.IllegalTransition
InvalidNameError = errors.DefinitionError
MissingProfileError = ProfileSettingsValidationError = errors.ConfigurationError

__all__ = sorted(
    name
    for name, value in globals().items()
    if isinstance(value, type) and issubclass(value, (errors.OrchestraError, errors.Signal))
)
