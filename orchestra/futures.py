"""Futures: what `.submit()` and `.map()` give back at once.

A future asks its `Waiter` (the runner that made it) to wait and to look, so that a replay sees what the first run
saw. Nothing here knows how calls are carried out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from orchestra import clock
from orchestra.errors import DefinitionError, ResultTimeout
from orchestra.states import State

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Waiter(Protocol):
    """The part of a runner that futures need."""

    def observe(self, name: str, look: Callable[[], T]) -> T:
        """What `look` gives; the same again on replay."""
        ...

    def wait(self, futures: Sequence[Future[Any]], timeout: float | None, *, first: bool = False) -> None:
        """Return when all futures are done (`first`: when one is), or after `timeout` seconds."""
        ...

    async def wait_async(self, futures: Sequence[Future[Any]], timeout: float | None, *, first: bool = False) -> None:
        """As `wait`, holding up the calling branch only."""
        ...


class Future(ABC, Generic[T_co]):
    """A task run that was submitted; its value comes later."""

    def __init__(self, task_run_id: str, name: str, waiter: Waiter) -> None:
        self.task_run_id = task_run_id
        self.name = name
        self.waiter = waiter

    @abstractmethod
    def peek(self) -> State[T_co] | None:
        """The final state if this process knows it, else None. Not observed: for runners, not for bodies."""

    @property
    @abstractmethod
    def state(self) -> State[T_co]:
        """The present state."""

    @abstractmethod
    def add_done_callback(self, callback: Callable[[Future[Any]], object]) -> None:
        """Call `callback(future)` once the task run has ended; at once if it already has."""

    def done(self) -> bool:
        """Whether the task run has ended."""
        return self.waiter.observe("done", lambda: self.peek() is not None)

    def wait(self, timeout: float | None = None) -> None:
        """Return when the task run has ended, or after `timeout` seconds."""
        self.waiter.wait([self], timeout)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> T_co | Any:
        """The task run's value, waited for.

        Args:
            timeout: Seconds to wait at most; None: as long as it takes.
            raise_on_failure: Raise the task's exception; else return it.

        Raises:
            ResultTimeout: The value did not come in time; the task goes on.
            Exception: What the task raised.
        """
        self.waiter.wait([self], timeout)
        if timeout is not None and not self.done():
            raise ResultTimeout(f"no result of task run {self.name!r} within {timeout:g} s; it goes on")
        return self.final_state().result(raise_on_failure)

    def final_state(self) -> State[T_co]:
        """The final state of a task run that is known to have ended."""
        return self.peek() or self.state

    def __await__(self) -> Generator[Any, None, T_co]:
        yield from self.waiter.wait_async([self], None).__await__()
        value: T_co = self.final_state().result()
        return value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class FutureList(list[Future[T]]):
    """The futures of one `.map()`, in the order of its elements."""

    def wait(self, timeout: float | None = None) -> None:
        """Return when all have ended, or after `timeout` seconds."""
        if self:
            self[0].waiter.wait(self, timeout)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> list[T]:
        """All values, in order.

        Raises:
            ResultTimeout: Not all values came within `timeout` seconds.
            Exception: What the first failed task raised.
        """
        if not self:
            return []
        self[0].waiter.wait(self, timeout)
        if timeout is not None:
            missing = self[0].waiter.observe("done", lambda: sum(future.peek() is None for future in self))
            if missing:
                raise ResultTimeout(f"{missing} of {len(self)} results did not come within {timeout:g} s; they go on")
        return [future.final_state().result(raise_on_failure) for future in self]


#: Under the names that they have in Prefect.
OrchestraFuture = Future
OrchestraFutureList = FutureList


def as_completed(futures: Iterable[Future[T]], timeout: float | None = None) -> Iterator[Future[T]]:
    """The futures in the order in which they end.

    Raises:
        ResultTimeout: Not all have ended within `timeout` seconds, counted from the first `next()`.
        DefinitionError: Something is no future.
    """
    open_ = _futures("as_completed", futures)
    if not open_:
        return
    waiter = open_[0].waiter
    total, deadline = len(open_), _deadline(waiter, timeout)
    while open_:
        waiter.wait(open_, _left(deadline), first=True)
        ended = _observe_ended(waiter, "as_completed", open_)
        if not ended:
            raise ResultTimeout(f"{len(open_)} of {total} task runs have not ended within {timeout:g} s")
        done = [open_[index] for index in ended]
        gone = set(ended)
        open_ = [future for index, future in enumerate(open_) if index not in gone]
        yield from done


class DoneAndNotDoneFutures(NamedTuple, Generic[T]):
    """What `wait` gives."""

    done: set[Future[T]]
    not_done: set[Future[T]]


def wait(futures: Iterable[Future[T]], timeout: float | None = None) -> DoneAndNotDoneFutures[T]:
    """Wait until all have ended, or for `timeout` seconds; gives those that have and those that have not.

    Raises:
        DefinitionError: Something is no future.
    """
    given = _futures("wait", futures)
    if not given:
        return DoneAndNotDoneFutures(set(), set())
    waiter = given[0].waiter
    waiter.wait(given, timeout)
    done = {given[index] for index in _observe_ended(waiter, "wait", given)}
    return DoneAndNotDoneFutures(done, set(given) - done)


def _futures(what: str, given: Any) -> list[Future[Any]]:
    futures = list(given) if isinstance(given, Iterable) else [given]
    for each in futures:
        if not isinstance(each, Future):
            raise DefinitionError(
                f"{what}() takes futures in a list, as .submit() and .map() give them, not {each!r}; "
                "a handle of .delay() waits by its own .wait()"
            )
    return futures


def _observe_ended(waiter: Waiter, name: str, futures: Sequence[Future[Any]]) -> list[int]:
    def look() -> list[int]:
        return [index for index, future in enumerate(futures) if future.peek() is not None]

    return waiter.observe(name, look)


def _deadline(waiter: Waiter, timeout: float | None) -> float | None:
    return None if timeout is None else waiter.observe("deadline", lambda: clock.now() + timeout)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - clock.now())
