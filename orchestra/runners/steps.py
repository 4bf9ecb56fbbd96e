"""The steps of a local flow run: numbered as they are asked for, recorded behind the run as they end."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from orchestra import clock, identifiers, names, results
from orchestra.errors import MissingResult, OrchestraError
from orchestra.questions import Question
from orchestra.results import Kept
from orchestra.serializers import clean_text, decode, encode
from orchestra.specs import FlowSpec, TaskSpec
from orchestra.states import AwaitingConcurrencySlot, Paused, State
from orchestra.store import journal, local_runs, tables
from orchestra.store.behind import behind
from orchestra.store.database import database
from orchestra.store.joint import Joint
from orchestra.store.tables import Kind, Phase, encode_tags

_logger = logging.getLogger("orchestra.task_runs")

#: The one branch of a local run: its steps are not replayed, so their order need not be told apart.
BRANCH = "0"


@dataclass(slots=True)
class Step:
    """One step under way. `start_time` is in seconds since the epoch."""

    id: str
    key: str | None
    name: str
    kind: Kind
    position: int
    start_time: float
    path: str | None = None
    child_run_id: str | None = None
    tags: tuple[str, ...] = ()


class StepBook(Protocol):
    """Numbers steps, and keeps how they ended."""

    def open(self, name: str, kind: Kind, path: str | None = None) -> Step:
        """The next step of this name."""
        ...

    def retrying(self, step: Step, state: State[Any]) -> None:
        """An attempt of the step failed, and another one follows."""
        ...

    def waiting(self, step: Step) -> None:
        """The step waits for a slot of a concurrency limit."""
        ...

    def close(
        self,
        step: Step,
        state: State[Any],
        *,
        attempt: int = 1,
        task: TaskSpec | None = None,
        joint: Joint | None = None,
        known: Kept | None = None,
    ) -> None:
        """The step has ended.

        Args:
            joint: The transaction of its body, which this ends: the record is there when this returns.
            known: Its result, where the cache has kept it already.
        """
        ...

    def reader(self, step: Step) -> Callable[[], Any] | None:
        """What reads the value of a step that has ended, if its task wants it not to be held, and it was kept."""
        ...


class Unrecorded:
    """Steps outside of a flow run: they get ids, and nothing is kept."""

    def open(self, name: str, kind: Kind, path: str | None = None) -> Step:
        """The next step of this name."""
        return Step(identifiers.new_run_id(), None, name, kind, 0, clock.now(), path)

    def retrying(self, step: Step, state: State[Any]) -> None:
        """Keeps nothing."""

    def waiting(self, step: Step) -> None:
        """Keeps nothing."""

    def close(
        self,
        step: Step,
        state: State[Any],
        *,
        attempt: int = 1,
        task: TaskSpec | None = None,
        joint: Joint | None = None,
        known: Kept | None = None,
    ) -> None:
        """Keeps nothing but what the body itself has written."""
        if joint is not None:
            joint.write(lambda connection: None, None)

    def reader(self, step: Step) -> Callable[[], Any] | None:
        """Nothing can be read again."""
        return None


class Recorded:
    """Steps of one run attempt, written behind: one row each, when it has ended."""

    def __init__(self, run_id: str, run_attempt: int, owner: str, flow: FlowSpec) -> None:
        """Prepare.

        Args:
            run_id: The flow run.
            run_attempt: Its attempt.
            owner: Who holds the claim on it.
            flow: Says whether and how results are kept of tasks that do not say so themselves.
        """
        self.run_id, self.run_attempt, self.owner, self.flow = run_id, run_attempt, owner, flow
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._position = 0
        #: Ids of steps whose values are kept and not to be held.
        self._unheld: set[str] = set()

    def open(self, name: str, kind: Kind, path: str | None = None) -> Step:
        """The next step of this name."""
        stem = names.step_name(name)
        with self._lock:
            number, position = self._counts[stem], self._position
            self._counts[stem] += 1
            self._position += 1
        key = f"{BRANCH}/{stem}-{number}"
        step_id = identifiers.step_id(self.run_id, self.run_attempt, key)
        return Step(step_id, key, f"{name}-{number}", kind, position, clock.now(), path)

    def retrying(self, step: Step, state: State[Any]) -> None:
        """An attempt of the step failed, and another one follows."""
        behind().add(tables.states, self._state(step, State(state.type, "Retrying", state.message)))

    def waiting(self, step: Step) -> None:
        """The step waits for a slot of a concurrency limit."""
        behind().add(tables.states, self._state(step, AwaitingConcurrencySlot()))

    def close(
        self,
        step: Step,
        state: State[Any],
        *,
        attempt: int = 1,
        task: TaskSpec | None = None,
        joint: Joint | None = None,
        known: Kept | None = None,
    ) -> None:
        """The step has ended."""
        keep = task is not None and self._keeps(task) and state.is_completed()
        result = NOTHING
        if task is not None and keep:
            result = known or kept(state.data, step.name, task, self.flow, ahead=joint is None)
        row = self._row(step, state, attempt, result.data)
        if task is not None and not task.cache_result_in_memory and result.data is not None:
            self._unheld.add(step.id)
        if joint is not None:
            local_runs.end_step(joint, self.owner, row, result.data, result.blob)
        elif result.blob is None:
            behind().add(tables.steps, row, keep=True)
        else:
            self._write_large(step, row, result)
        if attempt > 1:
            behind().add(tables.states, self._state(step, state))

    def reader(self, step: Step) -> Callable[[], Any] | None:
        """What reads the value of a step that has ended, if its task wants it not to be held, and it was kept."""
        return partial(self._read, step) if step.id in self._unheld else None

    def _read(self, step: Step) -> Any:
        behind().flush()
        data = journal.result_of(database(), self.run_id, self.run_attempt, clean_text(step.key or step.id))
        if data is None:
            raise MissingResult(f"the result of run {step.name!r} is not in the database any more")
        return decode(data)

    def _keeps(self, task: TaskSpec) -> bool:
        return self.flow.keeps_results if task.keeps_result is None else task.keeps_result

    def _write_large(self, step: Step, row: dict[str, Any], result: Kept) -> None:
        """Write a row at once, as it must see that nobody deletes its blob meanwhile."""
        try:
            local_runs.write_step(database(), row, result.data, result.blob)
        except OrchestraError as error:
            _logger.warning("the result of run %r is not kept: %s", step.name, error)
            self._unheld.discard(step.id)
            behind().add(tables.steps, row | {"result": None}, keep=True)

    def pause_row(self, step: Step, until: float, question: Question) -> dict[str, Any]:
        """The row of a pause that begins now, asks for this, and ends at `until` at the latest."""
        return self._row(step, Paused(), 1, None) | {
            "inputs": question.encoded(),
            "phase": Phase.READY.value,
            "due_at": until,
            "announce_at": until,
            "end_time": None,
        }

    def _row(self, step: Step, state: State[Any], attempt: int, result: bytes | None) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "run_attempt": self.run_attempt,
            "step_key": clean_text(step.key or step.id),
            "id": step.id,
            "branch": BRANCH,
            "position": step.position,
            "sequence": step.position,
            "kind": step.kind.value,
            "name": clean_text(step.name),
            "path": step.path,
            "recorded_attempt": self.run_attempt,
            "attempt": attempt,
            "inline": True,
            "child_run_id": step.child_run_id,
            "tags": encode_tags(step.tags),
            "phase": Phase.DONE.value,
            "state_type": state.type.value,
            "state_name": clean_text(state.name),
            "state_message": None if state.message is None else clean_text(state.message),
            "result": result,
            "created_at": step.start_time,
            "start_time": step.start_time,
            "end_time": clock.now(),
        }

    def _state(self, step: Step, state: State[Any]) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "step_id": step.id,
            "type": state.type.value,
            "name": clean_text(state.name),
            "message": None if state.message is None else clean_text(state.message),
            "timestamp": state.timestamp.timestamp(),
        }


class Finished:
    """What ended well in one run attempt, for the next one: asked for with equal inputs, it is not run again."""

    def __init__(self, earlier: Finished | None) -> None:
        self._earlier = {} if earlier is None else earlier._ended
        self._ended: dict[tuple[str, bytes], State[Any]] = {}

    def find(self, step: Step, inputs: Any) -> State[Any] | None:
        """How this step ended in the run attempt before."""
        state = self._earlier.get(key) if self._earlier and (key := _key(step, inputs)) else None
        if state is not None and key is not None:
            self._ended[key] = state
        return state

    def keep(self, step: Step, inputs: Any, state: State[Any]) -> None:
        """Keep how a step ended, if it ended well and its inputs can be told apart."""
        if state.is_completed() and (key := _key(step, inputs)):
            self._ended[key] = state


def _key(step: Step, inputs: Any) -> tuple[str, bytes] | None:
    try:
        return (step.key or step.id), encode(inputs)
    except OrchestraError:
        return None


NOTHING = Kept()


def kept(value: Any, name: str, spec: TaskSpec | FlowSpec, flow: FlowSpec | None = None, *, ahead: bool = True) -> Kept:
    """A result to keep, as `results.keep_local`; nothing, with a warning, where it cannot be kept."""
    try:
        return results.keep_local(database(), value, spec, flow, ahead=ahead)
    except OrchestraError as error:
        _logger.warning("the result of run %r is not kept: %s", name, error)
        return NOTHING
