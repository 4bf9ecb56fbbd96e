"""`@task`: what a decorated function becomes."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypedDict, TypeVar, Unpack, overload

from orchestra import callables, lazy
from orchestra.annotations import allow_failure, opaque, quote, unmapped
from orchestra.cache_policies import CacheKeyExplanation, CachePolicy, NoCache
from orchestra.cache_policies import task_input_hash as task_input_hash
from orchestra.canvas_members import CanvasMember
from orchestra.context import current_runner, flow_run_context, task_run_context
from orchestra.decorated import Decorated, Option, items_in, items_of, require_function, spec_fields, waited_for
from orchestra.engine.parameters import bind, signature
from orchestra.errors import DefinitionError, MappingLengthMismatch, MappingMissingIterable, MissingContextError
from orchestra.futures import Future, FutureList
from orchestra.hooks import HookOption, TransactionHooks, hook_options
from orchestra.retries import exponential_backoff as exponential_backoff
from orchestra.runners.base import Runner
from orchestra.specs import Call, TaskSpec, is_celery_task, overridden
from orchestra.states import State

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R", covariant=True)
S = TypeVar("S")
T = TypeVar("T")

#: What `wait_for=` takes.
WaitFor = Future[Any] | State[Any] | Iterable[Any] | None
#: What a generator function gives.
Items = Generator[T, Any, Any] | AsyncGenerator[T, Any]


class TaskOptions(TypedDict, total=False):
    """The options of `@task`. Durations are in seconds, or timedeltas."""

    #: Default: the function's name.
    name: str
    #: Default: the function's docstring.
    description: str
    #: Says which code this is; shown, and nothing else.
    version: str | None
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
    #: True: the result is kept also where the flow runs in this process; None: as the flow says.
    #: On a worker it always is; False: it is not journaled, and a replay runs a direct call again.
    persist_result: bool | None
    #: Where results are kept, however small: a folder, or any URL of fsspec. None: as the flow and the settings say.
    result_storage: str | os.PathLike[str] | None
    #: The name of a file there, say `"out-{parameters[x]}.json"`: a call whose file is there is answered by it.
    result_storage_key: str | None
    #: "auto", "json", "pickle", one of these after "compressed/", or a class with `dumps` and `loads`.
    result_serializer: Any
    #: False: where a result is kept, no future holds its value; it is read again each time it is asked for.
    cache_result_in_memory: bool
    #: What `flow.visualize()` takes for its value.
    viz_return_value: Any
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
    #: By what calls are recognised, so that a result is used again: `orchestra.cache_policies`. None: not at all.
    cache_policy: CachePolicy | None
    #: Gives a call's key, or None for no caching, from `(context, parameters)`; goes before `cache_policy`.
    cache_key_fn: Callable[[Any, dict[str, Any]], str | None] | None
    #: For how long a result is used; None: for ever.
    cache_expiration: float | timedelta | None
    #: True: each call computes anew, and replaces what is kept.
    refresh_cache: bool | None
    #: Called with the transaction in which a run of it ended well, when that is rolled back, or committed.
    on_rollback: HookOption
    on_commit: HookOption
    #: Prefect's; not there yet, and refused.
    asset_deps: Any


#: What of a task is not there before a Celery task is looked into.
_LATE = frozenset({"_spec", "_fn", "_is_async", "_placed", "__name__", "__qualname__", "__wrapped__"})


class Task(Decorated[P, R, TaskSpec], TransactionHooks, CanvasMember):
    """A function that orchestra runs, tries again, and keeps the history of."""

    kind = "task"
    tags = Option()
    task_run_name = Option()
    task_key = Option()
    cache_policy = Option()
    cache_expiration = Option()
    refresh_cache = Option()

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
            self._mark, self._bound, self._yields, self._is_copy = object(), (), False, True
        else:
            self._declare(fn, _spec(callables.below(fn), options))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """What an adopted Celery task has from its first use on."""
            origin = self.__dict__.get("_origin")
            if origin is None or name not in _LATE:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            spec = lazy.load("celery_task_spec")(*origin)
            self._fn = spec.fn
            self._adopt(spec)
            return getattr(self, name)

    @property
    def celery_task(self) -> Any:
        """The task of a Celery app that this one was made of; None where it was made of a function."""
        origin = self.__dict__.get("_origin")
        return None if origin is None else origin[0]

    def _place(self) -> None:
        if self.celery_task is None:
            super()._place()
        else:
            # It is found where the Celery task is.
            self._placed = True

    @overload
    def __call__(
        self: Task[Q, Coroutine[Any, Any, T]], *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> Coroutine[Any, Any, State[T]]: ...
    @overload
    def __call__(
        self: Task[Q, Generator[T, Any, Any]], *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> State[list[T]]: ...
    @overload
    def __call__(
        self: Task[Q, AsyncGenerator[T, Any]], *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> Coroutine[Any, Any, State[list[T]]]: ...
    @overload
    def __call__(self, *args: Any, return_state: Literal[True], **kwargs: Any) -> State[R]: ...
    @overload
    def __call__(self, *args: Any, wait_for: WaitFor, **kwargs: Any) -> R: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task now and give its value; a coroutine function's is awaited.

        A generator function is run to its end, and its items are given as an iterator.

        Args:
            return_state: Give the final State, and raise nothing.
            wait_for: Futures, or one, that must have succeeded before it runs.

        Raises:
            ParameterBindError: The arguments do not fit the signature.
            UpstreamFailed: A future among the arguments or in `wait_for` did not succeed.
            Exception: What the function raised, when no retry is left.
        """
        return_state, wait_for = kwargs.pop("return_state", False), kwargs.pop("wait_for", None)
        call, runner = self._call(args, kwargs, wait_for), _runner()
        if self._is_async:
            if self._yields and not return_state:
                return items_of(lambda: _awaited(runner, self.spec, call, False))
            return _awaited(runner, self.spec, call, return_state)
        state = runner.call_task(self.spec, call)
        if return_state:
            return state
        return items_in(state.result()) if self._yields else state.result()

    @overload
    def submit(
        self: Task[Q, Coroutine[Any, Any, T]],
        *args: Any,
        wait_for: WaitFor = None,
        return_state: Literal[True],
        **kwargs: Any,
    ) -> State[T]: ...
    @overload
    def submit(
        self: Task[Q, Items[T]], *args: Any, wait_for: WaitFor = None, return_state: Literal[True], **kwargs: Any
    ) -> State[list[T]]: ...
    @overload
    def submit(
        self: Task[Q, T], *args: Any, wait_for: WaitFor = None, return_state: Literal[True], **kwargs: Any
    ) -> State[T]: ...
    @overload
    def submit(
        self: Task[Q, Coroutine[Any, Any, T]], *args: Any, wait_for: WaitFor = None, **kwargs: Any
    ) -> Future[T]: ...
    @overload
    def submit(self: Task[Q, Items[T]], *args: Any, wait_for: WaitFor = None, **kwargs: Any) -> Future[list[T]]: ...
    @overload
    def submit(self: Task[Q, T], *args: Any, wait_for: WaitFor = None, **kwargs: Any) -> Future[T]: ...
    def submit(self, *args: Any, wait_for: WaitFor = None, return_state: bool = False, **kwargs: Any) -> Any:
        """Have the task run beside the flow, and give its future at once.

        Futures among the arguments become their values before it runs; it does not run if one of them failed, unless
        that is wrapped in `allow_failure`. The items of a generator function are its value, as a list.

        Args:
            wait_for: Futures, or one, that must have succeeded before it runs.
            return_state: Wait for its end, and give the final State.

        Raises:
            MissingContextError: Outside of a flow.
            ParameterBindError: The arguments do not fit the signature.
        """
        call = self._call(args, kwargs, wait_for)
        future = self._submitter().submit_task(self.spec, call)
        return _final_states([future])[0] if return_state else future

    @overload
    def map(self, *args: Any, wait_for: WaitFor = None, deferred: Literal[True], **kwargs: Any) -> Any: ...
    @overload
    def map(
        self: Task[Q, Coroutine[Any, Any, T]],
        *args: Any,
        wait_for: WaitFor = None,
        return_state: Literal[True],
        **kwargs: Any,
    ) -> list[State[T]]: ...
    @overload
    def map(
        self: Task[Q, Items[T]], *args: Any, wait_for: WaitFor = None, return_state: Literal[True], **kwargs: Any
    ) -> list[State[list[T]]]: ...
    @overload
    def map(
        self: Task[Q, T], *args: Any, wait_for: WaitFor = None, return_state: Literal[True], **kwargs: Any
    ) -> list[State[T]]: ...
    @overload
    def map(
        self: Task[Q, Coroutine[Any, Any, T]], *args: Any, wait_for: WaitFor = None, **kwargs: Any
    ) -> FutureList[T]: ...
    @overload
    def map(self: Task[Q, Items[T]], *args: Any, wait_for: WaitFor = None, **kwargs: Any) -> FutureList[list[T]]: ...
    @overload
    def map(self: Task[Q, T], *args: Any, wait_for: WaitFor = None, **kwargs: Any) -> FutureList[T]: ...
    def map(
        self,
        *args: Any,
        wait_for: WaitFor = None,
        return_state: bool = False,
        deferred: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Submit the task once for each element of its iterable arguments, which go side by side.

        Strings, mappings and what is wrapped in `unmapped` go whole to every call. A future of a list is waited for.

        Args:
            wait_for: Futures, or one, that must have succeeded before any of them runs.
            return_state: Wait for their ends, and give the list of their final States.
            deferred: Run them in the background on Celery workers, as `delay` does, also outside of a flow; gives their
                handles, as a list that has `wait` and `result`, too.

        Raises:
            MappingLengthMismatch: The iterables have different lengths.
            MappingMissingIterable: There is none.
            MissingContextError: Outside of a flow.
        """
        if deferred:
            rows = list(_rows(args, kwargs, self._given_name))
            return lazy.load("handle_list")([self.apply_async(*row, wait_for=waited_for(wait_for)) for row in rows])
        runner, upstreams = self._submitter(), waited_for(wait_for)
        calls = [self._call(*row, upstreams) for row in _rows(args, kwargs, self._given_name)]
        futures = FutureList([runner.submit_task(self.spec, call) for call in calls])
        return _final_states(futures) if return_state else futures

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run the task on a Celery worker, outside of any flow, and give its handle at once.

        Raises:
            NotImportable: A worker could not import this task.
            NoBroker: There is nothing to send it through.
        """
        return self.apply_async(args, dict(kwargs))

    def apply_async(
        self,
        args: Iterable[Any] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        wait_for: WaitFor = None,
        queue: str | None = None,
        countdown: float | timedelta | None = None,
        eta: datetime | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """As `delay`, with options. In a flow's body it is a step: a replay starts no second run.

        Args:
            args: Positional arguments.
            kwargs: Arguments by name.
            wait_for: Futures and handles that must have succeeded; they, and futures among the arguments, are waited
                for here, before the run is made.
            queue: The Celery queue; None: the decorator's, else as Celery routes the task.
            countdown: Seconds until it may start.
            eta: When it may start; a naive time is read as UTC.
            priority: Of its Celery messages.
            idempotency_key: The same key gives the same run again, whatever its state.

        Raises:
            NotImportable: A worker could not import this task.
            NoBroker: There is nothing to send it through.
            ParameterBindError: The arguments do not fit the signature.
            UpstreamFailed: What it was to wait for did not succeed.
            IdempotencyConflict: The key was used with other arguments.
        """
        return lazy.load("submit_task_run")(
            self.spec,
            self._call(tuple(args), kwargs or {}, wait_for),
            queue=queue,
            countdown=countdown,
            eta=eta,
            priority=priority,
            idempotency_key=idempotency_key,
        )

    def explain_cache_key(self, *args: P.args, **kwargs: P.kwargs) -> CacheKeyExplanation:
        """What goes into the cache key of this call, or why there is none; print it. Nothing is run.

        In a flow's body it is told of a call made there; elsewhere, of one outside of any flow.

        Raises:
            ParameterBindError: The arguments do not fit the signature.
        """
        found: CacheKeyExplanation = lazy.load("explain_cache_key")(self.spec, (*self._bound, *args), dict(kwargs))
        return found

    def serve(self, *, limit: int | None = 10) -> None:
        """Run a Celery worker for background runs of this task, in this process, until it is stopped.

        Args:
            limit: How many run at once; None: as many as there are CPUs.

        Raises:
            NoBroker: There is neither an app nor a broker to receive from.
        """
        lazy.load("serve_tasks")([self.spec], limit=limit)

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
        return self._of(instance, owner)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any], wait_for: WaitFor) -> Call:
        args = (*self._bound, *args)
        bind(self.spec.fn, args, kwargs)
        return Call(args, kwargs, waited_for(wait_for))

    def _given_name(self, position: int) -> str:
        """The name of the parameter that gets the argument at this position."""
        names = list(signature(self._spec.fn).parameters)[len(self._bound) :]
        return names[position] if position < len(names) else str(position)

    def _submitter(self) -> Runner:
        if flow_run_context.get() is None and task_run_context.get() is None:
            raise MissingContextError(
                f"task {self.name!r} can be submitted inside a flow only; call it directly, run it in the background "
                "by .delay(), or put the call into a flow"
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


def _final_states(futures: Sequence[Future[Any]]) -> list[State[Any]]:
    if futures:
        futures[0].waiter.wait(futures, None)
    return [future.final_state() for future in futures]


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
    fields.setdefault("name", callables.name_of(fn))
    fields.setdefault("description", callables.doc_of(fn))
    path = callables.path_of(fn, callables.declaring_module())
    return TaskSpec(fn=callables.engine_form(fn), path=path, **fields)


def _fields(options: TaskOptions) -> dict[str, Any]:
    """The options as fields of a spec."""
    fields = spec_fields(options, TaskOptions.__annotations__, TaskSpec)
    if "tags" in fields:
        fields["tags"] = _tags(fields["tags"])
    hook_options(fields, "task")
    _cache_options(fields, options.get("cache_expiration"))
    return fields


def _tags(given: Any) -> frozenset[str]:
    # A text alone would be taken for its letters.
    tags = None if isinstance(given, str) or not isinstance(given, Iterable) else frozenset(given)
    if tags is None or not all(isinstance(tag, str) for tag in tags):
        raise DefinitionError(f"tags= of a task are texts in a list, tags=['daily', 'eu'], not {given!r}")
    return tags


def _cache_options(fields: dict[str, Any], expiration: Any) -> None:
    """Check the options of caching; a function that gives keys becomes a policy."""
    key_fn, policy = fields.pop("cache_key_fn", None), fields.get("cache_policy")
    if not (policy is None or isinstance(policy, CachePolicy)):
        raise DefinitionError(
            f"cache_policy= of a task takes a policy, such as orchestra.cache_policies.INPUTS, not {policy!r}"
        )
    if key_fn is not None:
        if not callable(key_fn) or callables.is_async(key_fn):
            raise DefinitionError(f"cache_key_fn= of a task takes a plain function, not {key_fn!r}")
        fields["cache_policy"] = CachePolicy.from_cache_key_fn(key_fn)
    if expiration is not None and not expiration:
        raise DefinitionError("cache_expiration= of a task is a time above 0; to keep nothing, leave its policy out")
    if fields.get("persist_result") is False and not isinstance(fields.get("cache_policy"), NoCache | None):
        raise DefinitionError(
            "a task with persist_result=False keeps no result, so none can be used again: leave out either that, or "
            "cache_policy and cache_key_fn"
        )


# -- mapping -----------------------------------------------------------------------------------------------------


def _rows(
    args: tuple[Any, ...], kwargs: dict[str, Any], name_at: Callable[[int], str]
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments of each call of a map.

    Args:
        name_at: The name of the parameter at a position, for errors.
    """
    given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
    columns = {name: _elements(value) for name, value in given.items() if _is_mapped(value)}
    if not columns:
        raise MappingMissingIterable(
            "none of the arguments of .map() is iterable; give a list, or call the task with .submit()"
        )
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = {name_at(name) if isinstance(name, int) else name: length for name, length in lengths.items()}
        raise MappingLengthMismatch(
            f"the iterables given to .map() have different lengths: {shown}; wrap what is to go whole in unmapped()"
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
    if isinstance(value, (str, bytes, bytearray, dict, unmapped, quote, opaque)):
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
