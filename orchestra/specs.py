"""What the engine sees of a flow or task: frozen records, never the decorated objects."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, TypeVar

from orchestra import lazy, settings
from orchestra.callables import is_async
from orchestra.errors import DefinitionError, NotImportable
from orchestra.task_runners import TaskRunner

#: State hooks, in the order in which they run: `hook(flow, flow_run, state)`, `hook(task, task_run, state)`.
Hooks = tuple[Callable[..., Any], ...]


class Decorated(Protocol):
    """The Flow or Task that a spec belongs to."""

    @property
    def spec(self) -> Any:
        """Its spec."""
        ...

    def having(self, spec: Any) -> Any:
        """A copy of it with another spec."""
        ...


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task: its function and its options. Durations are in seconds."""

    fn: Callable[..., Any]
    name: str
    #: `module:qualname`, by which a worker finds the task.
    path: str
    description: str = ""
    version: str | None = None
    tags: frozenset[str] = frozenset()
    #: None: as the settings say.
    retries: int | None = None
    #: None: as the settings say.
    retry_delay_seconds: float | tuple[float, ...] | Callable[[int], Any] | None = None
    retry_jitter_factor: float | None = None
    retry_condition_fn: Callable[..., Any] | None = None
    timeout_seconds: float | None = None
    log_prints: bool | None = None
    task_run_name: str | Callable[..., str] | None = None
    #: What a drawing of the flow takes for its value.
    viz_return_value: Any = None
    #: False: the result is not journaled, so the task runs again when its flow is replayed (direct calls only).
    persist_result: bool | None = None
    #: By what calls are recognised, so that a result is used again (`cache_policies`); None: as the settings say.
    cache_policy: Any = None
    #: For how many seconds; None: for ever.
    cache_expiration: float | None = None
    #: True: each call computes anew, and replaces what is kept; None: as the settings say.
    refresh_cache: bool | None = None
    #: A folder or a URL of fsspec in which all results are kept; None: as the flow and the settings say.
    result_storage: str | None = None
    #: The name of a file in that storage, with parameters filled in; a call whose file is there is answered by it.
    result_storage_key: str | None = None
    #: As `serializers.encode` takes it; None: as the flow says.
    result_serializer: str | None = None
    #: False: a value is not held in this process once it is kept, and read again when it is asked for.
    cache_result_in_memory: bool = True
    queue: str | None = None
    priority: int | None = None
    lease_seconds: float | None = None
    #: The name in its app of a Celery task that was made a task of a flow.
    celery_name: str | None = None
    on_completion: Hooks = field(default=(), compare=False)
    on_failure: Hooks = field(default=(), compare=False)
    on_running: Hooks = field(default=(), compare=False)
    #: Called with the transaction in which it ended well.
    on_rollback: Hooks = field(default=(), compare=False)
    on_commit: Hooks = field(default=(), compare=False)
    #: The fields that `with_options` has set: what a worker finds at `path` has them not.
    overrides: Mapping[str, Any] = field(default_factory=dict, compare=False)
    #: What the user knows it as: handed to hooks.
    decorated: Decorated | None = field(default=None, compare=False, repr=False)

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return is_async(self.fn)

    @property
    def has_transaction_hooks(self) -> bool:
        """Whether a transaction in which it ends well has something to call."""
        return bool(self.on_rollback or self.on_commit)

    @property
    def keeps_result(self) -> bool | None:
        """Whether a run in this process keeps the result; None: as its flow says."""
        if self.persist_result is None and (
            self.may_be_cached
            or self.result_storage is not None
            or self.result_storage_key is not None
            or self.result_serializer is not None
        ):
            return True
        return self.persist_result

    @property
    def routed_as(self) -> str:
        """What the app's router is asked with: a Celery task's own name, else the path."""
        return self.path if self.celery_name is None else CELERY_TASK + self.celery_name

    @property
    def task_key(self) -> str:
        """What Prefect's `Task.task_key` is there for: the same for the same task, in every process."""
        return self.path

    @property
    def may_be_cached(self) -> bool:
        """Whether results of it may be used again, or a call of it may be answered by one."""
        if self.cache_policy is None and settings.current().tasks_default_no_cache:
            return False
        return self.persist_result is not False

    @property
    def max_retries(self) -> int:
        """How many tries may follow the first."""
        return settings.current().tasks_default_retries if self.retries is None else self.retries

    @property
    def retry_delay(self) -> float | tuple[float, ...] | Callable[[int], Any]:
        """The pause before a further try."""
        given = self.retry_delay_seconds
        return settings.current().tasks_default_retry_delay_seconds if given is None else given


@dataclass(frozen=True, slots=True)
class FlowSpec:
    """One flow: its function and its options. Durations are in seconds."""

    fn: Callable[..., Any]
    name: str
    #: `module:qualname`, by which a worker finds the flow.
    path: str
    #: `file.py:qualname` of the source, for flows that live in a script.
    entrypoint: str | None = None
    description: str = ""
    version: str | None = None
    flow_run_name: str | Callable[..., str] | None = None
    #: None: as the settings say.
    retries: int | None = None
    #: None: as the settings say.
    retry_delay_seconds: float | tuple[float, ...] | Callable[[int], Any] | None = None
    timeout_seconds: float | None = None
    validate_parameters: bool = True
    log_prints: bool | None = None
    #: Whether a run in this process keeps its result and, where they do not say, those of its tasks. Workers always do.
    persist_result: bool | None = None
    #: A folder or a URL of fsspec, in which all results of it and its tasks are kept; None: as the settings say.
    result_storage: str | None = None
    #: As `serializers.encode` takes it, also for its tasks; None: `auto`.
    result_serializer: str | None = None
    #: As of a task.
    cache_result_in_memory: bool = True
    #: Who runs submitted tasks; None: threads of the process here, Celery on a worker.
    task_runner: TaskRunner | None = None
    queue: str | None = None
    priority: int | None = None
    static: bool = False
    on_completion: Hooks = field(default=(), compare=False)
    on_failure: Hooks = field(default=(), compare=False)
    on_cancellation: Hooks = field(default=(), compare=False)
    on_crashed: Hooks = field(default=(), compare=False)
    on_running: Hooks = field(default=(), compare=False)
    #: As of a task.
    overrides: Mapping[str, Any] = field(default_factory=dict, compare=False)
    decorated: Decorated | None = field(default=None, compare=False, repr=False)

    @property
    def keeps_results(self) -> bool:
        """Whether a run in this process keeps its result and, where they do not say, those of its tasks."""
        if self.persist_result is not None:
            return self.persist_result
        named = self.result_storage is not None or self.result_serializer is not None
        return named or settings.current().results_persist_by_default

    @property
    def routed_as(self) -> str:
        """As of a task."""
        return self.path

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return is_async(self.fn)

    @property
    def most_in_flight(self) -> int | None:
        """How many submitted tasks of a run may be in flight at once; None: no limit."""
        return self.task_runner.most_in_flight if self.task_runner is not None else None

    @property
    def max_retries(self) -> int:
        """How many run attempts may follow the first."""
        return settings.current().flows_default_retries if self.retries is None else self.retries

    @property
    def retry_delay(self) -> float | tuple[float, ...] | Callable[[int], Any]:
        """The pause before a further run attempt."""
        given = self.retry_delay_seconds
        return settings.current().flows_default_retry_delay_seconds if given is None else given


_Spec = TypeVar("_Spec", TaskSpec, FlowSpec)

#: Begins the path of a Celery task that is found by its name in the app's registry. No module is called so.
CELERY_TASK = "celery-task:"


def overridden(spec: _Spec, fields: Mapping[str, Any]) -> _Spec:
    """The spec with other values in these fields, which it remembers as its overrides."""
    return replace(spec, **fields, overrides={**spec.overrides, **fields}) if fields else spec


#: The versions that flows of this process were declared with; not held with the flows, as code is never unloaded.
_versions: set[str] = set()


def declare_version(version: str) -> None:
    """Note that the code of this process has a flow in this version."""
    _versions.add(version)


def declared_versions() -> list[str]:
    """The versions that the code of this process has flows in, sorted."""
    return sorted(_versions)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a task: its arguments and what goes with them."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    wait_for: tuple[Any, ...] = ()


_FLAGS = ("log_prints", "persist_result", "validate_parameters", "refresh_cache", "static")
#: Options that are said by a value of one kind, and how a message calls that. None says nothing.
_KINDS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(_FLAGS, (bool, "True or False")),
    "queue": (str, "the name of a Celery queue"),
    "priority": (int, "a whole number"),
}


def given_options(options: Mapping[str, Any], kind: type[TaskSpec | FlowSpec], what: str) -> dict[str, Any]:
    """The options that say something: None leaves one as it is where it is no value of that option's.

    Raises:
        DefinitionError: One is of a wrong kind.
    """
    empty = {each.name for each in fields(kind) if each.default is None} - {"retries", "retry_delay_seconds"}
    given = {name: value for name, value in options.items() if value is not None or name in empty}
    if not isinstance(given.get("name", ""), str):
        raise DefinitionError(f"name= of a {what} is a text, not {given['name']!r}")
    retries = given.get("retries", 0)
    if not isinstance(retries, int) or retries < 0:
        raise DefinitionError(f"retries= of a {what} is a number from 0, not {retries!r}")
    for name in _KINDS.keys() & given.keys():
        kind_of, called = _KINDS[name]
        if not isinstance(given[name], kind_of | None):
            raise DefinitionError(f"{name}= of a {what} is {called}, not {given[name]!r}")
    condition = given.get("retry_condition_fn")
    if not (condition is None or callable(condition)):
        raise DefinitionError(f"retry_condition_fn= of a {what} is something to call, not {condition!r}")
    for name in ("flow_run_name", "task_run_name"):
        option = given.get(name)
        if not (option is None or callable(option) or isinstance(option, str)):
            raise DefinitionError(f"{name}= of a {what} is a text, or something to call, not {option!r}")
    return given


def storage_option(given: Any) -> str:
    """What `result_storage=` means: a folder, with `~` left as it is, or a URL.

    Raises:
        DefinitionError: It is neither, or a URL but for a slash.
    """
    try:
        named = os.fspath(given)
    except TypeError:
        named = None
    if not isinstance(named, str) or not named.strip():
        raise DefinitionError(
            f"result_storage= takes a folder (a path) or a URL such as s3://bucket/results, not {given!r}"
        )
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:/(?!/)", named):
        raise DefinitionError(f"result_storage={given!r} would be a folder of that name: a URL has :// in it")
    return named


def is_celery_task(value: Any) -> bool:
    """Whether it is a task of a Celery app, or one of Celery's proxies, which are not looked into here.

    Loads nothing: whoever has such a task has loaded Celery.
    """
    proxies, tasks = sys.modules.get("celery.local"), sys.modules.get("celery.app.task")
    if proxies is not None and issubclass(type(value), proxies.Proxy):
        return True
    return tasks is not None and issubclass(type(value), tasks.Task)


def path_of(fn: Callable[..., Any]) -> str:
    """`module:qualname` of a function or callable object."""
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    return f"{named.__module__}:{named.__qualname__}"


def require_importable(path: str, what: str) -> None:
    """Check that another process can import what stands at `path`.

    Args:
        what: "flow" or "task".

    Raises:
        NotImportable: It lives in `__main__`, in a function or is a lambda, or something else has its name; says where
            to put it.
    """
    if path.startswith(CELERY_TASK):
        return
    module, _, qualname = path.partition(":")
    if module == "__main__":
        where = "`__main__` (a script or notebook)"
    elif qualname.startswith("<") and qualname != "<lambda>":
        where = "no variable of a module"
    elif "<" in qualname:
        where = "a function or a lambda"
    else:
        _require_spec(module, qualname, what)
        return
    raise NotImportable(
        f"{what} {qualname!r} lives in {where}, where a worker cannot import it: put it at the top level of a module "
        "(say flows.py), import it from there, and name that module in ORCHESTRA_FLOWS"
    )


def _require_spec(module: str, qualname: str, what: str) -> None:
    if sys.modules.get(module) is None:
        return
    found = lazy.loaded(f"{module}:{qualname}")
    if what == "task" and is_celery_task(found):
        return
    kind = FlowSpec if what == "flow" else TaskSpec
    if not isinstance(getattr(found, "spec", None), kind):
        raise NotImportable(
            f"a worker looks for {what} {qualname!r} under that name in the module {module!r}, and finds "
            f"{'nothing' if found is None else f'a {type(found).__name__}'} there: decorate the function itself with "
            f"@{what}, or keep the {what} in a variable at the top level of the module that makes it"
        )
