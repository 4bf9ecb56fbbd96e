"""A local flow run whose submitted tasks go to Celery workers (`CeleryTaskRunner`).

Each is a row of the run's journal, written under the run's own claim, announced, claimed and ended by workers as any
other; here its future looks for the end of the row. One thread of the run writes what was submitted, many at a time,
and looks. Direct calls are carried out here.

When this process dies, its run is marked Crashed by the rule of local runs, and the rows that nobody has claimed end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from orchestra import clock, graph, lazy, states
from orchestra.context import TaskRunContext, flow_run_context, transaction_here
from orchestra.engine import definitions
from orchestra.engine.arguments import find_futures, replace_futures, settled
from orchestra.engine.journaled import fingerprint_of
from orchestra.engine.values import encode_inputs, state_of
from orchestra.errors import (
    CancelledRun,
    CancelRequested,
    ClaimLost,
    CrashedRun,
    OrchestraError,
    StoreError,
    StoreUnavailable,
    UpstreamFailed,
)
from orchestra.futures import Future
from orchestra.graph import Edge
from orchestra.results import check_parameters
from orchestra.runners.carrier import Carrier
from orchestra.runners.local import FlowRunner, LocalRunner, inputs_of, upstreams_of
from orchestra.runners.local_future import LocalFuture
from orchestra.runners.steps import BRANCH, Finished, Recorded, Step
from orchestra.serializers import StepRef, clean_text
from orchestra.specs import Call, FlowSpec, TaskSpec, overridden, require_importable
from orchestra.states import State, StateDetails, StateType
from orchestra.store import journal, local_runs
from orchestra.store.claims import Claim
from orchestra.store.database import Database
from orchestra.store.journal import NewStep, StepRecord
from orchestra.store.tables import Kind
from orchestra.store.wake import BACKSTOP, STEP, Bell
from orchestra.task_runners import CeleryTaskRunner

_logger = logging.getLogger("orchestra.engine")

#: First and longest pause between two looks, in seconds, and how it grows.
_PAUSES, _GROWTH = (0.002, 0.25), 1.3
#: A look takes at most this part of the time.
_SHARE = 0.1
#: Steps named in one look; where more are open, those that are not any more are found first.
_FEW = 50
#: Pause before a look is repeated that the database did not answer, in seconds.
_AWAY = 1.0


class RemoteFuture(LocalFuture):
    """A task run on a worker, by its row."""

    def __init__(self, step: Step, runner: RemoteRunner) -> None:
        super().__init__(step, runner, ())
        self.step = step
        self._runner = runner
        #: Told of its end before anybody who waits for it is.
        self.told: Callable[[State[Any]], object] = _nothing

    @property
    def state(self) -> State[Any]:
        """The present state, as its row says."""
        return self.peek() or self._runner.present_state(self.step)

    def run(self) -> None:
        """Nothing: a worker runs it."""

    def drop(self) -> None:
        """Give up waiting for it."""
        self.end(states.from_exception(CancelledRun("its flow run ended before it did")))

    def end(self, state: State[Any]) -> None:
        """Note how it has ended, unless that is known."""
        with self._lock:
            if self.box.done():
                return
            self.box.set_running_or_notify_cancel()
        self.told(state)
        self.box.set_result(state)


@dataclass(frozen=True, slots=True)
class _Submitted:
    future: RemoteFuture
    call: Call


class RemoteRunner(LocalRunner):
    """Carries out direct calls here, and has workers carry out submitted ones."""

    def __init__(
        self,
        book: Recorded,
        flows: FlowRunner,
        *,
        flow: FlowSpec,
        claim: Claim,
        carrier: Carrier,
        database: Database,
        finished: Finished | None = None,
    ) -> None:
        """Prepare.

        Args:
            book: Numbers and records the steps.
            flows: Carries out child runs.
            flow: The flow whose run this is.
            claim: Of this process, on the run.
            carrier: Carries announcements to workers.
            database: Where the rows are.
            finished: What the run attempt before has ended.
        """
        super().__init__(book, flows, finished=finished)
        self._flow, self._claim, self._carrier, self._database = flow, claim, carrier, database
        self._changed = threading.Condition()
        self._new: list[NewStep] = []
        #: By step key, until their ends are known here.
        self._awaited: dict[str, _Submitted] = {}
        self._keys: set[str] = set()
        self._thread: threading.Thread | None = None
        #: Rings when something of the run changes; there is one once there is the thread.
        self._bell: Bell | None = None
        self._has_rung = self._over = False

    def submit_task(self, task: TaskSpec, call: Call) -> Future[Any]:
        """Have a worker run the task when its upstreams have ended; returns at once.

        Raises:
            NotImportable: A worker could not find the task.
            SerializationError: It could not be handed the arguments.
        """
        require_importable(task.path, "task")
        self.wait([future for future in upstreams_of(call) if not self._is_row(future)], None)
        step = self._open_task(task)
        future = RemoteFuture(step, self)
        if (txn := transaction_here()) is not None:
            txn.submitted.append(future)
            future.told = partial(_tell_transaction, txn, task, step)
        try:
            inputs = self._encoded(task, call)
        except UpstreamFailed as error:
            future.end(self._not_run(task, step, error))
            return future
        if (state := self._found(step, call)) is not None:
            future.end(state)
            return future
        self._submit(future, call, self._row(task, call, step, inputs))
        return future

    def present_state(self, step: Step) -> State[Any]:
        """The state of a submitted task run, as its row says."""
        found = journal.load_steps(self._database, self._claim.run_id, self._claim.run_attempt, [step.key or ""])
        if not found:
            return states.Pending(state_details=self._details_of(step))
        (record,) = found
        if record.done:
            return self._final(step, record)
        kind = StateType(record.state_type)
        return State(kind, record.state_name, record.state_message, state_details=self._details_of(step))

    def abandon(self) -> None:
        """End what no worker has claimed, tell the workers of the rest, and wait for neither."""
        self.stop()
        self._end_thread()
        if self._awaited:
            try:
                local_runs.end_idle_steps(self._database, self._claim.run_id, self._claim.run_attempt)
            except StoreError:
                # Then they end together with their flow run, in the transaction that ends it.
                _logger.warning("could not end the tasks that wait", exc_info=True)
        super().abandon()

    def _shut(self) -> None:
        self._end_thread()
        super()._shut()

    def _end_thread(self) -> None:
        with self._changed:
            self._over = True
            self._new.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_AWAY)
        if self._bell is not None:
            self._bell.close()

    def _ring(self) -> None:
        with self._changed:
            self._has_rung = True
            self._changed.notify()

    # -- a call as a row -----------------------------------------------------------------------------------------

    def _submit(self, future: RemoteFuture, call: Call, new: NewStep) -> None:
        with self._lock:
            self._submitted[future] = None
        future.add_done_callback(self._forget)
        with self._changed:
            self._new.append(new)
            self._keys.add(new.key)
            self._awaited[new.key] = _Submitted(future, call)
            if self._thread is None:
                self._warn_of_slot()
                self._bell = self._database.wake.bell((STEP, self._claim.run_id), ring=self._ring)
                self._thread = threading.Thread(target=self._work, name="orchestra-submitted", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _warn_of_slot(self) -> None:
        """Say so where this process is a worker: whoever waits for tasks there may keep the last slot from them."""
        enclosing = lazy.load("enclosing_celery_task")()
        if enclosing is not None:
            _logger.warning(
                "flow %r was called inside of Celery task %r and holds its worker's slot while it waits for the tasks "
                "that CeleryTaskRunner sends: if no other slot takes their queues, they never start. Start it by "
                ".delay(), which waits without a slot, or leave the task runner out",
                self._flow.name, enclosing,
            )  # fmt: skip

    def _is_row(self, future: Future[Any]) -> bool:
        return isinstance(future, RemoteFuture) and future.waiter is self and future.step.key in self._keys

    def _encoded(self, task: TaskSpec, call: Call) -> bytes:
        """The arguments, with step keys in the place of this run's rows and values in that of other futures.

        Raises:
            UpstreamFailed: Another future did not succeed.
        """

        def replace(future: Future[Any], strict: bool) -> Any:
            if isinstance(future, RemoteFuture) and self._is_row(future):
                return StepRef(future.step.key or "", allow_failure=not strict)
            return settled(future, strict)

        replace_futures(call.wait_for, replace)
        inputs = encode_inputs(replace_futures(call.args, replace), replace_futures(call.kwargs, replace))
        return check_parameters(inputs, what=f"the set of arguments of task {task.name!r}")

    def _found(self, step: Step, call: Call) -> State[Any] | None:
        """How the step ended in the run attempt before, if all that it takes is known here and alike."""
        if self.finished is None or any(future.peek() is None for future in upstreams_of(call)):
            return None
        try:
            return self._find(step, *inputs_of(call))
        except UpstreamFailed:
            return None

    def _row(self, task: TaskSpec, call: Call, step: Step, inputs: bytes) -> NewStep:
        edges = [
            Edge(future.step.key or "", strict)
            for future, strict in find_futures((call.args, call.kwargs, call.wait_for))
            if isinstance(future, RemoteFuture) and self._is_row(future)
        ]
        queue, priority = self._route(task)
        return NewStep(
            key=step.key or "",
            branch=BRANCH,
            position=step.position,
            sequence=step.position,
            kind=Kind.TASK,
            name=clean_text(step.name),
            path=task.path,
            options=definitions.encoded_options(_with_prints(task)),
            inputs=inputs,
            fingerprint=fingerprint_of(inputs),
            edges=tuple(edges),
            queue=queue,
            priority=priority,
            lease_seconds=task.lease_seconds,
            tags=step.tags,
        )

    def _route(self, task: TaskSpec) -> tuple[str, int | None]:
        """Queue and priority: the task's own, else the task runner's, else as the app routes, else the flow's."""
        runner = self._flow.task_runner
        named = task.queue or (runner.queue if isinstance(runner, CeleryTaskRunner) else None)
        routed, routed_priority = (None, None) if named else self._carrier.route(task.routed_as)
        queue = named or routed or self._flow.queue or self._carrier.default_queue
        ranks = task.priority, routed_priority, self._flow.priority
        return queue, next((each for each in ranks if each is not None), None)

    # -- the thread of the run -----------------------------------------------------------------------------------

    def _work(self) -> None:
        """Write what was submitted, and look for what has ended."""
        least = pause = _PAUSES[0]
        while (new := self._next(least, pause)) is not None:
            begun = clock.monotonic()
            try:
                self._write(new)
                has_news = self._look()
            except StoreUnavailable:
                _logger.warning("the database is away; submitted tasks wait for it", exc_info=True)
                self._take_back(new)
                least = pause = _AWAY
                continue
            except CancelRequested as error:
                self._give_up(states.from_exception(CancelledRun(str(error))))
                continue
            except ClaimLost:
                self._give_up(states.from_exception(CrashedRun("its flow run was taken for dead, and ended elsewhere")))
                continue
            except Exception as error:
                self._fail(new, error)
                continue
            least = max(_PAUSES[0], min((clock.monotonic() - begun) / _SHARE, _PAUSES[1]))
            pause = _PAUSES[0] if has_news else min(max(pause * _GROWTH, least), _PAUSES[1])

    def _next(self, least: float, pause: float) -> list[NewStep] | None:
        """What was submitted; None: the run is over.

        It returns after `pause` seconds at the latest, where hints are heard after the first of them that comes; in any
        case not before `least` seconds, unless there is something new.
        """

        def is_called() -> bool:
            return bool(self._new) or self._over

        with self._changed:
            if not self._awaited:
                self._changed.wait_for(is_called)
            elif not self._changed.wait_for(is_called, least):
                rest = BACKSTOP if self._bell is not None and self._bell.is_live else max(pause - least, 0.0)
                self._changed.wait_for(lambda: self._has_rung or is_called(), rest)
            self._has_rung = False
            if self._over and not self._new:
                return None
            new, self._new = self._new, []
            return new

    def _write(self, new: list[NewStep]) -> None:
        """Write rows, and announce them. A crash before leaves nothing, one after it a run that is ended as dead."""
        if new:
            announcements = journal.record(self._database, self._claim, new, window=self._window, dispatched=True)
            self._carrier.announce(announcements)

    def _window(self, queue: str) -> int:
        return graph.window(self._carrier.slots(queue))

    def _take_back(self, new: list[NewStep]) -> None:
        """Write them again: those that are written already stay as they are."""
        with self._changed:
            if not self._stopped:
                self._new = new + self._new

    def _look(self) -> bool:
        """Note the ends of what has ended; whether any has."""
        run_id, attempt = self._claim.run_id, self._claim.run_attempt
        with self._changed:
            unwritten = {step.key for step in self._new}
            keys = [key for key in self._awaited if key not in unwritten]
        if len(keys) > _FEW:
            still_open = journal.open_keys(self._database, run_id, attempt)
            keys = [key for key in keys if key not in still_open]
        if not keys:
            return False
        found = [record for record in journal.load_steps(self._database, run_id, attempt, keys) if record.done]
        self._note_ends(sorted(found, key=lambda record: record.sequence))
        return bool(found)

    def _note_ends(self, records: Sequence[StepRecord]) -> None:
        ended = []
        for record in records:
            with self._changed:
                submitted = self._awaited.pop(record.key, None)
            if submitted is not None:
                state = self._final(submitted.future.step, record)
                submitted.future.end(state)
                ended.append((submitted, state))
        for submitted, state in ended:
            self._keep(submitted, state)

    def _keep(self, submitted: _Submitted, state: State[Any]) -> None:
        """Keep it for the next run attempt."""
        if self.finished is not None and state.is_completed():
            self.finished.keep(submitted.future.step, inputs_of(submitted.call), state)

    def _final(self, step: Step, record: StepRecord) -> State[Any]:
        run_id, attempt = self._claim.run_id, self._claim.run_attempt
        data = record.result
        try:
            if record.large:
                data = journal.result_of(self._database, run_id, attempt, record.key)
            name, message, details = record.state_name, record.state_message, self._details_of(step)
            return state_of(record.state_type, name, message, data, details)
        except StoreUnavailable:
            raise
        except OrchestraError as error:
            return states.from_exception(error)

    def _details_of(self, step: Step) -> StateDetails:
        return StateDetails(self._claim.run_id, step.id)

    def _give_up(self, state: State[Any]) -> None:
        """The run is over: nothing more is submitted, and nothing waited for."""
        self.stop()
        with self._changed:
            given_up, self._awaited = list(self._awaited.values()), {}
            self._new.clear()
        for submitted in reversed(given_up):
            submitted.future.end(state)

    def _fail(self, new: list[NewStep], error: Exception) -> None:
        """The database refuses these rows for good."""
        _logger.error("submitted tasks could not be written", exc_info=error)
        for step in new:
            with self._changed:
                submitted = self._awaited.pop(step.key, None)
            if submitted is not None:
                submitted.future.end(states.from_exception(error))


def _with_prints(task: TaskSpec) -> TaskSpec:
    """The task as its worker is to have it, which may not know the flow: with the flow's `log_prints`."""
    flow_run = flow_run_context.get()
    prints = task.log_prints is None and flow_run is not None and flow_run.log_prints
    return overridden(task, {"log_prints": True}) if prints else task


def _nothing(state: State[Any]) -> None:
    pass


def _tell_transaction(txn: Any, task: TaskSpec, step: Step, state: State[Any]) -> None:
    """The hooks of a task that a worker has run are registered here, by the process that will call them."""
    if state.is_completed() and task.has_transaction_hooks:
        key = step.key or step.id
        txn.task_ended(TaskRunContext(task, step.id, step.name, txn.flow_run, key, 1, key))
