"""`@flow`: what a decorated function becomes."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Concatenate, Literal, ParamSpec, TypedDict, TypeVar, Unpack, overload

from orchestra import callables, lazy, names
from orchestra.canvas_members import CanvasMember
from orchestra.context import current_runner
from orchestra.decorated import Decorated, Option, items_in, items_of, require_function, spec_fields, waited_for
from orchestra.deployment_options import DeploymentOptions
from orchestra.engine.parameters import bind, bind_named, validate
from orchestra.errors import DefinitionError
from orchestra.futures import Future
from orchestra.hooks import FlowHooks, HookOption, hook_options
from orchestra.runners.base import Runner
from orchestra.specs import FlowSpec, declare_version, is_celery_task, overridden, require_importable
from orchestra.states import State
from orchestra.task_runners import TaskRunner, task_runner_option
from orchestra.unbuilt import absent

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
    #: Keep the results of the flow and its tasks also where they run in this process; on workers they always are kept.
    persist_result: bool | None
    #: Where results of it and of its tasks are kept, however small: a folder, or any URL of fsspec. None: as the
    #: settings say.
    result_storage: str | os.PathLike[str] | None
    #: Of it and of its tasks, as of a task.
    result_serializer: Any
    #: As of a task.
    cache_result_in_memory: bool
    #: Who runs submitted tasks: one of `orchestra.task_runners`; None: threads here, Celery on a worker.
    task_runner: TaskRunner | type[TaskRunner] | None
    #: The Celery queue its runs go to; None: as Celery routes them.
    queue: str | None
    #: The priority of its Celery messages.
    priority: int | None
    #: Send the whole flow as one Celery canvas.
    static: bool
    #: Hooks, called with `(flow, flow_run, state)` when a run has come into such a state: one, or several.
    on_completion: HookOption
    on_failure: HookOption
    on_cancellation: HookOption
    on_crashed: HookOption
    #: Called each time the function is started: at first, and for each retry.
    on_running: HookOption


class Flow(Decorated[P, R, FlowSpec], FlowHooks, CanvasMember):
    """A function whose calls are runs: recorded, retried, and on Celery carried on by any worker."""

    kind = "flow"
    flow_run_name = Option()
    task_runner = Option()
    #: Where `from_source` has it from.
    source: Any = None

    def __init__(self, fn: Callable[P, R], **options: Unpack[FlowOptions]) -> None:
        """Make a flow of `fn`; `FlowOptions` says what can be set.

        Raises:
            DefinitionError: An unknown option, or something that is no function.
            ReservedArgumentError: A parameter of `fn` has a name that a call keeps for itself.
        """
        self._declare(fn, _spec(callables.below(fn), options))

    @overload
    def __call__(
        self: Flow[Q, Coroutine[Any, Any, T]], *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> Coroutine[Any, Any, State[T]]: ...
    @overload
    def __call__(
        self: Flow[Q, Generator[T, Any, Any]], *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> State[list[T]]: ...
    @overload
    def __call__(
        self: Flow[Q, AsyncGenerator[T, Any]], *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> Coroutine[Any, Any, State[list[T]]]: ...
    @overload
    def __call__(self, *args: Any, return_state: Literal[True], **kwargs: Any) -> State[R]: ...
    @overload
    def __call__(self, *args: Any, wait_for: Future[Any] | Iterable[Any], **kwargs: Any) -> R: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the flow now and give its value; a coroutine function's is awaited. Inside a flow: as a child run.

        A generator function is run to its end, and its items are given as an iterator.

        Args:
            return_state: Give the final State, and raise nothing.
            wait_for: Futures, or one, that must have succeeded before it runs.

        Raises:
            ParameterBindError: The arguments do not fit the signature.
            ParameterTypeError: A value does not fit its annotation; the run has failed.
            Exception: What the function raised, when no retry is left.
        """
        return_state, wait_for = kwargs.pop("return_state", False), kwargs.pop("wait_for", None)
        parameters = bind(self.spec.fn, (*self._bound, *args), kwargs)
        runner: Runner = current_runner() or lazy.load("local_runner")()
        upstreams = waited_for(wait_for)
        if self._is_async:
            if self._yields and not return_state:
                return items_of(lambda: _awaited(runner, self.spec, parameters, upstreams, False))
            return _awaited(runner, self.spec, parameters, upstreams, return_state)
        state = runner.call_flow(self.spec, parameters, upstreams)
        if return_state:
            return state
        return items_in(state.result()) if self._yields else state.result()

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
        countdown: float | timedelta | None = None,
        eta: datetime | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """As `delay`, with options.

        Args:
            args: Positional arguments.
            kwargs: Arguments by name.
            queue: The Celery queue; None: the decorator's, else as Celery routes the flow.
            countdown: Seconds until the run may start, or a timedelta.
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

    def validate_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters as a run would get them: made to fit their annotations, defaults included.

        Raises:
            SignatureMismatchError: A name is unknown.
            ParameterBindError: One is missing.
            ParameterTypeError: A value does not fit its annotation.
        """
        return validate(self._spec.fn, bind_named(self._spec.fn, parameters))

    def serialize_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters as JSON holds them: a model as a dict, a datetime as text.

        Raises:
            ParameterTypeError: A value has no such form; names its parameter.
        """
        found: dict[str, Any] = lazy.load("serialize_parameters")(parameters)
        return found

    def visualize(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Draw the tasks that a call with these arguments would ask for, and show the picture.

        The body is called with placeholders for results; no task runs. In a notebook the drawing is returned, elsewhere
        it is written to a PNG file, which is opened. `orchestra flow canvas --mermaid` draws without Graphviz.

        Raises:
            GraphvizNotFound: The package `graphviz`, or the program `dot`, is not installed.
            StaticFlowError: The body looks into a result, which is not there before a run.
        """
        return lazy.load("draw_flow")(self.spec, bind(self.spec.fn, (*self._bound, *args), dict(kwargs)))

    def to_deployment(self, name: str, **options: Unpack[DeploymentOptions]) -> Any:
        """A deployment of this flow, for `serve()` or `deploy()`; `DeploymentOptions` says what can be set.

        Raises:
            NotImportable: No worker could load the flow; says where to put it.
            ConfigurationError: A name, schedule or limit cannot be read.
            ParameterError: The parameters do not fit.
        """
        return lazy.load("deployment").build_from_flow(self, name, **options)

    def deploy(
        self,
        name: str,
        *,
        image: Any = None,
        build: bool = True,
        push: bool = True,
        print_next_steps: bool = True,
        ignore_warnings: bool = False,
        **options: Unpack[DeploymentOptions],
    ) -> str:
        """Write a deployment of this flow down for a work pool; gives its id. Safe to repeat.

        Args:
            name: Its name.
            image: A name, or a `DockerImage`, that its runs start in.
            build: Whether to build that.
            push: Whether to push what was built.
            print_next_steps: Say how to start a worker and a run.
            ignore_warnings: Do not warn of what is kept without effect.
            options: As of `to_deployment`; `work_pool_name` says where its runs go.

        Raises:
            ImageNotBuilt: The image could not be built or pushed; nothing was written.
            ConfigurationError: No work pool is named, or something cannot be read.
        """
        made = self.to_deployment(name, **options)
        ids: list[str] = lazy.load("deploy")(
            made,
            image=image,
            build=build,
            push=push,
            print_next_steps=print_next_steps,
            ignore_warnings=ignore_warnings,
        )
        return ids[0]

    def serve(
        self,
        name: str | None = None,
        *,
        limit: int | None = None,
        pause_on_shutdown: bool = True,
        print_starting_message: bool = True,
        **options: Unpack[DeploymentOptions],
    ) -> None:
        """Write a deployment of this flow down and run its runs here, until Ctrl-C.

        Without a broker one is brought up, as by `orchestra dev`.

        Args:
            name: Its name; None: the flow's.
            limit: How many runs are at work at once; None: one per processor.
            pause_on_shutdown: Pause its schedules at the end: nobody would run what they start.
            print_starting_message: Say how to start a run.
            options: As of `to_deployment`.

        Raises:
            ConfigurationError: Something cannot be read, or a part cannot start.
        """
        made = self.to_deployment(name or self.name, **options)
        serve(made, limit=limit, pause_on_shutdown=pause_on_shutdown, print_starting_message=print_starting_message)

    @staticmethod
    def from_source(source: Any, entrypoint: str, *, branch: str | None = None) -> Flow[..., Any]:
        """The flow at `file.py:flow` of a local folder, or of a git repository, which workers clone, too.

        Args:
            source: The folder, or the repository's address (`https://…`, `ssh://…`, `user@host:path`).
            entrypoint: `file.py:flow`, relative to it.
            branch: Of a repository, or a tag; None: its default one.

        Raises:
            SourceUnavailable: The repository cannot be had.
            DefinitionNotFound: There is no such flow in it.
        """
        where = lazy.load("remote_source")(source, entrypoint, branch)
        found = lazy.load("definitions").object_at(where.path, FlowSpec, "flow")
        made: Flow[..., Any] = found.having(found.spec)
        made.source = where
        return made

    def with_options(self, **options: Unpack[FlowOptions]) -> Flow[P, R]:
        """A copy of this flow with other options; those not named stay."""
        made = self.having(overridden(self.spec, _fields(options)))
        made._is_copy = True
        return made

    @overload
    def __get__(self, instance: None, owner: type) -> Flow[P, R]: ...
    @overload
    def __get__(self: Flow[Concatenate[S, Q], R], instance: S, owner: type) -> Flow[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self._of(instance, owner)

    def _adopt(self, spec: FlowSpec) -> None:
        if spec.static and spec.on_running:
            raise DefinitionError(
                f"flow {spec.name!r} is static, so no process starts its function on a worker, and it cannot have "
                "on_running= hooks; put what they do into a first task"
            )
        super()._adopt(spec)


class FlowDecorator:
    """Makes a flow of a function: `@flow`, or `@flow(retries=1, …)`; `FlowOptions` says what can be set."""

    from_source = staticmethod(Flow.from_source)

    @overload
    def __call__(self, fn: Callable[P, R], /) -> Flow[P, R]: ...
    @overload
    def __call__(self, /, **options: Unpack[FlowOptions]) -> Callable[[Callable[P, R]], Flow[P, R]]: ...
    def __call__(self, fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """As the class says."""
        if fn is None:
            return lambda fn: Flow(fn, **options)
        return Flow(fn, **options)


flow = FlowDecorator()


def serve(
    *deployments: Any, limit: int | None = None, pause_on_shutdown: bool = True, print_starting_message: bool = True
) -> None:
    """Write deployments down, as `flow.to_deployment(…)` makes them, and run their runs here, until Ctrl-C.

    As `flow.serve()` otherwise.
    """
    lazy.load("serve")(
        *deployments, limit=limit, pause_on_shutdown=pause_on_shutdown, print_starting_message=print_starting_message
    )


def deploy(*deployments: Any, **options: Any) -> list[str]:
    """Write deployments down for a work pool; `orchestra.deployments.deploy` says what can be set."""
    ids: list[str] = lazy.load("deploy")(*deployments, **options)
    return ids


def load_flow_from_entrypoint(entrypoint: str) -> Flow[..., Any]:
    """The flow at `file.py:flow` or `module:flow`. A file is loaded under its path as its name, once in a process.

    Raises:
        DefinitionNotFound: It cannot be imported here, or is no flow; says why.
    """
    definitions = lazy.load("definitions")
    definitions.see_working_directory()
    # `module.flow` as Prefect writes it, too.
    path = entrypoint if ":" in entrypoint else ":".join(entrypoint.rpartition(".")[::2])
    found: Flow[..., Any] = definitions.object_at(path, FlowSpec, "flow")
    return found


async def _awaited(
    runner: Runner, spec: FlowSpec, parameters: dict[str, Any], wait_for: tuple[Any, ...], return_state: bool
) -> Any:
    state = await runner.call_flow_async(spec, parameters, wait_for)
    return state if return_state else state.result()


def _spec(fn: Callable[..., Any], options: FlowOptions) -> FlowSpec:
    if is_celery_task(fn):
        raise DefinitionError(
            "@flow takes a function, not a task of a Celery app: make a task of that, step = task(it), and call it in "
            "a flow"
        )
    require_function(fn, Flow)
    fields = _fields(options)
    fields.setdefault("name", names.flow_name(callables.name_of(fn)))
    fields.setdefault("description", callables.doc_of(fn))
    if fields.get("version") is not None:
        declare_version(fields["version"])
    path = callables.path_of(fn, callables.declaring_module())
    return FlowSpec(fn=callables.engine_form(fn), path=path, entrypoint=_entrypoint(fn, path), **fields)


def _entrypoint(fn: Callable[..., Any], path: str) -> str | None:
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return f"{code.co_filename}:{path.partition(':')[2]}" if code is not None else None


def _fields(options: FlowOptions) -> dict[str, Any]:
    """The options as fields of a spec."""
    fields = spec_fields(options, FlowOptions.__annotations__, FlowSpec)
    if "task_runner" in fields:
        fields["task_runner"] = task_runner_option(fields["task_runner"])
    hook_options(fields, "flow")
    return fields


__getattr__ = absent(__name__, "deployments", "aserve adeploy")
