"""States that a run has come into, for people. Nice to see, not the truth: written behind, in batches."""

from __future__ import annotations

from typing import Any

from orchestra import clock
from orchestra.states import State
from orchestra.store import history, tables
from orchestra.store.behind import behind
from orchestra.store.journal import Effect


def note(
    run_id: str,
    state_type: str,
    name: str,
    message: str | None = None,
    *,
    step_id: str | None = None,
    at: float | None = None,
) -> None:
    """Note that a flow run, or one of its steps, has come into a state: now, or at this instant."""
    behind().add(tables.states, history.row(run_id, state_type, name, message, step_id, at))


class Tries:
    """What people see of a task run whose row stands, while this process tries it."""

    def __init__(self, run_id: str, step_id: str, *, is_told: bool, at: float | None = None) -> None:
        """Begin.

        Args:
            is_told: That it runs was told with the claim on it.
            at: When the claim was made, by the database's clock.
        """
        self.run_id, self.step_id = run_id, step_id
        self._is_told, self._at = is_told, at

    def begin(self) -> None:
        """A try of its body starts."""
        is_told, self._is_told = self._is_told, False
        at, self._at = self._at, None
        if not is_told:
            note(self.run_id, "RUNNING", "Running", step_id=self.step_id, at=at)

    def retry(self, failed: State[Any], delay: float) -> None:
        """A try has failed, and the next one follows here after a delay."""
        note(self.run_id, "SCHEDULED", "AwaitingRetry", failed.message, step_id=self.step_id)


class UnwrittenTries(Tries):
    """What people see of a task run whose row is written when it has ended.

    That row tells the start as well; one of the history does where it takes so long that people may look meanwhile.
    """

    def __init__(self, run_id: str, step_id: str, *, is_told: bool = False) -> None:
        """Begin.

        Args:
            is_told: That it runs was told by another process, which died of it.
        """
        super().__init__(run_id, step_id, is_told=is_told)
        self.start_time = clock.now()
        self._began: float | None = None
        self._is_withdrawn = False

    def begin(self) -> None:
        """A try of its body starts."""
        if self._is_told or self._began is not None:
            super().begin()
            return
        self._began = clock.now()
        row = {
            "run_id": self.run_id, "step_id": self.step_id, "type": "RUNNING", "name": "Running", "message": None,
            "timestamp": self._began,
        }  # fmt: skip
        behind().expect(tables.states, self.step_id, row)

    def running_at(self) -> float | None:
        """When it began, for its row, which is written next; None: the history tells it, or it did not begin."""
        if self._began is not None and not self._is_withdrawn:
            self._is_withdrawn = behind().withdraw(self.step_id)
        return self._began if self._is_withdrawn else None

    def set_back(self, message: str | None) -> Effect:
        """What tells, together with its row, that it waits to be tried again elsewhere."""
        run_id, step_id = self.run_id, self.step_id
        return lambda connection, moment: history.record_step(
            connection, run_id, step_id, "SCHEDULED", "AwaitingRetry", message, moment
        )
