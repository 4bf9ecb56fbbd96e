"""Run state hooks: each in the context of its run, what one raises logged, the others still run.

What is run here changes nothing: the state that calls for the hooks was recorded before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from orchestra import clock, lazy, states
from orchestra.callables import is_async
from orchestra.context import FlowRunContext, TaskRunContext, flow_run_context, tags_context, task_run_context
from orchestra.engine import bodies
from orchestra.engine.branches import current_line
from orchestra.errors import Signal
from orchestra.hooks import hooks_of
from orchestra.logging import engine_logger
from orchestra.specs import FlowSpec, Hooks, TaskSpec
from orchestra.states import State

#: What a hook may raise without more than a line in the log: on a worker anything, as a body may. Locally Ctrl-C ends
#: the program, though the remaining hooks are not run then.
HERE: tuple[type[BaseException], ...] = (Exception, SystemExit)
EVERYTHING: tuple[type[BaseException], ...] = (BaseException,)


class _InState:
    """A run, by the state it has come into."""

    __slots__ = ()
    state: State[Any]
    start_time: datetime | None
    end_time: datetime | None

    @property
    def total_run_time(self) -> timedelta:
        """From its start to its end; nothing where it has not come to both."""
        return self.end_time - self.start_time if self.start_time and self.end_time else timedelta()

    @property
    def state_type(self) -> states.StateType:
        """The state's type."""
        return self.state.type

    @property
    def state_name(self) -> str:
        """The state's name."""
        return self.state.name


@dataclass(frozen=True, slots=True)
class FlowRun(_InState):
    """What a hook is told of a flow run."""

    id: str
    name: str
    flow_name: str
    #: The state that called for the hook.
    state: State[Any]
    parameters: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    #: How many times its function has been started anew by retries, the last one included.
    run_count: int = 1
    parent_flow_run_id: str | None = None
    root_flow_run_id: str | None = None
    expected_start_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    #: Of the deployment whose run it is.
    deployment_id: str | None = None
    flow_version: str | None = None


@dataclass(frozen=True, slots=True)
class TaskRun(_InState):
    """What a hook, or a `retry_condition_fn`, is told of a task run."""

    id: str
    name: str
    task_name: str
    #: The state that called for the hook.
    state: State[Any]
    #: The arguments by name.
    parameters: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    #: The number of the last try, 1 for the first.
    run_count: int = 1
    flow_run_id: str | None = None
    flow_run_name: str | None = None
    flow_name: str | None = None
    #: The same each time this step's body is run, for whatever reason.
    idempotency_key: str | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None


# -- running them ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class RunHooks:
    """The hooks that a run owes for one state, ready to be called one by one. Base of the two kinds."""

    context: Any
    state: State[Any]
    start_time: float | None = None
    end_time: float | None = None
    contain: tuple[type[BaseException], ...] = HERE

    @property
    def spec(self) -> FlowSpec | TaskSpec:
        """Of the flow or task."""
        raise NotImplementedError

    @property
    def hooks(self) -> Hooks:
        """In the order in which they run."""
        return hooks_of(self.spec, self.state.type)

    def run(self) -> None:
        """Run them all, in this thread; a coroutine function to its end."""
        for hook in self.hooks:
            self.call(hook)

    async def run_async(self) -> None:
        """Run them all in the running loop."""
        for hook in self.hooks:
            with self._around(hook):
                found: Any = bodies.call_async if is_async(hook) else bodies.call
                found = found(hook, self.arguments(), {}, log_prints=self.context.log_prints)
                # Also what a function gives that calls a coroutine function.
                while hasattr(found, "__await__"):
                    found = await found

    async def run_to_end_async(self) -> None:
        """As `run_async`; where the calling branch is cancelled meanwhile, that is raised when all have run."""
        running = asyncio.ensure_future(self.run_async())
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            if not running.done():
                await asyncio.wait([running])
            raise

    def call(self, hook: Any) -> None:
        """Run one of them, in this thread."""
        with self._around(hook):
            found = bodies.call(hook, self.arguments(), {}, log_prints=self.context.log_prints)
            if hasattr(found, "__await__"):
                bodies.run_coroutine(lambda: _awaited(found))

    def arguments(self) -> tuple[Any, ...]:
        """What a hook, or the condition of a retry, is called with: the Flow or Task as the user knows it, its run, and
        the state.
        """
        spec, decorated = self.spec, self.spec.decorated
        known = decorated if decorated is None or decorated.spec is spec else decorated.having(spec)
        return known, self._record(), self.state

    @contextmanager
    def _around(self, hook: Any) -> Iterator[None]:
        """In the context of the run, what the hook raises is logged; orchestra's signals always pass."""
        logger, name = engine_logger(self.context), getattr(hook, "__name__", repr(hook))
        with self._inside():
            logger.info("hook %r is called: the state is %s", name, self.state.name)
            try:
                yield
            except Signal:
                raise
            except self.contain as error:
                if isinstance(error, asyncio.CancelledError) and bodies.is_being_cancelled():
                    raise
                logger.error("hook %r raised %s", name, states.describe(error), exc_info=error)

    def _record(self) -> FlowRun | TaskRun:
        raise NotImplementedError

    def _inside(self) -> AbstractContextManager[None]:
        raise NotImplementedError


class FlowRunHooks(RunHooks):
    """Those of a flow run."""

    context: FlowRunContext

    @property
    def spec(self) -> FlowSpec:
        """Of the flow."""
        return self.context.flow

    def _record(self) -> FlowRun:
        context = self.context
        return FlowRun(
            id=context.run_id,
            name=context.run_name,
            flow_name=context.flow.name,
            state=self.state,
            parameters=dict(context.parameters),
            tags=list(context.tags),
            run_count=context.run_attempt,
            parent_flow_run_id=context.parent_run_id,
            root_flow_run_id=context.root_run_id,
            expected_start_time=clock.to_datetime(context.scheduled_start_time or context.start_time),
            start_time=clock.to_datetime(context.start_time),
            end_time=clock.to_datetime(self.end_time),
            deployment_id=context.deployment_id,
            flow_version=context.flow.version,
        )

    @contextmanager
    def _inside(self) -> Iterator[None]:
        # Beside the body: what a hook calls runs plainly, and its log lines are not those that a replay counts.
        beside = replace(self.context, runner=lazy.load("local_runner")(), lines=None)
        tokens = flow_run_context.set(beside), task_run_context.set(None), current_line.set(None)
        tags_token = tags_context.set(frozenset(self.context.tags))
        try:
            yield
        finally:
            tags_context.reset(tags_token)
            current_line.reset(tokens[2])
            task_run_context.reset(tokens[1])
            flow_run_context.reset(tokens[0])


class TaskRunHooks(RunHooks):
    """Those of a task run."""

    context: TaskRunContext

    @property
    def spec(self) -> TaskSpec:
        """Of the task."""
        return self.context.task

    def _record(self) -> TaskRun:
        context, flow_run = self.context, self.context.flow_run
        return TaskRun(
            id=context.task_run_id,
            name=context.task_run_name,
            task_name=context.task.name,
            state=self.state,
            parameters=dict(context.parameters),
            tags=list(context.tags),
            run_count=context.attempt,
            flow_run_id=flow_run.run_id if flow_run else None,
            flow_run_name=flow_run.run_name if flow_run else None,
            flow_name=flow_run.flow.name if flow_run else None,
            idempotency_key=context.idempotency_key,
            start_time=clock.to_datetime(self.start_time),
            end_time=clock.to_datetime(self.end_time),
        )

    @contextmanager
    def _inside(self) -> Iterator[None]:
        # What a hook calls runs as what the task's body calls.
        tokens = flow_run_context.set(self.context.flow_run), task_run_context.set(self.context)
        try:
            yield
        finally:
            task_run_context.reset(tokens[1])
            flow_run_context.reset(tokens[0])


def running_state(attempt: int) -> State[Any]:
    """The state of a try that starts now, the first being 1."""
    return states.Running(name="Retrying" if attempt > 1 else "Running")


async def _awaited(found: Any) -> None:
    await found
