"""`@flow`: what a decorated function becomes."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypedDict, TypeVar, Unpack, overload

from orchestra import clock, lazy, names
from orchestra.context import current_runner
from orchestra.engine.parameters import bind, bind_named, signature
from orchestra.errors import DefinitionError, ReservedArgumentError
from orchestra.retries import delay_option
from orchestra.runners.base import Runner
from orchestra.specs import FlowSpec, given_options, is_celery_task, overridden, path_of, require_importable
from orchestra.states import State
from orchestra.task_runners import ThreadPoolTaskRunner

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R", covariant=True)
S = TypeVar("S")
T = TypeVar("T")


class FlowOptions(TypedDict, total=False):
    """The options of `@flow`. Durations are in seconds, or timedeltas."""

    #: Default: the function's name, with `-` for `_`.
    name: str
    #: Default: the function's docstring.
    description: str
    #: Pins runs to workers that have this version.
    version: str | None
    #: A template of the parameters, `"load-{day}"`, or a function.
    flow_run_name: str | Callable[..., str] | None
    #: How many times the whole function may run again after it failed; what has ended well is not run again.
    retries: int
    #: A number; a list, whose last value repeats; or a function of the number of the retry.
    retry_delay_seconds: float | timedelta | Sequence[float | timedelta] | Callable[[int], Any] | None
    timeout_seconds: float | timedelta | None
    #: Whether parameters are made to fit their annotations.
    validate_parameters: bool
    #: Prints become log lines, in the flow and its tasks.
    log_prints: bool | None
    #: Who runs submitted tasks in this process.
    task_runner: ThreadPoolTaskRunner | None
    #: The Celery queue its runs go to; None: as Celery routes them.
    queue: str | None
    #: The priority of its Celery messages.
    priority: int | None
    #: Send the whole flow as one Celery canvas.
    static: bool


class Flow(Generic[P, R]):
    """A function whose calls are runs: recorded, retried, and on Celery carried on by any worker."""

    def __init__(self, fn: Callable[P, R], **options: Unpack[FlowOptions]) -> None:
        """Make a flow of `fn`; `FlowOptions` says what can be set.

        Raises:
            DefinitionError: An unknown option, or something that is no function.
            ReservedArgumentError: A parameter of `fn` has a name that a call keeps for itself.
        """
        self._adopt(_spec(fn, options))

    @property
    def fn(self) -> Callable[P, R]:
        """The function itself, which runs without orchestra when called."""
        return functools.partial(self.spec.fn, *self._bound) if self._bound else self.spec.fn

    @property
    def name(self) -> str:
        """The flow's name."""
        return self.spec.name

    @overload
    def __call__(
        self: Flow[Q, Coroutine[Any, Any, T]], *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> Coroutine[Any, Any, State[T]]: ...
    @overload
    def __call__(self, *args: Any, return_state: Literal[True], **kwargs: Any) -> State[R]: ...
    @overload
    def __call__(self, *args: Any, wait_for: Iterable[Any], **kwargs: Any) -> R: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the flow now and give its value; a coroutine function's is awaited. Inside a flow: as a child run.

        Args:
            return_state: Give the final State, and raise nothing.
            wait_for: Futures that must have succeeded before it runs.

        Raises:
            ParameterBindError: The arguments do not fit the signature.
            ParameterTypeError: A value does not fit its annotation; the run has failed.
            Exception: What the function raised, when no retry is left.
        """
        return_state, wait_for = kwargs.pop("return_state", False), kwargs.pop("wait_for", None)
        parameters = bind(self.spec.fn, (*self._bound, *args), kwargs)
        runner: Runner = current_runner() or lazy.load("local_runner")()
        waited_for = () if wait_for is None else tuple(wait_for)
        if self._is_async:
            return _awaited(runner, self.spec, parameters, waited_for, return_state)
        state = runner.call_flow(self.spec, parameters, waited_for)
        return state if return_state else state.result()

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Start a run on a Celery worker, and give its handle at once.

        Raises:
            NotImportable: A worker could not import this flow.
            NoBroker: There is nothing to send it through.
        """
        return self.apply_async(args, dict(kwargs))

    def apply_async(
        self,
        args: Iterable[Any] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        queue: str | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """As `delay`, with options.

        Args:
            args: Positional arguments.
            kwargs: Arguments by name.
            queue: The Celery queue; None: the decorator's, else as Celery routes the flow.
            countdown: Seconds until the run may start.
            eta: When it may start; a naive time is read as UTC.
            priority: Of its Celery messages.
            idempotency_key: The same key gives the same run again, whatever its state.

        Raises:
            NotImportable: A worker could not import this flow.
            NoBroker: There is nothing to send it through.
            IdempotencyConflict: The key was used with other parameters.
        """
        require_importable(self.spec.path, "flow")
        parameters = bind(self.spec.fn, (*self._bound, *args), kwargs or {})
        return lazy.load("submit_flow_run")(
            self.spec,
            parameters,
            queue=queue,
            countdown=countdown,
            eta=eta,
            priority=priority,
            idempotency_key=idempotency_key,
        )

    def canvas(self, **parameters: Any) -> Any:
        """The whole flow as a native Celery canvas; traces the body, so it is called with placeholders."""
        return lazy.load("flow_canvas")(self.spec, bind_named(self.spec.fn, parameters))

    def with_options(self, **options: Unpack[FlowOptions]) -> Flow[P, R]:
        """A copy of this flow with other options; those not named stay."""
        made = copy.copy(self)
        made._adopt(overridden(self.spec, _fields(options)))
        return made

    @overload
    def __get__(self, instance: None, owner: type) -> Flow[P, R]: ...
    @overload
    def __get__(self: Flow[Concatenate[S, Q], R], instance: S, owner: type) -> Flow[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        bound = copy.copy(self)
        bound._bound = (instance, *self._bound)
        return bound

    def __repr__(self) -> str:
        return f"<flow {self.spec.name!r} at {self.spec.path}>"

    def _adopt(self, spec: FlowSpec) -> None:
        functools.update_wrapper(self, spec.fn, updated=())
        self.spec = spec
        self._is_async = spec.is_async
        self._bound: tuple[Any, ...] = getattr(self, "_bound", ())


@overload
def flow(fn: Callable[P, R], /) -> Flow[P, R]: ...
@overload
def flow(**options: Unpack[FlowOptions]) -> Callable[[Callable[P, R]], Flow[P, R]]: ...
def flow(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a flow of a function: `@flow`, or `@flow(retries=1, …)`; `FlowOptions` says what can be set."""
    if fn is None:
        return lambda fn: Flow(fn, **options)
    return Flow(fn, **options)


async def _awaited(
    runner: Runner, spec: FlowSpec, parameters: dict[str, Any], wait_for: tuple[Any, ...], return_state: bool
) -> Any:
    state = await runner.call_flow_async(spec, parameters, wait_for)
    return state if return_state else state.result()


def _spec(fn: Callable[..., Any], options: FlowOptions) -> FlowSpec:
    if isinstance(fn, Flow):
        raise DefinitionError(f"{fn!r} is a flow already; use .with_options(...) for a copy with other options")
    if isinstance(fn, (staticmethod, classmethod)):
        raise DefinitionError("put @staticmethod or @classmethod above @flow, not below it")
    if is_celery_task(fn):
        raise DefinitionError(
            "@flow takes a function, not a task of a Celery app: make a task of that, step = task(it), and call it in "
            "a flow"
        )
    if not callable(fn):
        raise DefinitionError(f"@flow takes a function, not {fn!r}; options go by name: @flow(retries=3)")
    if reserved := {"wait_for", "return_state"} & set(signature(fn).parameters):
        raise ReservedArgumentError(
            f"flow function {fn!r} has a parameter named {min(reserved)!r}, which calls of a flow keep for themselves; "
            "rename it"
        )
    fields = _fields(options)
    fields.setdefault("name", names.flow_name(getattr(fn, "__name__", type(fn).__name__)))
    fields.setdefault("description", inspect.getdoc(fn) or "")
    path = path_of(fn)
    return FlowSpec(fn=fn, path=path, entrypoint=_entrypoint(fn, path), **fields)


def _entrypoint(fn: Callable[..., Any], path: str) -> str | None:
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return f"{code.co_filename}:{path.partition(':')[2]}" if code is not None else None


def _fields(options: FlowOptions) -> dict[str, Any]:
    """The options as fields of a spec."""
    if unknown := sorted(set(options) - FlowOptions.__annotations__.keys()):
        known = ", ".join(sorted(FlowOptions.__annotations__))
        raise DefinitionError(f"a flow has no option {', '.join(map(repr, unknown))}; it has {known}")
    fields = given_options(options, FlowSpec, "flow")
    if fields.get("timeout_seconds") is not None:
        fields["timeout_seconds"] = clock.seconds(fields["timeout_seconds"])
    if "retry_delay_seconds" in fields:
        fields["retry_delay_seconds"] = delay_option(fields["retry_delay_seconds"])
    if "task_runner" in fields:
        runner = fields.pop("task_runner")
        fields["max_workers"] = None if runner is None else runner.max_workers
    return fields
