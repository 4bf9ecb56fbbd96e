"""Call a user's function: its timeout, the bridge between sync and async, and the capture of prints.

Whoever runs a body, here or on a worker, calls it through this module.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future as Box
from contextlib import AbstractContextManager, nullcontext
from types import GeneratorType
from typing import Any, TypeVar

from orchestra import callables, clock
from orchestra.callables import is_async
from orchestra.engine import greenlets, interrupts, loops
from orchestra.logging import listen_to_extra_loggers, print_capture

T = TypeVar("T")

_logger = logging.getLogger("orchestra.engine")


def call(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    timeout: float | None = None,
    allowed: float | None = None,
    log_prints: bool = False,
) -> Any:
    """Call `fn` from synchronous code and give its value; a coroutine function is run to its end.

    In the main thread a body over its time is interrupted, also in a blocking call; in a greenlet at its next yield. In
    other threads it runs in a helper thread, which is abandoned when the time is over.

    Args:
        timeout: Seconds the body may take from now on.
        allowed: Seconds as the error says them, where some had passed before.
        log_prints: Whether what it prints becomes log lines.

    Raises:
        RunTimeout: It took longer.
    """
    with _capture(log_prints):
        if is_async(fn):
            return run_coroutine(lambda: _awaited(fn, args, kwargs, timeout))
        if timeout is None:
            return value_of(fn, args, kwargs)
        if interrupts.available():
            with interrupts.deadline(name_of(fn), timeout, allowed):
                return value_of(fn, args, kwargs)
        if greenlets.active():
            with greenlets.deadline(name_of(fn), timeout):
                return value_of(fn, args, kwargs)
        return _in_helper_thread(lambda: value_of(fn, args, kwargs), name_of(fn), timeout)


def value_of(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `fn` gives; a generator that it returns is used up here, while its run is there: a list."""
    value = fn(*args, **kwargs)
    return list(value) if type(value) is GeneratorType else value


async def call_async(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    timeout: float | None = None,
    log_prints: bool = False,
) -> Any:
    """Await the coroutine function `fn` in the running loop; as `call` otherwise."""
    with _capture(log_prints):
        return await _awaited(fn, args, kwargs, timeout)


def run_coroutine(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end from synchronous code, in this thread unless a loop runs in it already."""
    if greenlets.active() and not (greenlets.is_native() and not _loop_runs_here()):
        return greenlets.natively(lambda: run_coroutine(make))
    if _loop_runs_here():
        return _in_helper_thread(lambda: run_coroutine(make), "a coroutine", None)
    return loops.run(make())


def is_being_cancelled() -> bool:
    """Whether the asyncio Task around a call was cancelled; else a CancelledError was raised by the body itself."""
    running = asyncio.current_task() if _loop_runs_here() else None
    return running is not None and running.cancelling() > 0


def name_of(fn: Callable[..., Any]) -> str:
    """A function's name as it stands in messages."""
    return repr(callables.name_of(fn))


async def _awaited(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None) -> Any:
    if timeout is None:
        return await fn(*args, **kwargs)
    end = clock.monotonic() + timeout
    try:
        async with asyncio.timeout(timeout) as limit:
            value = await fn(*args, **kwargs)
    except TimeoutError as error:
        if limit.expired():
            raise interrupts.timeout_error(name_of(fn), timeout) from error
        raise
    if limit.expired() or clock.monotonic() >= end:  # the body swallowed its cancellation, or blocked the loop
        raise interrupts.timeout_error(name_of(fn), timeout)
    return value


def _in_helper_thread(work: Callable[[], T], what: str, timeout: float | None) -> T:
    box: Box[T] = Box()
    context = contextvars.copy_context()
    thread = threading.Thread(target=_fill, args=(box, context, work), name=f"orchestra-body-{what}", daemon=True)
    thread.start()
    try:
        return box.result(timeout)
    except TimeoutError:
        if timeout is None or box.done():  # the body's own
            raise
    _logger.warning("%s is over its time; its thread cannot be stopped and is abandoned", what)
    raise interrupts.timeout_error(what, timeout)


def _fill(box: Box[T], context: contextvars.Context, work: Callable[[], T]) -> None:
    try:
        box.set_result(context.run(work))
    except BaseException as error:
        box.set_exception(error)


def _capture(log_prints: bool) -> AbstractContextManager[Any]:
    listen_to_extra_loggers()
    return print_capture() if log_prints else nullcontext()


def _loop_runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
