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
from orchestra.digests import digest
from orchestra.engine import history
from orchestra.engine.history import UnwrittenTries
from orchestra.errors import MissingResult, NoDigest, OrchestraError
from orchestra.questions import Question
from orchestra.results import Kept
from orchestra.serializers import clean_text, decode, encode
from orchestra.specs import FlowSpec, TaskSpec
from orchestra.states import Completed, Paused, State, StateDetails
from orchestra.store import journal, local_runs, runs, tables
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
    #: Once its body was called, where that is recorded.
    tries: UnwrittenTries | None = None


class StepBook(Protocol):
    """Numbers steps, and keeps how they ended."""

    def open(self, name: str, kind: Kind, path: str | None = None) -> Step:
        """The next step of this name."""
        ...

    def running(self, step: Step) -> None:
        """An attempt of the step starts."""
        ...

    def retrying(self, step: Step, state: State[Any], delay: float) -> None:
        """An attempt of the step failed, and another one follows after a delay."""
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
        inputs: Any = None,
    ) -> None:
        """The step has ended.

        Args:
            joint: The transaction of its body, which this ends: the record is there when this returns.
            known: Its result, where the cache has kept it already.
            inputs: What a later run attempt must ask with to be answered by it; None: none is.
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

    def running(self, step: Step) -> None:
        """Keeps nothing."""

    def retrying(self, step: Step, state: State[Any], delay: float) -> None:
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
        inputs: Any = None,
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

    def running(self, step: Step) -> None:
        """An attempt of the step starts."""
        if step.tries is None:
            step.tries = UnwrittenTries(self.run_id, step.id)
        step.tries.begin()

    def retrying(self, step: Step, state: State[Any], delay: float) -> None:
        """An attempt of the step failed, and another one follows after a delay."""
        assert step.tries is not None
        step.tries.retry(state, delay)

    def waiting(self, step: Step) -> None:
        """The step waits for a slot of a concurrency limit."""
        history.note(self.run_id, "SCHEDULED", "AwaitingConcurrencySlot", step_id=step.id)

    def close(
        self,
        step: Step,
        state: State[Any],
        *,
        attempt: int = 1,
        task: TaskSpec | None = None,
        joint: Joint | None = None,
        known: Kept | None = None,
        inputs: Any = None,
    ) -> None:
        """The step has ended."""
        keep = task is not None and self._keeps(task) and state.is_completed()
        result = NOTHING
        if task is not None and keep:
            result = known or kept(state.data, step.name, task, self.flow, ahead=joint is None)
        row = self._row(step, state, attempt, result.data)
        if inputs is not None and (result != NOTHING or step.child_run_id is not None):
            row["inputs_fingerprint"] = _fingerprint(inputs)
        if task is not None and not task.cache_result_in_memory and result.data is not None:
            self._unheld.add(step.id)
        if joint is not None:
            local_runs.end_step(joint, self.owner, row, result.data, result.blob)
        elif result.blob is None:
            behind().add(tables.steps, row, keep=True)
        else:
            self._write_large(step, row, result)

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
            "inputs_fingerprint": None,
            "tags": encode_tags(step.tags),
            "phase": Phase.DONE.value,
            "state_type": state.type.value,
            "state_name": clean_text(state.name),
            "state_message": None if state.message is None else clean_text(state.message),
            "result": result,
            "created_at": step.start_time,
            "running_at": None if step.tries is None else step.tries.running_at(),
            "start_time": step.start_time,
            "end_time": clock.now(),
        }


class KeptEarlier:
    """The results that earlier run attempts of a run have left, most likely in another process."""

    def __init__(self, run_id: str) -> None:
        """Look them up; each is read when it is asked for."""
        self._run_id = run_id
        self._steps = local_runs.kept_steps(database(), run_id)

    def find(self, step: Step, inputs: Any) -> State[Any] | None:
        """How this step ended, if it did with equal inputs; None too, with a warning, where its result is gone."""
        found = self._steps.get(clean_text(step.key or step.id))
        if found is None or found.fingerprint != _fingerprint(inputs):
            return None
        try:
            data = self._data(found, step)
            details = StateDetails(found.child_run_id or self._run_id, None if found.child_run_id else step.id)
            return None if data is None else Completed(data=decode(data), state_details=details)
        except OrchestraError as error:
            _logger.warning("run %r is run again: %s", step.name, error)
            return None

    def _data(self, found: local_runs.KeptStep, step: Step) -> bytes | None:
        if found.child_run_id is not None:
            return runs.result_of(database(), runs.read(database(), found.child_run_id))
        return journal.result_of(database(), self._run_id, found.run_attempt, clean_text(step.key or step.id))


class Finished:
    """What ended well in one run attempt, for the next one: asked for with equal inputs, it is not run again."""

    def __init__(self, earlier: Finished | None, kept: KeptEarlier | None = None) -> None:
        """Go on.

        Args:
            earlier: What the attempt before has ended in this process.
            kept: What attempts before that have left.
        """
        self._earlier = {} if earlier is None else earlier._ended
        self._kept: KeptEarlier | None = earlier._kept if earlier is not None else kept
        self._ended: dict[tuple[str, bytes], State[Any]] = {}

    def find(self, step: Step, inputs: Any) -> State[Any] | None:
        """How this step ended in the run attempt before."""
        key = _key(step, inputs) if self._earlier or self._kept else None
        if key is None:
            return None
        state = self._earlier.get(key) or (None if self._kept is None else self._kept.find(step, inputs))
        if state is not None:
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


def _fingerprint(inputs: Any) -> str | None:
    """What tells inputs apart in every process; None where nothing can."""
    try:
        return digest(inputs)[:32]
    except NoDigest:
        return None


NOTHING = Kept()


def kept(value: Any, name: str, spec: TaskSpec | FlowSpec, flow: FlowSpec | None = None, *, ahead: bool = True) -> Kept:
    """A result to keep, as `results.keep_local`; nothing, with a warning, where it cannot be kept."""
    try:
        return results.keep_local(database(), value, spec, flow, ahead=ahead)
    except OrchestraError as error:
        _logger.warning("the result of run %r is not kept: %s", name, error)
        return NOTHING
