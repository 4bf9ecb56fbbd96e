"""The future of a submitted step of a durable run: all it knows is in the journal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from orchestra import identifiers
from orchestra.futures import Future, Waiter
from orchestra.states import State
from orchestra.store.claims import Claim


class Journal(Waiter, Protocol):
    """What such a future asks: the runner that made it."""

    @property
    def claim(self) -> Claim:
        """The claim on the flow run."""
        ...

    def known_state(self, key: str) -> State[Any] | None:
        """The final state of a step, if it is known."""
        ...

    def observe_state(self, key: str) -> State[Any]:
        """The present state of a step, journaled."""
        ...

    def observe_done(self, key: str) -> bool:
        """Whether a step has ended, journaled."""
        ...

    def when_known(self, key: str, callback: Callable[[], object]) -> None:
        """Call back when it is known that the step has ended."""
        ...


class JournalFuture(Future[Any]):
    """A task run of this flow run, by its step key."""

    waiter: Journal

    def __init__(self, journal: Journal, key: str) -> None:
        self.key = self.name = key
        self.waiter = journal

    @property
    def task_run_id(self) -> str:  # type: ignore[override]  # made when asked for: replays make many futures
        """The task run's id."""
        return identifiers.step_id(self.waiter.claim.run_id, self.waiter.claim.run_attempt, self.key)

    def peek(self) -> State[Any] | None:
        """The final state, if this segment has read it."""
        return self.waiter.known_state(self.key)

    def done(self) -> bool:
        """Whether the task run has ended, as a step: replay sees the same."""
        return self.waiter.observe_done(self.key)

    @property
    def state(self) -> State[Any]:
        """The present state, as a step: replay sees the same."""
        return self.waiter.observe_state(self.key)

    def add_done_callback(self, callback: Callable[[Future[Any]], object]) -> None:
        """Call `callback(future)` when this segment learns that the step has ended; again in each replay."""
        self.waiter.when_known(self.key, lambda: callback(self))
