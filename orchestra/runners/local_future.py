"""Futures of tasks that run in a pool of threads of this process."""

from __future__ import annotations

import concurrent.futures as pools
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from orchestra import states
from orchestra.futures import Future, Waiter
from orchestra.runners.steps import Step
from orchestra.states import State

_thread = threading.local()


class LocalFuture(Future[Any]):
    """A task run in the pool of a local run."""

    def __init__(self, step: Step, waiter: Waiter, upstreams: Sequence[LocalFuture]) -> None:
        super().__init__(step.id, step.name, waiter)
        self.box: pools.Future[State[Any]] = pools.Future()
        self.upstreams = upstreams
        self._work: Callable[[], State[Any]] | None = None
        self._lock = threading.Lock()
        self._started = False
        #: Reads the value, where it is kept and not held here.
        self._read: Callable[[], Any] | None = None

    def peek(self) -> State[Any] | None:
        """The final state, if the task run has ended."""
        if not self.box.done():
            return None
        state = self.box.result()
        return state if self._read is None else replace(state, data=self._read())

    def let_go(self, state: State[Any], read: Callable[[], Any] | None) -> State[Any]:
        """The state to be held: without its value, where `read` reads it again."""
        if read is None:
            return state
        self._read = read
        return replace(state, data=None)

    @property
    def state(self) -> State[Any]:
        """The present state."""
        if (final := self.peek()) is not None:
            return final
        return states.Running() if self._started else states.Pending()

    def add_done_callback(self, callback: Callable[[Future[Any]], object]) -> None:
        """Call `callback(future)` when the task run has ended."""
        self.box.add_done_callback(lambda box: callback(self))

    def prepare(self, work: Callable[[], State[Any]]) -> None:
        """Say what running it means."""
        self._work = work

    def run(self) -> None:
        """Run it in this thread, unless another one has begun."""
        work = self._take()
        if work is not None:
            try:
                self.box.set_result(work())
            except BaseException as error:  # a signal, or orchestra's own failure: nobody may wait for ever
                self.box.set_result(State(states.StateType.CRASHED, "Crashed", states.describe(error), None))

    def drop(self) -> None:
        """Cancel it, unless it has begun."""
        if self._take() is not None:
            self.box.set_result(states.Cancelled("its flow run ended before it began"))

    def _take(self) -> Callable[[], State[Any]] | None:
        with self._lock:
            if self._started:
                return None
            self._started = True
        work, self._work = self._work, None
        return work


def mark_pool_thread() -> None:
    """Say that this thread belongs to a pool."""
    _thread.in_pool = True


def in_pool_thread() -> bool:
    """Whether this thread belongs to a pool."""
    return getattr(_thread, "in_pool", False)


def help_with(futures: Iterable[LocalFuture], first: bool) -> None:
    """Run in this pool thread what has not begun, so that a bounded pool is never full of threads that wait."""
    for future in futures:
        if first and future.box.done():
            return
        help_with((upstream for upstream in future.upstreams if not upstream.box.done()), False)
        if all(upstream.box.done() for upstream in future.upstreams):
            future.run()


def shadow(box: pools.Future[Any]) -> pools.Future[None]:
    """Done when `box` is; cancelling it leaves `box` alone."""
    shadow: pools.Future[None] = pools.Future()

    def done(box: pools.Future[Any]) -> None:
        if shadow.set_running_or_notify_cancel():
            shadow.set_result(None)

    box.add_done_callback(done)
    return shadow
