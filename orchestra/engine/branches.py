"""Branches of an async body: its asyncio Tasks, numbered as they are created, and the loop that knows when all wait.

The loop calls `idle` when nothing is ready to run; whoever waits there for steps looks into the journal, or parks.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from orchestra import clock
from orchestra.context import task_run_context
from orchestra.errors import NonDeterministic, Signal
from orchestra.journal import Branch

T = TypeVar("T")

#: First and longest pause between two looks into the journal while something else still runs, in seconds.
POLL = (0.002, 0.1)
#: What the timers call of asyncio.timeout, of asyncio.wait and (in Python 3.11) wait_for, and of anyio's scopes.
_LIMITS = frozenset({"_on_timeout", "_release_waiter", "_timeout"})


@dataclass(slots=True)
class Line:
    """A branch, and the thread that its body's calls must come from."""

    branch: Branch = field(default_factory=Branch)
    thread: int = field(default_factory=threading.get_ident)


current_line: ContextVar[Line | None] = ContextVar("orchestra_line", default=None)


class Waiters:
    """Who waits for steps inside a loop. `look` is asked whenever nothing is ready.

    Args of `look`: whether nothing else can go on, so that parking is right. Returns whether it woke anybody.
    """

    def __init__(self) -> None:
        self.looks: list[Callable[[bool], bool]] = []
        #: What branches that wait for steps await.
        self.futures: set[asyncio.Future[None]] = set()
        #: What branches await that were cancelled there before; with the error for those that nobody cancels again.
        self.abandoned: dict[asyncio.Future[None], Exception] = {}

    @property
    def waiting(self) -> bool:
        """Whether any branch waits for steps."""
        return bool(self.futures)

    def give_up(self) -> None:
        """Fail the branches that should have been cancelled by now."""
        for future, error in self.abandoned.items():
            if not future.done():
                future.set_exception(error)

    def look(self, stuck: bool) -> bool:
        """Ask the innermost run first: its parent can only go on after it."""
        return any(look(stuck) for look in reversed(self.looks))


class BranchLoop(asyncio.SelectorEventLoop):
    """An event loop that creates Tasks as branches and says when all of them wait.

    It runs one body after the other; `begin` is called before each.
    """

    #: Whether Tasks are branches.
    numbers = False
    #: When the main Task is cancelled, on the monotonic clock. No timer of the loop's: one that is pending would
    #: keep the run from parking.
    deadline: float | None = None
    expired = False
    main: asyncio.Task[Any] | None = None

    def __init__(self) -> None:
        self.waiters = Waiters()
        #: What runs in threads.
        self.executing: set[asyncio.Future[Any]] = set()
        self._threads: Executor | None = None
        super().__init__(_Selector(self))

    def begin(self, waiters: Waiters | None, deadline: float | None = None) -> None:
        """Make ready for a body; whatever the one before has set is forgotten.

        Args:
            waiters: Who waits for steps inside of a flow body; None: of another body, which has no branches.
            deadline: When its main Task is cancelled, on the monotonic clock.
        """
        self.waiters, self.numbers = waiters or Waiters(), waiters is not None
        self.deadline, self.expired, self.main = deadline, False, None
        self.set_task_factory(_branch_task)

    def set_default_executor(self, executor: Executor) -> None:
        """As in asyncio, until the body ends."""
        self._threads = executor

    def run_in_executor(  # type: ignore[override]  # the stubs' TypeVarTuple says no more
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """As in asyncio; counted, so that the loop is not taken for idle meanwhile."""
        if executor is None:
            executor = self._threads = self._threads or ThreadPoolExecutor(thread_name_prefix="asyncio")
        future = super().run_in_executor(executor, func, *args)
        self.executing.add(future)
        future.add_done_callback(self.executing.discard)
        return future

    def holds_something(self) -> bool:
        """Whether a body has left Tasks, generators or threads in the loop."""
        return bool(self._threads or asyncio.all_tasks(self) or getattr(self, "_asyncgens", None))

    async def shutdown_asyncgens(self) -> None:
        """Close async generators that were not used up, as in asyncio; there may be others later."""
        await super().shutdown_asyncgens()
        self._asyncgens_shutdown_called = False

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for what still runs in threads, which nothing can stop; there may be others later."""
        threads, self._threads = self._threads, None
        if threads is None:
            return
        waiting = ThreadPoolExecutor(1)
        await super().run_in_executor(waiting, threads.shutdown)
        waiting.shutdown(wait=False)

    def all_wait(self) -> bool:
        """Whether every Task waits, by way of other Tasks or `gather`, for steps: then timers and sockets are idle."""
        return all(self._waits(getattr(task, "_fut_waiter", None)) for task in asyncio.all_tasks(self))

    def next_timer(self) -> float | None:
        """Seconds until the next time limit of the body's, such as of `asyncio.timeout`; None: it has none."""
        timers: list[asyncio.TimerHandle] = getattr(self, "_scheduled", [])
        due = [timer.when() for timer in timers if not timer.cancelled() and _is_limit(timer)]
        return max(min(due) - self.time(), 0.0) if due else None

    def _waits(self, awaited: Any) -> bool:
        if awaited is None or awaited.done():
            return False
        waiters = self.waiters
        if isinstance(awaited, asyncio.Task) or awaited in waiters.futures:
            return True
        if awaited in waiters.abandoned and not waiters.waiting:
            return True
        members: list[asyncio.Future[Any]] = getattr(awaited, "_children", [])  # of asyncio.gather
        return bool(members) and all(member.done() or self._waits(member) for member in members)

    def expire(self) -> bool:
        """Cancel the main Task if its time is over; whether it just was."""
        if self.deadline is None or self.main is None or clock.monotonic() < self.deadline:
            return False
        self.time_out()
        return True

    def time_out(self) -> None:
        """Cancel the main Task as one that is over its time; once."""
        if self.main is not None and not self.expired:
            self.deadline, self.expired = None, True
            self.main.cancel()

    def bounded(self, timeout: float | None) -> float | None:
        """A sleep of the loop, in seconds, that ends at the deadline."""
        if self.deadline is None:
            return timeout
        left = max(self.deadline - clock.monotonic(), 0.0)
        return left if timeout is None else min(timeout, left)

    @property
    def busy(self) -> bool:
        """Whether threads or connections may still wake somebody."""
        return bool(self.executing)


class _Selector(selectors.DefaultSelector):
    """Asks the loop's waiters before it sleeps."""

    loop: BranchLoop

    def __init__(self, loop: BranchLoop) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As in selectors; but where somebody waits for steps, look for those between short sleeps."""
        waiters, longest = self.loop.waiters, self.loop.bounded(timeout)
        if self.loop.expire():
            return super().select(0)
        if timeout is None and waiters.abandoned and not waiters.waiting and self.loop.all_wait():
            waiters.give_up()
            return super().select(0)
        if not waiters.waiting or (longest is not None and longest <= 0):
            return super().select(longest)
        end = None if longest is None else clock.monotonic() + longest
        pause = POLL[0]
        while True:
            # The loop's own wake-up socket is always registered.
            quiet = timeout is None and not self.loop.busy and len(self.get_map()) <= 1
            stuck = quiet or self.loop.all_wait()
            events = super().select(0)
            if events or waiters.look(stuck):
                return events
            left = pause if end is None else min(pause, end - clock.monotonic())
            events = super().select(max(left, 0))
            if events or (end is not None and clock.monotonic() >= end):
                return events
            pause = min(pause * 1.5, POLL[1])


def _is_limit(timer: asyncio.TimerHandle) -> bool:
    """Whether a timer ends a wait, rather than that a library tidies up by it."""
    return getattr(getattr(timer, "_callback", None), "__name__", "") in _LIMITS


def _branch_task(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
    context: contextvars.Context | None = None,
    **options: Any,
) -> asyncio.Task[T]:
    """A Task whose context carries a branch of its own, if a flow body creates it."""
    line = current_line.get()
    if line is None or task_run_context.get() is not None or not getattr(loop, "numbers", False):
        return asyncio.Task(coro, loop=loop, context=context, **options)
    inside = context or contextvars.copy_context()
    branch = line.branch.child()
    inside.run(current_line.set, Line(branch, line.thread))
    made = asyncio.Task(coro, loop=loop, context=inside, **options)
    made.add_done_callback(lambda task: _branch_ended(branch, task))
    return made


def _branch_ended(branch: Branch, task: asyncio.Task[Any]) -> None:
    if task.cancelled():
        branch.cancelled.add(branch.id)
    elif isinstance(getattr(task, "_exception", None), (Signal, NonDeterministic)):
        # Taken note of: asyncio need not report what ends the segment, where the body does not await this branch.
        task.exception()
