"""Event loops for async bodies: one for each body, or on a worker one for each of its threads.

A client of the user's that belongs to a loop (of httpx, aiohttp, asyncpg) so lasts from body to body. Whatever else a
body leaves in the loop, its Tasks, generators and threads, ends with the body.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from orchestra import clock
from orchestra.engine import greenlets
from orchestra.engine.branches import BranchLoop, Line, Waiters, current_line
from orchestra.errors import Signal

T = TypeVar("T")


class _Kept:
    """The loop of a thread. It is closed with the last reference to it: at the thread's end."""

    def __init__(self) -> None:
        self.loop = BranchLoop()
        self.runner = asyncio.Runner(loop_factory=lambda: self.loop)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a body to its end, in the caller's context, and what it leaves too."""
        try:
            return self.runner.run(main, context=contextvars.copy_context())
        finally:
            self._tidy()

    def _tidy(self) -> None:
        if not self.loop.holds_something():
            return
        try:
            self.runner.run(_end_all(self.loop), context=contextvars.Context())
        except BaseException:
            # Something cut in, a signal or Ctrl-C: what is left now nobody knows.
            close()
            raise

    def __del__(self) -> None:
        # Not of a process that forked: its child has the same selector.
        if not self.loop.is_closed() and not self.loop.is_running():
            self.runner.close()


class _Here(threading.local):
    #: Whether bodies of this thread use its loop.
    keeps = False
    kept: _Kept | None = None


_here = _Here()
#: Loops that a forked child has from its parent, and must not close.
_inherited: list[_Kept] = []


@contextmanager
def kept() -> Iterator[None]:
    """Bodies that this thread runs meanwhile use the thread's own loop. On gevent, where threads are none, as else."""
    before, _here.keeps = _here.keeps, not greenlets.active()
    try:
        yield
    finally:
        _here.keeps = before


def close() -> None:
    """Close the loop of this thread; the next body makes another. Safe to repeat."""
    found, _here.kept = _here.kept, None
    if found is not None:
        found.runner.close()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that is no branch of a flow body to its end."""
    if not _here.keeps:
        with asyncio.Runner() as runner:
            return runner.run(main)
    found = _of_this_thread()
    found.loop.begin(None)
    return found.run(main)


def run_branches(
    main: Coroutine[Any, Any, T],
    waiters: Waiters,
    *,
    seconds: float | None = None,
    timed_out: Callable[[], Exception] = TimeoutError,
) -> T:
    """Run an async flow body to its end. Its main Task is the branch of the caller, those that it creates are branches.

    Args:
        main: The body.
        waiters: Who waits for steps inside.
        seconds: How long it may take.
        timed_out: Makes the error that is raised where it took longer.
    """
    deadline = None if seconds is None else clock.monotonic() + seconds
    if _here.keeps:
        found = _of_this_thread()
        found.loop.begin(waiters, deadline)
        return found.run(_as_main(main, current_line.get(), found.loop, timed_out))
    loop = BranchLoop()
    loop.begin(waiters, deadline)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(_as_main(main, current_line.get(), loop, timed_out))


def _of_this_thread() -> _Kept:
    if _here.kept is None or _here.kept.loop.is_closed():
        _here.kept = _Kept()
    return _here.kept


async def _as_main(
    main: Coroutine[Any, Any, T], line: Line | None, loop: BranchLoop, timed_out: Callable[[], Exception]
) -> T:
    # The runner's own Task took a branch number; the body itself is the caller's branch.
    current_line.set(line)
    loop.main = asyncio.current_task()
    try:
        value = await main
    except asyncio.CancelledError as error:
        if loop.expired:
            raise timed_out() from error
        raise
    if loop.expired:  # the body swallowed its cancellation
        raise timed_out()
    return value


async def _end_all(loop: BranchLoop) -> None:
    """Cancel what a body has left and wait for its end, as `asyncio.run` does."""
    left = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    for task, outcome in zip(left, await asyncio.gather(*left, return_exceptions=True), strict=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, (asyncio.CancelledError, Signal)):
            message = "unhandled exception of a Task that a body left running"
            loop.call_exception_handler({"message": message, "exception": outcome, "task": task})
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


def _forget_in_child() -> None:
    if _here.kept is not None:
        _inherited.append(_here.kept)
        _here.kept = None


os.register_at_fork(after_in_child=_forget_in_child)
# Of the main thread, which ends past the interpreter's own tidying up.
atexit.register(close)
