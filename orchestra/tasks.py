"""`@task`: what a decorated function becomes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypedDict, TypeVar, Unpack, overload

from orchestra import lazy
from orchestra.annotations import allow_failure, quote, unmapped
from orchestra.context import current_runner, flow_run_context, task_run_context
from orchestra.decorated import Decorated, require_function, spec_fields, waited_for
from orchestra.engine.parameters import bind
from orchestra.errors import MappingLengthMismatch, MappingMissingIterable, MissingContextError
from orchestra.futures import Future, FutureList
from orchestra.hooks import HookOption, TaskHooks, hook_options
from orchestra.retries import exponential_backoff as exponential_backoff
from orchestra.runners.base import Runner
from orchestra.specs import Call, TaskSpec, is_celery_task, overridden, path_of
from orchestra.states import State
from orchestra.unbuilt import absent

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R", covariant=True)
S = TypeVar("S")
T = TypeVar("T")


class TaskOptions(TypedDict, total=False):
    """The options of `@task`. Durations are in seconds, or timedeltas."""

    #: Default: the function's name.
    name: str
    #: Default: the function's docstring.
    description: str
    tags: Iterable[str]
    #: How many tries may follow a failed one.
    retries: int
    #: A number; a list, whose last value repeats; or a function of the number of the retry.
    retry_delay_seconds: float | timedelta | Sequence[float | timedelta] | Callable[[int], Any] | None
    #: Spread of the delay, as a part of it.
    retry_jitter_factor: float | None
    #: Asked `(task, task_run, state)` after a failed try; false: no further one.
    retry_condition_fn: Callable[..., Any] | None
    timeout_seconds: float | timedelta | None
    #: Prints become log lines; None: as in the flow.
    log_prints: bool | None
    #: A template of the parameters, `"load-{day}"`, or a function.
    task_run_name: str | Callable[..., str] | None
    #: On a worker, False: the result is not journaled, and a replay runs a direct call again.
    persist_result: bool | None
    #: The Celery queue it runs on; None: its flow's.
    queue: str | None
    #: The priority of its Celery messages.
    priority: int | None
    #: How long a worker's claim on it holds unless renewed.
    lease_seconds: float | timedelta | None
    #: Hooks, called with `(task, task_run, state)` when it has ended so, no retry being left: one, or several.
    on_completion: HookOption
    on_failure: HookOption
    #: Called at the start of each try.
    on_running: HookOption


#: What of a task stands in its spec, and so is not there before a Celery task is looked into.
_LATE = frozenset({"spec", "_is_async", "__name__", "__qualname__", "__wrapped__"})


class Task(Decorated[P, R], TaskHooks):
    """A function that orchestra runs, tries again, and keeps the history of."""

    kind = "task"
    spec: TaskSpec

    def __init__(self, fn: Callable[P, R], **options: Unpack[TaskOptions]) -> None:
        """Make a task of `fn`; `TaskOptions` says what can be set.

        Args:
            fn: A function, or a task of a Celery app, whose own options hold where none is given here.
            options: See `TaskOptions`.

        Raises:
            DefinitionError: An unknown option, or something that is no function.
            ReservedArgumentError: A parameter of `fn` has a name that a call keeps for itself.
        """
        if is_celery_task(fn):
            # Not looked into before it is used: its app may have no configuration yet.
            self._origin = fn, _fields(options)
            self._bound, self._is_copy = (), True
        else:
            self._adopt(_spec(fn, options))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """What an adopted Celery task has from its first use on."""
            origin = self.__dict__.get("_origin")
            if origin is None or name not in _LATE:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self._adopt(lazy.load("celery_task_spec")(*origin))
            return getattr(self, name)

    @property
    def celery_task(self) -> Any:
        """The task of a Celery app that this one was made of; None where it was made of a function."""
        origin = self.__dict__.get("_origin")
        return None if origin is None else origin[0]

    @overload
    def __call__(
        self: Task[Q, Coroutine[Any, Any, T]], *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> Coroutine[Any, Any, State[T]]: ...
    @overload
    def __call__(self, *args: Any, return_state: Literal[True], **kwargs: Any) -> State[R]: ...
    @overload
    def __call__(self, *args: Any, wait_for: Iterable[Any], **kwargs: Any) -> R: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task now and give its value; a coroutine function's is awaited.

        Args:
            return_state: Give the final State, and raise nothing.
            wait_for: Futures that must have succeeded before it runs.

        Raises:
            ParameterBindError: The arguments do not fit the signature.
            UpstreamFailed: A future among the arguments or in `wait_for` did not succeed.
            Exception: What the function raised, when no retry is left.
        """
        return_state, wait_for = kwargs.pop("return_state", False), kwargs.pop("wait_for", None)
        call, runner = self._call(args, kwargs, wait_for), _runner()
        if self._is_async:
            return _awaited(runner, self.spec, call, return_state)
        state = runner.call_task(self.spec, call)
        return state if return_state else state.result()

    @overload
    def submit(
        self: Task[Q, Coroutine[Any, Any, T]], *args: Any, wait_for: Iterable[Any] | None = None, **kwargs: Any
    ) -> Future[T]: ...
    @overload
    def submit(self: Task[Q, T], *args: Any, wait_for: Iterable[Any] | None = None, **kwargs: Any) -> Future[T]: ...
    def submit(self, *args: Any, wait_for: Iterable[Any] | None = None, **kwargs: Any) -> Any:
        """Have the task run beside the flow, and give its future at once.

        Futures among the arguments become their values before it runs; it does not run if one of them failed, unless
        that is wrapped in `allow_failure`.

        Raises:
            MissingContextError: Outside of a flow.
            ParameterBindError: The arguments do not fit the signature.
        """
        call = self._call(args, kwargs, wait_for)
        return self._submitter().submit_task(self.spec, call)

    @overload
    def map(
        self: Task[Q, Coroutine[Any, Any, T]], *args: Any, wait_for: Iterable[Any] | None = None, **kwargs: Any
    ) -> FutureList[T]: ...
    @overload
    def map(self: Task[Q, T], *args: Any, wait_for: Iterable[Any] | None = None, **kwargs: Any) -> FutureList[T]: ...
    def map(self, *args: Any, wait_for: Iterable[Any] | None = None, **kwargs: Any) -> Any:
        """Submit the task once for each element of its iterable arguments, which go side by side.

        Strings, mappings and what is wrapped in `unmapped` go whole to every call. A future of a list is waited for.

        Raises:
            MappingLengthMismatch: The iterables have different lengths.
            MappingMissingIterable: There is none.
            MissingContextError: Outside of a flow.
        """
        runner, upstreams = self._submitter(), waited_for(wait_for)
        calls = [self._call(*row, upstreams) for row in _rows(args, kwargs)]
        return FutureList([runner.submit_task(self.spec, call) for call in calls])

    def with_options(self, **options: Unpack[TaskOptions]) -> Task[P, R]:
        """A copy of this task with other options; those not named stay."""
        made = self.having(overridden(self.spec, _fields(options)))
        made._is_copy = True
        return made

    @overload
    def __get__(self, instance: None, owner: type) -> Task[P, R]: ...
    @overload
    def __get__(self: Task[Concatenate[S, Q], R], instance: S, owner: type) -> Task[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else self._bind(instance)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any], wait_for: Iterable[Any] | None) -> Call:
        args = (*self._bound, *args)
        bind(self.spec.fn, args, kwargs)
        return Call(args, kwargs, waited_for(wait_for))

    def _submitter(self) -> Runner:
        if flow_run_context.get() is None and task_run_context.get() is None:
            raise MissingContextError(
                f"task {self.name!r} can be submitted inside a flow only; call it directly, or put the call into a flow"
            )
        return _runner()


@overload
def task(fn: Callable[P, R], /, **options: Unpack[TaskOptions]) -> Task[P, R]: ...
@overload
def task(**options: Unpack[TaskOptions]) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a task of a function: `@task`, or `@task(retries=3, …)`; `TaskOptions` says what can be set.

    A task of a Celery app becomes one, too: `task(existing)`, or `task(existing, retries=3)`.
    """
    if fn is None:
        return lambda fn: Task(fn, **options)
    return Task(fn, **options)


async def _awaited(runner: Runner, spec: TaskSpec, call: Call, return_state: bool) -> Any:
    state = await runner.call_task_async(spec, call)
    return state if return_state else state.result()


def _runner() -> Runner:
    if (runner := current_runner()) is not None:
        return runner
    plain: Runner = lazy.load("local_runner")()
    if (task_run := task_run_context.get()) is not None:
        task_run.runner = plain
    return plain


# -- options -----------------------------------------------------------------------------------------------------


def _spec(fn: Callable[..., Any], options: TaskOptions) -> TaskSpec:
    require_function(fn, Task)
    fields = _fields(options)
    fields.setdefault("name", getattr(fn, "__name__", type(fn).__name__))
    fields.setdefault("description", inspect.getdoc(fn) or "")
    return TaskSpec(fn=fn, path=path_of(fn), **fields)


def _fields(options: TaskOptions) -> dict[str, Any]:
    """The options as fields of a spec."""
    fields = spec_fields(options, TaskOptions.__annotations__, TaskSpec)
    if "tags" in fields:
        fields["tags"] = frozenset(fields["tags"] or ())
    hook_options(fields, "task")
    return fields


# -- mapping -----------------------------------------------------------------------------------------------------


def _rows(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments of each call of a map."""
    given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
    columns = {name: _elements(value) for name, value in given.items() if _is_mapped(value)}
    if not columns:
        raise MappingMissingIterable(
            "none of the arguments of .map() is iterable; give a list, or call the task with .submit()"
        )
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise MappingLengthMismatch(
            f"the iterables given to .map() have different lengths: {lengths}; wrap what is to go whole in unmapped()"
        )
    whole = {name: value.value if isinstance(value, unmapped) else value for name, value in given.items()}
    for index in range(next(iter(lengths.values()))):
        row = whole | {name: column[index] for name, column in columns.items()}
        yield tuple(row[position] for position in range(len(args))), {name: row[name] for name in kwargs}


def _is_mapped(value: Any) -> bool:
    if isinstance(value, allow_failure):
        return _is_mapped(value.value)
    if isinstance(value, (Future, State)):
        return True
    if isinstance(value, (str, bytes, bytearray, dict, unmapped, quote)):
        return False
    return hasattr(value, "__iter__")


def _elements(value: Any) -> Sequence[Any]:
    if isinstance(value, allow_failure):
        return [allow_failure(element) for element in _elements(value.value)]
    if isinstance(value, (Future, State)):
        value = value.result()
        if not hasattr(value, "__iter__"):
            raise MappingMissingIterable(f"a future given to .map() has the value {value!r}, which is not iterable")
    return value if isinstance(value, (list, tuple)) else list(value)


__getattr__ = absent(__name__, "caching", "task_input_hash")
