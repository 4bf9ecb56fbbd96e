"""Run a task's body: try, and try again. Shared by the local run and by workers; nothing is recorded here."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from orchestra import clock, retries, states
from orchestra.context import TaskRunContext, task_run_context
from orchestra.engine import bodies, keyed
from orchestra.engine.hooks import TaskRunHooks, running_state
from orchestra.engine.outcomes import task_state
from orchestra.errors import Signal
from orchestra.logging import engine_logger, masked
from orchestra.specs import TaskSpec
from orchestra.states import State

_logger = logging.getLogger("orchestra.task_runs")

#: Retry delays and sleeps below this are slept in place on a worker, in seconds; longer ones free the slot.
IN_PLACE = 1.0

#: The `retries` of a task whose body itself says when to try again.
UNLIMITED = 2**31 - 1

#: What a body may raise to fail its task on a worker: anything. Locally Ctrl-C and `sys.exit()` end the program.
EVERYTHING: tuple[type[BaseException], ...] = (BaseException,)

#: Calls a body: `(fn, args, kwargs, *, timeout, log_prints)`, as `bodies.call`.
CallBody = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """The task run has ended."""

    state: State[Any]
    attempt: int


@dataclass(frozen=True, slots=True)
class RetryLater:
    """The attempt failed; the next one is due after `delay` seconds, which is too long to sleep here."""

    delay: float
    attempt: int
    state: State[Any]


def _nothing(*_: object) -> None:
    pass


def run_attempts(
    task: TaskSpec,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: TaskRunContext,
    *,
    longest_sleep: float = math.inf,
    before_attempt: Callable[[], object] = _nothing,
    on_retry: Callable[[State[Any], float], object] = _nothing,
    contain: tuple[type[BaseException], ...] = EVERYTHING,
    call_body: CallBody = bodies.call,
) -> Ended | RetryLater:
    """Run the body from attempt `context.attempt` on, until it ends well or no retry is left.

    Args:
        longest_sleep: Retry delays below this many seconds are slept through; a longer one ends the call.
        before_attempt: Called before each start of the body; what it raises goes to the caller.
        on_retry: Called with the failed state and the delay before a delay is slept through.
        contain: What the body may raise to fail the attempt; orchestra's signals always pass.
        call_body: Calls the body, here or in another process.
    """
    token = task_run_context.set(context)
    try:
        if task.result_storage_key is not None and (found := keyed.find(context)) is not None:
            return Ended(found, context.attempt)
        while True:
            before_attempt()
            if task.on_running:
                _now_running(context, contain).run()
            state = _attempt(task, args, kwargs, context, contain, call_body)
            if task.result_storage_key is not None and state.is_completed():
                state = keyed.keep(context, state)
            if context.atomic is not None:
                state = context.atomic.settle(state)
            step = _next(task, context, state, longest_sleep, on_retry)
            if not isinstance(step, float):
                return step
            time.sleep(step)
            context.attempt += 1
    finally:
        task_run_context.reset(token)
        if context.atomic is not None:  # left by a signal
            context.atomic.roll_back()


async def run_attempts_async(
    task: TaskSpec,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: TaskRunContext,
    *,
    longest_sleep: float = math.inf,
    before_attempt: Callable[[], Awaitable[None] | None] = _nothing,
    on_retry: Callable[[State[Any], float], object] = _nothing,
    contain: tuple[type[BaseException], ...] = EVERYTHING,
) -> Ended | RetryLater:
    """As `run_attempts`, for a coroutine function, in the running loop; what `before_attempt` gives is awaited."""
    token = task_run_context.set(context)
    try:
        if task.result_storage_key is not None and (found := await asyncio.to_thread(keyed.find, context)) is not None:
            return Ended(found, context.attempt)
        while True:
            if (ready := before_attempt()) is not None:
                await ready
            if task.on_running:
                await _now_running(context, contain).run_async()
            state = await _attempt_async(task, args, kwargs, context, contain)
            if task.result_storage_key is not None and state.is_completed():
                state = await asyncio.to_thread(keyed.keep, context, state)
            step = _next(task, context, state, longest_sleep, on_retry)
            if not isinstance(step, float):
                return step
            await asyncio.sleep(step)
            context.attempt += 1
    finally:
        task_run_context.reset(token)


def _now_running(context: TaskRunContext, contain: tuple[type[BaseException], ...]) -> TaskRunHooks:
    """The hooks of a try that starts now. If the process dies meanwhile, they run again with the try."""
    return TaskRunHooks(context, running_state(context.attempt), start_time=clock.now(), contain=contain)


def _attempt(
    task: TaskSpec,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: TaskRunContext,
    contain: tuple[type[BaseException], ...],
    call_body: CallBody,
) -> State[Any]:
    try:
        return task_state(call_body(task.fn, args, kwargs, timeout=task.timeout_seconds, log_prints=context.log_prints))
    except Signal:
        raise
    except contain as error:
        return masked(context, states.from_body(error))


async def _attempt_async(
    task: TaskSpec,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: TaskRunContext,
    contain: tuple[type[BaseException], ...],
) -> State[Any]:
    try:
        return task_state(
            await bodies.call_async(task.fn, args, kwargs, timeout=task.timeout_seconds, log_prints=context.log_prints)
        )
    except Signal:
        raise
    except asyncio.CancelledError as error:
        if bodies.is_being_cancelled() or not issubclass(asyncio.CancelledError, contain):
            raise
        return masked(context, states.from_body(error))
    except contain as error:
        return masked(context, states.from_body(error))


def _next(
    task: TaskSpec,
    context: TaskRunContext,
    state: State[Any],
    longest_sleep: float,
    on_retry: Callable[[State[Any], float], object],
) -> Ended | RetryLater | float:
    """What follows an attempt: the end, a later retry, or a delay to sleep through here."""
    delay = _retry_delay(task, context, state)
    if delay is None:
        _say_failure(context, state)
        return Ended(state, context.attempt)
    _say_retry(task, context, state, delay)
    context.retry_delay = None
    if delay >= longest_sleep:
        return RetryLater(delay, context.attempt, state)
    on_retry(state, delay)
    return delay


def _say_retry(task: TaskSpec, context: TaskRunContext, state: State[Any], delay: float) -> None:
    tries = f"{context.attempt + 1}"
    if task.max_retries < UNLIMITED:
        tries += f" of {task.max_retries + 1}"
    engine_logger(context).warning("%s; try %s in %.3g s", state.message, tries, delay)


def _say_failure(context: TaskRunContext, state: State[Any]) -> None:
    if not state.is_completed():
        error = state.data if isinstance(state.data, BaseException) else None
        engine_logger(context).error("ended %s: %s", state.name, state.message, exc_info=error)


def _retry_delay(task: TaskSpec, context: TaskRunContext, state: State[Any]) -> float | None:
    if not state.is_failed() or context.attempt > task.max_retries or not _may_retry(task, context, state):
        return None
    if context.retry_delay is not None:
        return max(context.retry_delay, 0.0)
    try:
        return retries.next_delay(task.max_retries, task.retry_delay, context.attempt, jitter=task.retry_jitter_factor)
    except Exception:
        _logger.exception("retry_delay_seconds of task %r raised; the task is not tried again", task.name)
        return None


def _may_retry(task: TaskSpec, context: TaskRunContext, state: State[Any]) -> bool:
    if task.retry_condition_fn is None:
        return True
    try:
        return bool(bodies.call(task.retry_condition_fn, TaskRunHooks(context, state).arguments(), {}))
    except Exception:
        _logger.exception("retry_condition_fn of task %r raised; the task is not tried again", task.name)
        return False
