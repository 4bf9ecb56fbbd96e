"""Handles on flow runs that were started elsewhere: look, wait, take the result, cancel.

In a flow body on a worker each look is a step, so that a replay sees the same, and a wait is made of durable sleeps, so
that it holds no slot: the slot may be the one that the other run needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from orchestra import clock, identifiers
from orchestra.context import flow_run_context, task_run_context
from orchestra.engine.branches import current_line
from orchestra.engine.values import state_of
from orchestra.errors import ResultTimeout
from orchestra.runners.base import Runner
from orchestra.runners.carrier import Carrier
from orchestra.states import NOT_KEPT, State, StateDetails
from orchestra.store import interventions, journal, runs
from orchestra.store.database import database
from orchestra.store.tables import Phase
from orchestra.store.wake import BACKSTOP, RUN, STEP, Hint

T = TypeVar("T")

#: First and longest pause between two looks, in seconds, and the part of the time waited that one may last.
_FIRST_PAUSE, _LONGEST_PAUSE, _PAUSE_SHARE = 0.001, 0.25, 0.05
#: First and longest pause, in seconds, and growth, of a flow body that waits: long enough to free its slot.
_BODY_PAUSE, _LONGEST_BODY_PAUSE, _BODY_GROWTH = 1.0, 30.0, 1.5


class FlowRunHandle:
    """One flow run, by its id. Holds no connection; may be made from an id at any time."""

    #: "flow" or "task", as messages say it.
    kind: ClassVar[str] = "flow"

    def __init__(self, id: str, carrier: Carrier | None = None, *, final: State[Any] | None = None) -> None:
        """A handle on the run `id`.

        Args:
            carrier: By which `cancel` tells workers at once; without it they learn it a sweep later.
            final: The run's final state, where it is known.
        """
        self.id = self.flow_run_id = id
        self._carrier = carrier
        self._final = final

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    @property
    def state(self) -> State[Any]:
        """The present state; of an ended run, with its value or exception.

        Raises:
            FlowRunNotFound: The run was deleted.
        """
        if (runner := durable_body()) is not None:
            return runner.observe("run-state", lambda: self._look()[0])
        if self._final is None:
            state, ended = self._look()
            if not ended:
                return state
            self._final = state
        return self._final

    def _look(self) -> tuple[State[Any], bool]:
        """The state as it stands in the journal, and whether it is the last one."""
        row = runs.read(database(), self.flow_run_id)
        return _state(row), row["phase"] == Phase.DONE

    def wait(self, timeout: float | None = None) -> State[Any]:
        """Wait until the run has ended, or for `timeout` seconds; gives its state then.

        In a flow body a direct call of the flow is quicker to go on: this looks after a second, then less and less
        often, at last every 30 seconds.
        """
        if (runner := durable_body()) is not None:
            return self._wait_in_body(runner, timeout)
        started = clock.monotonic()
        if (state := self.state).is_final():
            return state
        with database().wake.bell(*self._hints()) as bell:
            while not (state := self.state).is_final():
                waited = clock.monotonic() - started
                if timeout is not None and waited >= timeout:
                    break
                left = float("inf") if timeout is None else timeout - waited
                often = min(max(waited * _PAUSE_SHARE, _FIRST_PAUSE), _LONGEST_PAUSE, left)
                seldom = min(max(waited, _FIRST_PAUSE), BACKSTOP, left)
                bell.wait(often, seldom)
        return state

    def _hints(self) -> list[Hint]:
        """What is heard of when it ends."""
        return [(RUN, self.flow_run_id)]

    def _wait_in_body(self, runner: Runner, timeout: float | None) -> State[Any]:
        waited, pause = 0.0, _BODY_PAUSE
        while not (state := self.state).is_final():
            if timeout is not None and waited >= timeout:
                break
            seconds = pause if timeout is None else min(pause, timeout - waited)
            runner.sleep(seconds)
            waited, pause = waited + seconds, min(pause * _BODY_GROWTH, _LONGEST_BODY_PAUSE)
        return state

    async def wait_async(self, timeout: float | None = None) -> State[Any]:
        """As `wait`, holding up the calling coroutine only."""
        runner = durable_body()
        if runner is None:
            return await asyncio.to_thread(self.wait, timeout)
        waited, pause = 0.0, _BODY_PAUSE
        while not (state := self.state).is_final():
            if timeout is not None and waited >= timeout:
                break
            seconds = pause if timeout is None else min(pause, timeout - waited)
            await runner.sleep_async(seconds)
            waited, pause = waited + seconds, min(pause * _BODY_GROWTH, _LONGEST_BODY_PAUSE)
        return state

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> Any:
        """The run's value, waited for.

        Args:
            timeout: Seconds to wait; None: as long as it takes.
            raise_on_failure: Raise the exception of a run that did not complete; else return it.

        Raises:
            ResultTimeout: The run has not ended in time; it goes on.
            Exception: The run's own.
        """
        state = self.wait(timeout)
        if not state.is_final():
            raise ResultTimeout(f"{self.kind} run {self.id} is {state.name} after {timeout:g} s; it goes on")
        return state.result(raise_on_failure)

    def get(self, timeout: float | None = None, propagate: bool = True) -> Any:
        """As `result`, by the name it has in Celery."""
        return self.result(timeout, propagate)

    def ready(self) -> bool:
        """Whether the run has ended."""
        return self.state.is_final()

    def successful(self) -> bool:
        """Whether the run ended COMPLETED."""
        return self.state.is_completed()

    def failed(self) -> bool:
        """Whether the run ended otherwise."""
        state = self.state
        return state.is_final() and not state.is_completed()

    def cancel(self) -> None:
        """Cancel the run: nothing of it starts any more, and its running bodies are told.

        Raises:
            IllegalTransition: It has ended.
        """
        if (runner := durable_body()) is not None:
            runner.observe("run-cancel", self._cancel)
        else:
            self._cancel()

    def _cancel(self) -> None:
        announcements = interventions.cancel(database(), self.flow_run_id)
        if self._carrier is not None:
            self._carrier.announce(announcements)


class TaskRunHandle(FlowRunHandle):
    """One run of a task outside of flows: a future of its result, for any process.

    `id` is the task run's, `flow_run_id` that of the flow run of one step which carries it.
    """

    kind = "task"

    def __init__(
        self, flow_run_id: str, step_key: str, carrier: Carrier | None = None, *, final: State[Any] | None = None
    ) -> None:
        """A handle on the step `step_key` of the flow run `flow_run_id`; as a FlowRunHandle otherwise."""
        super().__init__(flow_run_id, carrier, final=final)
        self.id = identifiers.step_id(flow_run_id, 1, step_key)
        self._step_key = step_key

    @property
    def task_run_id(self) -> str:
        """The task run's id."""
        return self.id

    def _hints(self) -> list[Hint]:
        return [(STEP, self.flow_run_id), *super()._hints()]

    def _look(self) -> tuple[State[Any], bool]:
        step = journal.latest(database(), self.flow_run_id, self._step_key)
        if step is None:
            # It is due later, or was cancelled before it was planned.
            return super()._look()
        data = step.result if step.done else None
        details = StateDetails(flow_run_id=self.flow_run_id, task_run_id=self.id)
        return state_of(step.state_type, step.state_name, step.state_message, data, details), step.done


class HandleList(list[TaskRunHandle]):
    """The handles of one `.map(…, deferred=True)`, in the order of its elements."""

    def wait(self, timeout: float | None = None) -> None:
        """Return when all have ended, or after `timeout` seconds."""
        until = None if timeout is None else _now() + timeout
        for handle in self:
            handle.wait(_left(until))

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> list[Any]:
        """All values, in order.

        Args:
            timeout: Seconds to wait for all of them; None: as long as it takes.
            raise_on_failure: Raise the exception of a run that did not complete; else it stands in its place.

        Raises:
            ResultTimeout: One has not ended in time; all go on.
            Exception: What the first failed task raised.
        """
        until = None if timeout is None else _now() + timeout
        return [handle.result(_left(until), raise_on_failure) for handle in self]


def _now() -> float:
    """This host's clock; in a flow body that is replayed, what it was the first time."""
    runner = durable_body()
    return clock.now() if runner is None else runner.observe("now", clock.now)


def _left(until: float | None) -> float | None:
    return None if until is None else max(until - _now(), 0.0)


def durable_body() -> Runner | None:
    """What carries out the steps of the flow body that asks; None outside of one, and where nothing is replayed."""
    here = flow_run_context.get()
    if here is None or task_run_context.get() is not None or current_line.get() is None:
        return None
    return here.runner


async def in_thread(verb: Callable[[], T]) -> T:
    """What a verb gives that may wait for the database, without holding up the loop.

    A step of a flow's body is taken in its own thread: there it has its place in the order of the body.
    """
    return verb() if durable_body() is not None else await asyncio.to_thread(verb)


def _state(row: Mapping[str, Any]) -> State[Any]:
    data = runs.result_of(database(), row) if row["phase"] == Phase.DONE else None
    details = StateDetails(flow_run_id=row["id"])
    state = state_of(row["state_type"], row["state_name"], row["state_message"], data, details)
    if data is None and state.is_completed():
        state = replace(state, data=NOT_KEPT)
    moment = row["end_time"] or row["start_time"] or row["created_at"]
    return replace(state, timestamp=clock.to_datetime(moment))
