"""The future of a submitted step of a durable run: all it knows is in the journal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orchestra import identifiers
from orchestra.futures import Future
from orchestra.states import State

if TYPE_CHECKING:
    from orchestra.engine.durable import DurableRunner


class JournalFuture(Future[Any]):
    """A task run of this flow run, by its step key."""

    waiter: DurableRunner

    def __init__(self, runner: DurableRunner, key: str) -> None:
        self.key = self.name = key
        self.waiter = runner

    @property
    def task_run_id(self) -> str:  # type: ignore[override]  # read-only: made when asked for, as replays make many futures
        """The task run's id."""
        return identifiers.step_id(self.waiter.claim.run_id, self.waiter.claim.run_attempt, self.key)

    def peek(self) -> State[Any] | None:
        """The final state, if this segment has read it."""
        return self.waiter.known_state(self.key)

    @property
    def state(self) -> State[Any]:
        """The present state, as a step: replay sees the same."""
        return self.waiter.observe_state(self.key)

    def add_done_callback(self, callback: Callable[[Future[Any]], object]) -> None:
        """Call `callback(future)` when this segment learns that the step has ended; again in each replay."""
        self.waiter.when_known(self.key, lambda: callback(self))
