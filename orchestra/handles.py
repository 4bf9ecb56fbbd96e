"""Handles on flow runs that were started elsewhere: look, wait, take the result, cancel."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestra import clock
from orchestra.engine.values import state_of
from orchestra.errors import ResultTimeout
from orchestra.runners.carrier import Carrier
from orchestra.states import State, StateDetails
from orchestra.store import interventions, runs
from orchestra.store.database import database
from orchestra.store.tables import Phase

#: First and longest pause between two looks, in seconds, and the part of the time waited that one may last.
_FIRST_PAUSE, _LONGEST_PAUSE, _PAUSE_SHARE = 0.001, 0.25, 0.05


class FlowRunHandle:
    """One flow run, by its id. Holds no connection; may be made from an id at any time."""

    def __init__(self, id: str, carrier: Carrier | None = None, *, final: State[Any] | None = None) -> None:
        """A handle on the run `id`.

        Args:
            carrier: By which `cancel` tells workers at once; without it they learn it a sweep later.
            final: The run's final state, where it is known.
        """
        self.id = id
        self._carrier = carrier
        self._final = final

    def __repr__(self) -> str:
        return f"FlowRunHandle({self.id!r})"

    @property
    def state(self) -> State[Any]:
        """The present state; of an ended run, with its value or exception.

        Raises:
            FlowRunNotFound: The run was deleted.
        """
        if self._final is None:
            row = runs.read(database(), self.id)
            state = _state(row)
            if row["phase"] != Phase.DONE:
                return state
            self._final = state
        return self._final

    def wait(self, timeout: float | None = None) -> State[Any]:
        """Wait until the run has ended, or for `timeout` seconds; gives its state then."""
        started = clock.monotonic()
        while not (state := self.state).is_final():
            waited = clock.monotonic() - started
            if timeout is not None and waited >= timeout:
                break
            pause = min(max(waited * _PAUSE_SHARE, _FIRST_PAUSE), _LONGEST_PAUSE)
            time.sleep(pause if timeout is None else min(pause, max(timeout - waited, 0.0)))
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
            raise ResultTimeout(f"flow run {self.id} is {state.name} after {timeout:g} s; it goes on")
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
        announcements = interventions.cancel(database(), self.id)
        if self._carrier is not None:
            self._carrier.announce(announcements)


def _state(row: Mapping[str, Any]) -> State[Any]:
    data = runs.result_of(database(), row) if row["phase"] == Phase.DONE else None
    details = StateDetails(flow_run_id=row["id"])
    state = state_of(row["state_type"], row["state_name"], row["state_message"], data, details)
    moment = row["end_time"] or row["start_time"] or row["created_at"]
    at = clock.to_datetime(moment)
    assert at is not None
    return replace(state, timestamp=at)
