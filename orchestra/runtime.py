"""What runs here, for code that is not handed it: `orchestra.runtime.flow_run.name`, `task_run.idempotency_key`…

Outside of runs every attribute has its empty value: None, [], {} or 0. For tests the environment may say otherwise:
`ORCHESTRA__RUNTIME__FLOW_RUN__NAME=nightly`, read as the attribute's type; lists and dictionaries are given as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

from orchestra import clock, lazy, settings
from orchestra.context import FlowRunContext, TaskRunContext, flow_run_context, task_run_context
from orchestra.errors import ConfigurationError

T = TypeVar("T")


class _Section:
    """Attributes of one kind of run."""

    __slots__ = ()
    #: As the environment names it.
    what = ""

    def __getattr__(self, name: str) -> Any:
        # Asked for what is no attribute: only the environment can know of it.
        given = None if name.startswith("_") else settings.runtime_override(self.what, name)
        if given is None:
            raise AttributeError(f"orchestra.runtime.{self.what} has no attribute {name!r}")
        return given


class _attribute(Generic[T]):
    """An attribute of what runs here, unless the environment says another value."""

    def __init__(self, read: Callable[[Any], T]) -> None:
        self._read = read
        self.__doc__ = read.__doc__

    @overload
    def __get__(self, section: None, owner: type) -> _attribute[T]: ...
    @overload
    def __get__(self, section: _Section, owner: type) -> T: ...
    def __get__(self, section: _Section | None, owner: type) -> Any:
        if section is None:
            return self
        name = self._read.__name__
        real = self._read(section)
        given = settings.runtime_override(section.what, name)
        return real if given is None else _cast(given, real, f"ORCHESTRA__RUNTIME__{section.what}__{name}".upper())


def _cast(text: str, real: Any, name: str) -> Any:
    """A text from the environment, as the type of the value in whose place it stands."""
    try:
        if isinstance(real, list | dict):
            return type(real)(json.loads(text))
        if isinstance(real, datetime):
            return datetime.fromisoformat(text)
        return text if real is None else type(real)(text)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{name}={text!r} cannot be read as {type(real).__name__}; mend or unset it"
        ) from error


class _FlowRun(_Section):
    """The flow run whose body, or whose task's body, runs here."""

    __slots__ = ()
    what = "flow_run"

    @_attribute
    def id(self) -> str | None:
        """The flow run's id."""
        context = _flow()
        return None if context is None else context.run_id

    @_attribute
    def name(self) -> str | None:
        """The flow run's name."""
        context = _flow()
        return None if context is None else context.run_name

    @_attribute
    def flow_name(self) -> str | None:
        """The flow's name."""
        context = _flow()
        return None if context is None else context.flow.name

    @_attribute
    def flow_version(self) -> str | None:
        """The flow's version, where it declares one."""
        context = _flow()
        return None if context is None else context.flow.version

    @_attribute
    def parameters(self) -> dict[str, Any]:
        """The parameters, validated."""
        context = _flow()
        return {} if context is None else dict(context.parameters)

    @_attribute
    def tags(self) -> list[str]:
        """The flow run's tags."""
        context = _flow()
        return [] if context is None else list(context.tags)

    @_attribute
    def run_count(self) -> int:
        """How many times the body has been started anew by retries, this one included."""
        context = _flow()
        return 0 if context is None else context.run_attempt

    @_attribute
    def parent_flow_run_id(self) -> str | None:
        """The flow run that called this one."""
        context = _flow()
        return None if context is None else context.parent_run_id

    @_attribute
    def parent_deployment_id(self) -> str | None:
        """The deployment whose run the parent is."""
        parent = self.parent_flow_run_id
        return None if parent is None else lazy.load("deployment_of_run")(lazy.load("database")(), parent)

    @_attribute
    def ui_url(self) -> str | None:
        """Its page in the admin view of the server that `ORCHESTRA_API_URL` names; None: it names none."""
        server, run_id = settings.current().api_url, self.id
        return f"{server.rstrip('/')}/runs/{run_id}" if server and run_id else None

    @_attribute
    def root_flow_run_id(self) -> str | None:
        """The outermost flow run."""
        context = _flow()
        return None if context is None else context.root_run_id

    @_attribute
    def scheduled_start_time(self) -> datetime | None:
        """When the run was to start."""
        context = _flow()
        return None if context is None else clock.to_datetime(context.scheduled_start_time or context.start_time)


class _TaskRun(_Section):
    """The task run whose body runs here."""

    __slots__ = ()
    what = "task_run"

    @_attribute
    def id(self) -> str | None:
        """The task run's id."""
        context = _task()
        return None if context is None else context.task_run_id

    @_attribute
    def name(self) -> str | None:
        """The task run's name."""
        context = _task()
        return None if context is None else context.task_run_name

    @_attribute
    def task_name(self) -> str | None:
        """The task's name."""
        context = _task()
        return None if context is None else context.task.name

    @_attribute
    def parameters(self) -> dict[str, Any]:
        """The arguments by name."""
        context = _task()
        return {} if context is None else dict(context.parameters)

    @_attribute
    def tags(self) -> list[str]:
        """The task run's tags: the task's own, and those in force where it was called."""
        context = _task()
        return [] if context is None else list(context.tags)

    @_attribute
    def run_count(self) -> int:
        """The number of this try, 1 for the first."""
        context = _task()
        return 0 if context is None else context.attempt

    @_attribute
    def idempotency_key(self) -> str | None:
        """The same each time this step's body is run, for whatever reason: hand it to what must not act twice."""
        context = _task()
        return None if context is None else context.idempotency_key


class _Deployment(_Section):
    """The deployment whose run runs here, or started the run that does; all empty in other runs."""

    __slots__ = ()
    what = "deployment"

    @_attribute
    def id(self) -> str | None:
        """The deployment's id."""
        return _deployed()[1]

    @_attribute
    def name(self) -> str | None:
        """The deployment's name; None once it is deleted."""
        return getattr(_deployment(), "name", None)

    @_attribute
    def version(self) -> str | None:
        """The deployment's version, as it is now."""
        return getattr(_deployment(), "version", None)

    @_attribute
    def flow_run_id(self) -> str | None:
        """The id of the deployment's run; in a subflow, of the one that it belongs to."""
        return _deployed()[0]

    @_attribute
    def parameters(self) -> dict[str, Any]:
        """The parameters of the deployment's run."""
        run_id, deployment_id = _deployed()
        if deployment_id is None or run_id is None:
            return {}
        here = _flow()
        if here is not None and here.run_id == run_id:
            return dict(here.parameters)
        found: dict[str, Any] = lazy.load("run_parameters")(lazy.load("database")(), run_id)
        return found


flow_run = _FlowRun()
task_run = _TaskRun()
deployment = _Deployment()


def _flow() -> FlowRunContext | None:
    return flow_run_context.get()


def _task() -> TaskRunContext | None:
    return task_run_context.get()


def _deployed() -> tuple[str | None, str | None]:
    """The run of a deployment that this one is, or that is outermost around it, and the deployment's id."""
    here = _flow()
    if here is None:
        return None, None
    if here.deployment_id is not None:
        return here.run_id, here.deployment_id
    root = here.root_run_id
    if root is None or root == here.run_id:
        return None, None
    found = lazy.load("deployment_of_run")(lazy.load("database")(), root)
    return (None, None) if found is None else (root, found)


def _deployment() -> Any:
    """The deployment, read anew: None outside of its runs, and once it is deleted."""
    deployment_id = _deployed()[1]
    return None if deployment_id is None else lazy.load("find_deployment")(lazy.load("database")(), deployment_id)
