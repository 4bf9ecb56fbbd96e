"""The durable runner: what a flow body's calls become on a worker. Each is a step; the journal answers those it has.

A call that the journal has not is carried out (inline), or handed to other workers (dispatched). Where a value is not
there yet, the segment parks: what was asked is written, the claim released, and the body left by a signal.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestra import clock, graph, identifiers, names, results, serializers, states
from orchestra.context import FlowRunContext, TaskRunContext
from orchestra.engine import interrupts
from orchestra.engine.arguments import find_futures, replace_futures, settled
from orchestra.engine.branches import Waiters, current_line
from orchestra.engine.future import JournalFuture
from orchestra.engine.parameters import bind, signature
from orchestra.engine.run_names import task_run_name
from orchestra.engine.task_run import Ended, RetryLater, run_attempts, run_attempts_async
from orchestra.engine.values import encode_inputs, ending_of, state_of
from orchestra.errors import (
    Adrift,
    Cancelled,
    CancelRequested,
    ClaimLost,
    DefinitionError,
    Fenced,
    ForeignThread,
    NonDeterministic,
    OrchestraError,
    Parked,
    RunTimeout,
    SerializationError,
    Signal,
    StoreError,
    UpstreamFailed,
)
from orchestra.failpoints import failpoint
from orchestra.futures import Future
from orchestra.graph import Edge
from orchestra.journal import Asked, Branch, Replay
from orchestra.logging import engine_logger
from orchestra.runners.carrier import Carrier
from orchestra.serializers import StepRef
from orchestra.specs import Call, FlowSpec, TaskSpec, require_importable
from orchestra.states import State, StateDetails, StateType
from orchestra.store import claims, journal, runs, waits
from orchestra.store.announcements import Announcement
from orchestra.store.claims import Claim, Claimed
from orchestra.store.database import Database
from orchestra.store.journal import Ending, NewStep, StepRecord
from orchestra.store.runs import NewRun
from orchestra.store.tables import Kind
from orchestra.store.waits import Park

T = TypeVar("T")

logger = logging.getLogger("orchestra.engine")

#: Retry delays and sleeps below this are slept in place, in seconds.
IN_PLACE = 1.0
#: For how long a segment may wait in its slot for steps that others work on, per streak of parks, in seconds.
LINGER = 0.05
_LINGER_POLL = 0.001
#: For how long steps announced just now may wait for another slot before this one is freed, in seconds.
OFFER = 0.008
#: Child runs nested deeper than this are sent as messages instead of run inside their parent.
INLINE_DEPTH = 20
#: Body code between two journaled steps that takes longer is warned of, in seconds.
SLOW_REPLAY = 1.0
#: Steps named in one look; more are found by the time of their end.
_FEW = 50
#: Clocks of several hosts may differ by this much when steps are found by the time of their end, in seconds.
_OVERLAP = 5.0

#: Observations of futures: a retry runs failed tasks again, so that these hold in their run attempt only.
_SEEN_OF_FUTURES = frozenset({"as_completed", "deadline", "done", "state", "wait"})
_NONE = serializers.encode(None)

#: Runs a claimed child run here; gives its final state, or None where it parked.
RunChild = Callable[[FlowSpec, Claimed], "State[Any] | None"]


@dataclass(eq=False, slots=True)
class _Suspended:
    """A branch that waits for steps."""

    future: asyncio.Future[None]
    keys: list[str]
    first: bool


@dataclass(frozen=True, slots=True)
class _Wait:
    """Steps that a branch waits for: all, or the first of them."""

    keys: Sequence[str]
    first: bool

    @property
    def digest(self) -> str:
        """Tells this wait from others at the same position: once over, the same wait is over for good."""
        return identifiers.fingerprint(repr((list(self.keys), self.first)).encode())[:8]


class DurableRunner:
    """Carries out the calls of one segment of one flow run."""

    def __init__(
        self,
        database: Database,
        claimed: Claimed,
        flow: FlowSpec,
        carrier: Carrier,
        records: Sequence[StepRecord],
        run_child: RunChild,
        waiters: Waiters,
    ) -> None:
        """Begin a segment.

        Args:
            claimed: The claim on the flow run.
            records: The journal of its run attempt.
            run_child: Runs a child run inside this segment.
            waiters: Of the event loop that the body runs in, or would run in.
        """
        self.database = database
        self.claim: Claim = claimed.claim
        self.row = claimed.row
        self.flow = flow
        self.carrier = carrier
        self.context: FlowRunContext
        self.parked = False
        self.replay: Replay[StepRecord] = Replay(records, self.claim.run_attempt)
        self._run_child = run_child
        self._records: dict[str, StepRecord] = {record.key: record for record in records}
        self._states: dict[str, State[Any]] = {}
        self._unwritten: list[NewStep] = []
        self._open: set[str] = {record.key for record in records if not record.done}
        self._sequence = max((record.sequence for record in records), default=-1) + 1
        self._callbacks: dict[str, list[Callable[[], object]]] = {}
        self._seen_until = clock.now()
        #: The run's deadline on this process's monotonic clock: the database's clock may be another.
        self._deadline = _deadline(claimed.row)
        self._linger_until: float | None = None
        self._offered_until = 0.0
        self._timed_out = False
        self._suspended: list[_Suspended] = []
        #: When the journal last answered; then the body's own code runs, again in each replay.
        self._replayed_at: float | None = None
        self._warned_slow = False
        #: What is looked at just now: a look may not ask for steps of its own.
        self._observing: str | None = None
        #: Async inline calls whose bodies run.
        self._inline = 0
        #: Set once the database was away: nothing of this segment may be written after that.
        self.broken: StoreError | None = None
        #: Set once replay differed from the journal: a body that swallows it does not go on.
        self.mismatch: NonDeterministic | None = None
        self._waiters = waiters
        waiters.looks.append(self._look)

    # -- direct calls --------------------------------------------------------------------------------------------

    def call_task(self, task: TaskSpec, call: Call) -> State[Any]:
        """Run the task inline if this worker consumes its queue, else dispatch it and wait."""
        if task.persist_result is False:
            return self._call_unjournaled(task, call)
        self.check(task.name)
        self._wait_for_futures(call)
        asked, record, inputs = self._ask_task(task, call)
        if record is not None:
            self._wait_for_keys([asked.key])
            return self._state(asked.key)
        started = self._begin_inline(asked, task, call, inputs)
        if isinstance(started, State):
            return started
        if started is None:
            self._wait_for_keys([asked.key])
            return self._state(asked.key)
        args, kwargs, context = started
        start_time = clock.now()
        outcome = run_attempts(
            task, args, kwargs, context, longest_sleep=_longest_sleep(task, inputs), before_attempt=self._before_body
        )
        final = self._journal_inline(asked, task, inputs, outcome, start_time)
        if final is None:
            self._wait_for_keys([asked.key])
            return self._state(asked.key)
        return final

    async def call_task_async(self, task: TaskSpec, call: Call) -> State[Any]:
        """As `call_task`, for a coroutine function, in the body's loop."""
        if task.persist_result is False:
            return await self._call_unjournaled_async(task, call)
        self.check(task.name)
        await self._wait_for_futures_async(call)
        asked, record, inputs = self._ask_task(task, call)
        if record is not None:
            await self._wait_for_keys_async([asked.key])
            return self._state(asked.key)
        started = self._begin_inline(asked, task, call, inputs)
        if isinstance(started, State):
            return started
        if started is None:
            await self._wait_for_keys_async([asked.key])
            return self._state(asked.key)
        args, kwargs, context = started
        start_time = clock.now()
        self._inline += 1
        try:
            longest = _longest_sleep(task, inputs)
            outcome = await run_attempts_async(
                task, args, kwargs, context, longest_sleep=longest, before_attempt=self._before_body
            )
        finally:
            self._inline -= 1
        final = self._journal_inline(asked, task, inputs, outcome, start_time)
        if final is None:
            await self._wait_for_keys_async([asked.key])
            return self._state(asked.key)
        return final

    def _ask_task(self, task: TaskSpec, call: Call) -> tuple[Asked, StepRecord | None, bytes | None]:
        """Ask for the step of a call; gives its record, if any, and its encoded inputs, where they are needed."""
        self._check_deadline()
        inputs = _encoded_inputs(call)
        asked = self._line().ask(names.step_name(task.name))
        upstreams = [_key_of(future) for future, _ in _futures_of(call)]
        return asked, self._answer(asked, inputs, upstreams=upstreams), inputs

    def _begin_inline(
        self, asked: Asked, task: TaskSpec, call: Call, inputs: bytes | None
    ) -> State[Any] | tuple[tuple[Any, ...], dict[str, Any], TaskRunContext] | None:
        """Get a new direct call ready to run here: its arguments and context.

        Gives a final state where an upstream failed, None where the call was dispatched to another queue.
        """
        queue, priority = self.route(task.queue, task.priority, task.path)
        try:
            args = replace_futures(call.args, settled)
            kwargs = replace_futures(call.kwargs, settled)
            replace_futures(list(call.wait_for), settled)
        except UpstreamFailed as error:
            ending, final = ending_of(states.from_exception(error), what=task.name)
            self._write([self._new(asked, task, inputs, ending=ending)])
            return final
        if queue not in self.carrier.queues:
            try:
                step = self._new(asked, task, _sendable(task, inputs), queue=queue, priority=priority)
            except OrchestraError as error:
                # Asked for, so it is journaled: in a replay another worker may consume the queue.
                ending, final = ending_of(states.from_exception(error), what=task.name)
                self._write([self._new(asked, task, None, ending=ending)])
                return final
            self._unwritten.append(step)
            self._open.add(asked.key)
            return None
        self.dispatch()
        return args, kwargs, self._task_context(asked, task, args, kwargs)

    def _journal_inline(
        self, asked: Asked, task: TaskSpec, inputs: bytes | None, outcome: Ended | RetryLater, start_time: float
    ) -> State[Any] | None:
        """Write how an inline call ended; None where it is to be tried again later, elsewhere."""
        failpoint("after_body")
        if isinstance(outcome, RetryLater):
            queue, priority = self.route(task.queue, task.priority, task.path)
            step = self._new(asked, task, inputs, queue=queue, priority=priority)
            step.delay, step.attempt = outcome.delay, outcome.attempt + 1
            self._unwritten.append(step)
            self._open.add(asked.key)
            return None
        ending, final = ending_of(
            outcome.state, what=f"the result of task {task.name!r}", start_time=start_time, attempt=outcome.attempt
        )
        step = self._new(asked, task, None, ending=ending)
        step.fingerprint = _fingerprint(inputs)
        step.inline, step.attempt = True, outcome.attempt
        self._write([step])
        return self._with_details(final, asked.key)

    def _call_unjournaled(self, task: TaskSpec, call: Call) -> State[Any]:
        """A direct call that says `persist_result=False`: it takes no place in the journal, and runs in each replay."""
        self.check(task.name)
        self._wait_for_futures(call)
        args, kwargs = replace_futures(call.args, settled), replace_futures(call.kwargs, settled)
        self.dispatch()
        context = self._task_context(self._line().peek(names.step_name(task.name)), task, args, kwargs)
        outcome = run_attempts(task, args, kwargs, context, before_attempt=self._before_body)
        return outcome.state

    async def _call_unjournaled_async(self, task: TaskSpec, call: Call) -> State[Any]:
        self.check(task.name)
        await self._wait_for_futures_async(call)
        args, kwargs = replace_futures(call.args, settled), replace_futures(call.kwargs, settled)
        self.dispatch()
        context = self._task_context(self._line().peek(names.step_name(task.name)), task, args, kwargs)
        outcome = await run_attempts_async(task, args, kwargs, context, before_attempt=self._before_body)
        return outcome.state

    def _before_body(self) -> None:
        """Just before a body starts: is the claim still ours?"""
        self.guard(lambda: claims.ensure(self.database, self.claim))
        failpoint("in_body")

    # -- submitted calls -----------------------------------------------------------------------------------------

    def submit_task(self, task: TaskSpec, call: Call) -> Future[Any]:
        """Add the call to the graph of this segment; it is dispatched before the body blocks or ends."""
        self.check(task.name)
        found = [*find_futures([call.args, call.kwargs]), *_wait_for_futures(call.wait_for)]
        # What may be refused is refused before the step is asked for: then a replay refuses it, too.
        require_importable(task.path, "task")
        inputs = encode_inputs(*_with_refs(call))
        self._check_deadline()
        asked = self._line().ask(names.step_name(task.name))
        if self._answer(asked, inputs, upstreams=[_key_of(future) for future, _ in found]) is None:
            queue, priority = self.route(task.queue, task.priority, task.path)
            step = self._new(asked, task, inputs, queue=queue, priority=priority)
            step.edges = tuple(Edge(_key_of(future), strict) for future, strict in found)
            self._unwritten.append(step)
            self._open.add(asked.key)
        return JournalFuture(self, asked.key)

    def dispatch(self) -> None:
        """Write what was submitted, and announce what of it is ready."""
        if any(step.ending is None for step in self._unwritten):
            self._flush(dispatched=True)

    # -- child runs ----------------------------------------------------------------------------------------------

    def call_flow(self, flow: FlowSpec, parameters: dict[str, Any], wait_for: tuple[Any, ...]) -> State[Any]:
        """Run a child run: inside this segment if its queue is consumed here, else by a message."""
        self.check(flow.name)
        self._wait_for_futures(Call((), parameters, wait_for))
        key = self._start_child(flow, parameters, wait_for)
        self._wait_for_keys([key])
        return self._state(key)

    async def call_flow_async(
        self, flow: FlowSpec, parameters: dict[str, Any], wait_for: tuple[Any, ...]
    ) -> State[Any]:
        """As `call_flow`; an async child run in an async body is sent as a message, so that its siblings go on."""
        self.check(flow.name)
        await self._wait_for_futures_async(Call((), parameters, wait_for))
        key = self._start_child(flow, parameters, wait_for, inside=False)
        await self._wait_for_keys_async([key])
        return self._state(key)

    def _start_child(
        self, flow: FlowSpec, parameters: dict[str, Any], wait_for: tuple[Any, ...], *, inside: bool = True
    ) -> str:
        values = replace_futures(parameters, settled)
        replace_futures(list(wait_for), settled)
        # Run inside or not: a child that parks is taken up alone.
        require_importable(flow.path, "flow")
        encoded = results.check_parameters(serializers.encode(values, what=f"the parameters of flow {flow.name!r}"))
        self._check_deadline()
        asked = self._line().ask(names.step_name(flow.name))
        if self._answer(asked, encoded) is not None:
            return asked.key
        child = self._new_child(asked, flow, encoded)
        inline = inside and child.queue in self.carrier.queues and child.depth < INLINE_DEPTH
        step = NewStep(
            asked.key,
            asked.branch,
            asked.position,
            self._next_sequence(),
            Kind.SUBFLOW,
            flow.name,
            flow.path,
            fingerprint=_fingerprint(encoded),
            queue=child.queue,
            child_run_id=child.id,
        )
        self._open.add(asked.key)
        claimed = self._write_child(step, child, inline)
        if claimed is not None:
            self._run_child(flow, claimed)
        return asked.key

    def _new_child(self, asked: Asked, flow: FlowSpec, parameters: bytes) -> NewRun:
        queue, priority = self.route(flow.queue, flow.priority, flow.path)
        return NewRun(
            id=identifiers.child_run_id(self.claim.run_id, self.claim.run_attempt, asked.key),
            flow_name=flow.name,
            path=flow.path,
            entrypoint=flow.entrypoint,
            name=names.run_name(),
            parameters=parameters,
            queue=queue,
            priority=priority,
            version=flow.version,
            timeout_seconds=flow.timeout_seconds,
            parent_run_id=self.claim.run_id,
            parent_attempt=self.claim.run_attempt,
            parent_step_key=asked.key,
            root_run_id=self.row["root_run_id"],
            depth=self.row["depth"] + 1,
        )

    def _write_child(self, step: NewStep, child: NewRun, inline: bool) -> Claimed | None:
        owner = identifiers.owner() if inline else None
        unwritten, self._unwritten = self._unwritten, []
        claimed, announcements = self.guard(
            lambda: runs.start_child(self.database, self.claim, step, child, unwritten, window=self.window, owner=owner)
        )
        self._announce(announcements)
        return claimed

    # -- sleeps, pauses, observations ----------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Go on after `seconds`; under a second in place, else without holding a slot."""
        key, short = self._ask_sleep(seconds)
        if short is not None:
            self.dispatch()
            time.sleep(short.delay)
            self._end_sleep(short)
        self._wait_for_keys([key])

    async def sleep_async(self, seconds: float) -> None:
        """As `sleep`, holding up the calling branch only."""
        key, short = self._ask_sleep(seconds)
        if short is not None:
            self.dispatch()
            await asyncio.sleep(short.delay)
            self.check("sleep")
            self._end_sleep(short)
        await self._wait_for_keys_async([key])

    def _ask_sleep(self, seconds: float) -> tuple[str, NewStep | None]:
        """Ask for a sleep; gives the step, too, where it is new and short enough to be slept in place."""
        self.check("sleep")
        self._check_deadline()
        asked = self._line().ask("sleep")
        if self._answer(asked, None) is None:
            step = self._plain(asked, Kind.SLEEP)
            step.delay = max(seconds, 0.0)
            if seconds < IN_PLACE:
                return asked.key, step
            self._unwritten.append(step)
            self._open.add(asked.key)
        return asked.key, None

    def _end_sleep(self, step: NewStep) -> None:
        step.ending = Ending(StateType.COMPLETED, "Completed", result=_NONE)
        self._states[step.key] = State(StateType.COMPLETED)
        self._unwritten.append(step)

    def pause(self, *, timeout: float, key: str | None) -> None:
        """Wait for a person.

        Raises:
            PauseTimeout: Nobody resumed the run in time.
        """
        step_key = self._ask_pause(timeout)
        self._wait_for_keys([step_key], shown=(StateType.PAUSED, "Paused"))
        self._state(step_key).result()

    async def pause_async(self, *, timeout: float, key: str | None) -> None:
        """As `pause`; the other branches stand still as well when all wait."""
        step_key = self._ask_pause(timeout)
        await self._wait_for_keys_async([step_key])
        self._state(step_key).result()

    def _ask_pause(self, timeout: float) -> str:
        self.check("pause_flow_run")
        self._check_deadline()
        asked = self._line().ask("pause")
        if self._answer(asked, None) is None:
            step = self._plain(asked, Kind.PAUSE)
            step.delay = timeout
            self._unwritten.append(step)
            self._open.add(asked.key)
        return asked.key

    def observe(self, name: str, look: Callable[[], T]) -> T:
        """What `look` gives, journaled: replay gives the same. Written with the next write of the segment.

        Raises:
            SerializationError: What it gives cannot be kept.
            Exception: What `look` raises; journaled too.
        """
        self.check(name)
        asked = self._line().ask(names.step_name(name))
        fingerprint = self._of_attempt if name in _SEEN_OF_FUTURES else None
        if self._answer(asked, None, fingerprint) is None:
            self._observing = name
            try:
                state: State[Any] = State(StateType.COMPLETED, data=look())
            except Exception as error:
                state = states.from_exception(error)
            finally:
                self._observing = None
            step = self._plain(asked, Kind.OBSERVATION)
            step.fingerprint = fingerprint
            step.ending, self._states[asked.key] = ending_of(state, what=f"what {name!r} saw")
            self._unwritten.append(step)
        value: T = self._state(asked.key).result()
        return value

    def observe_done(self, key: str) -> bool:
        """Whether a submitted step has ended, journaled."""

        def look() -> bool:
            self.dispatch()
            self._refresh([key])
            return self._is_done(key)

        return self.observe("done", look)

    def observe_state(self, key: str) -> State[Any]:
        """The present state of a submitted step, journaled."""

        def look() -> list[Any]:
            self.dispatch()
            self._refresh([key])
            record = self._records.get(key)
            if record is None:
                return ["PENDING", "Pending", None]
            return [record.state_type, record.state_name, record.state_message]

        state_type, name, message = self.observe("state", look)
        if StateType(state_type) in states.FINAL and self._is_done(key):
            return self._state(key)
        return State(StateType(state_type), name, message, state_details=self._details(key))

    # -- waiting -------------------------------------------------------------------------------------------------

    def wait(self, futures: Sequence[Future[Any]], timeout: float | None, *, first: bool = False) -> None:
        """Return when all futures are done (`first`: when one is), or after `timeout` seconds."""
        self.check("wait")
        keys = [_key_of(future) for future in futures]
        if timeout is None:
            self._wait_for_keys(keys, first=first)
            return
        timer = self._ask_timer(timeout, keys)
        while not self._satisfied(keys, first) and not self._is_done(timer):
            self._wait_for_keys([*keys, timer], first=True, beyond=True)
        self._stop_timer(timer)

    async def wait_async(self, futures: Sequence[Future[Any]], timeout: float | None, *, first: bool = False) -> None:
        """As `wait`, holding up the calling branch only."""
        self.check("wait")
        keys = [_key_of(future) for future in futures]
        if timeout is None:
            await self._wait_for_keys_async(keys, first=first)
            return
        timer = self._ask_timer(timeout, keys)
        while not self._satisfied(keys, first) and not self._is_done(timer):
            await self._wait_for_keys_async([*keys, timer], first=True, beyond=True)
        self._stop_timer(timer)

    def _ask_timer(self, timeout: float, keys: Sequence[str]) -> str:
        """Ask for the step that ends a wait for `keys` after `timeout` seconds; at zero, only look."""
        asked = self._line().ask("timer")
        if self._answer(asked, None, self._of_attempt) is None:
            step = self._plain(asked, Kind.SLEEP)
            step.fingerprint, step.delay = self._of_attempt, max(timeout, 0.0)
            self._unwritten.append(step)
            self._open.add(asked.key)
            if timeout <= 0:
                self._stop_timer(asked.key)
                self.dispatch()
                self._refresh(keys)
        return asked.key

    def _stop_timer(self, key: str) -> None:
        """End a timer that is no longer needed: the run does not wait for it."""
        if self._is_done(key):
            return
        for step in self._unwritten:
            if step.key == key:
                step.ending = Ending(StateType.COMPLETED, "Completed", result=_NONE)
                self._states[key] = State(StateType.COMPLETED)
                self._open.discard(key)
                return
        announcements = self.guard(lambda: runs.end_step(self.database, self.claim, key, result=_NONE))
        self._announce(announcements)
        self._learn_all([key])

    def _wait_for_keys(
        self,
        keys: Sequence[str],
        *,
        first: bool = False,
        beyond: bool = False,
        shown: tuple[StateType, str] = (StateType.RUNNING, "Waiting"),
    ) -> None:
        """Return when the steps are done; parks the segment where they are not.

        Args:
            first: One of them is enough; with `beyond`, one more than are done already.
        """
        self._check_deadline(_Wait(keys, first), replayed=True)
        if not beyond and self._satisfied(keys, first):
            return
        missing = self._missing(keys)
        self._offer(missing)
        while True:
            self.check("wait")
            self._check_deadline(_Wait(keys, first))
            self._refresh(missing)
            left = self._missing(missing)
            if not left or (first and len(left) < len(missing)):
                return
            if self._may_linger(left):
                time.sleep(_LINGER_POLL)
                continue
            self._park(left, 1 if first else len(left), shown)
            self._learn_all(left)

    async def _wait_for_keys_async(self, keys: Sequence[str], *, first: bool = False, beyond: bool = False) -> None:
        """As `_wait_for_keys`, but lets the other branches go on; the loop parks when none can."""
        self._check_deadline(_Wait(keys, first), replayed=True)
        if not beyond and self._satisfied(keys, first):
            return
        missing = self._missing(keys)
        if not missing:
            return
        self.check("wait")
        self._check_deadline(_Wait(keys, first))
        suspended = _Suspended(asyncio.get_running_loop().create_future(), missing, first)
        self._suspended.append(suspended)
        self._waiters.futures.add(suspended.future)
        try:
            await suspended.future
        finally:
            self._waiters.futures.discard(suspended.future)
            self._suspended.remove(suspended)
        self.check("wait")

    def _look(self, stuck: bool) -> bool:
        """Wake branches whose steps are done; park if none can go on. Called by the loop when nothing is ready."""
        open_ = [each for each in self._suspended if not each.future.done()]
        if not open_:
            return False
        try:
            return self._look_for(open_, stuck)
        except Signal as signal:
            # Raised in the branches, not in the loop that asks.
            return self._fail_all(open_, signal)

    def _look_for(self, open_: Sequence[_Suspended], stuck: bool) -> bool:
        if self.parked:
            raise Parked
        if self.claim.lost:
            raise Fenced
        if self.claim.cancelled:
            raise Cancelled
        self.dispatch()
        keys = sorted({key for each in open_ for key in self._missing(each.keys)})
        self._refresh(keys)
        if self._wake(open_):
            return True
        if not stuck and (self._inline or not self.carrier.stopping()):
            return False
        if stuck and self._may_linger(keys):
            return False
        self._park(keys, 1, (StateType.RUNNING, "Waiting"))
        self._learn_all(keys)
        return self._wake(open_)

    def _wake(self, open_: Sequence[_Suspended]) -> bool:
        woken = False
        for each in open_:
            left = self._missing(each.keys)
            if not left or (each.first and len(left) < len(each.keys)):
                each.future.set_result(None)
                woken = True
        return woken

    def _fail_all(self, open_: Sequence[_Suspended], signal: BaseException) -> bool:
        for each in open_:
            each.future.set_exception(signal)
        return True

    def _may_linger(self, keys: Sequence[str]) -> bool:
        """Whether to wait a moment longer in this slot: others work on all of it, and nothing waits for the slot."""
        if self.row["streak_parks"] and self._linger_until is None:
            return False
        now = clock.monotonic()
        if self._linger_until is None:
            self._linger_until = now + LINGER
        if now >= self._linger_until or any(step.key in keys for step in self._unwritten):
            return False
        queues, offered = sorted(self.carrier.queues), now < self._offered_until
        return not self._read(lambda: waits.slot_is_wanted(self.database, self.claim, keys, queues, offered=offered))

    def _offer(self, keys: Sequence[str]) -> None:
        """Announce new steps before parking, where other slots are there for all of them.

        A short task is then done in the time that a park and a wake-up would take.
        """
        new = [step for step in self._unwritten if step.key in keys and step.kind is Kind.TASK and not step.delay]
        if new and len(self._open) < self.carrier.slots(new[0].queue or ""):
            self.dispatch()
            self._offered_until = clock.monotonic() + OFFER

    def _park(self, keys: Sequence[str], count: int, shown: tuple[StateType, str]) -> None:
        """Park, if what is needed is still not there.

        Raises:
            Parked: The run waits now.
        """
        needed = None if count == len(keys) and self._open <= set(keys) else tuple(keys)
        wanted = Park(needed, count, *shown, timed_out=self._timed_out)
        unwritten, self._unwritten = self._unwritten, []
        parking = self.guard(lambda: waits.park(self.database, self.claim, wanted, unwritten, window=self.window))
        self.parked = parking.parked
        self._announce(parking.announcements)
        if self.parked:
            raise Parked

    # -- the journal ---------------------------------------------------------------------------------------------

    def known_state(self, key: str) -> State[Any] | None:
        """The final state of a step, if this segment knows it."""
        return self._state(key) if self._is_done(key) else None

    def when_known(self, key: str, callback: Callable[[], object]) -> None:
        """Call back when this segment learns that the step has ended."""
        if self._is_done(key):
            callback()
        else:
            self._callbacks.setdefault(key, []).append(callback)

    def take_unwritten(self) -> list[NewStep]:
        """The steps not yet written, for the write that ends the segment."""
        unwritten, self._unwritten = self._unwritten, []
        return unwritten

    def reload(self) -> None:
        """Read the whole journal again."""
        run_id, attempt = self.claim.run_id, self.claim.run_attempt
        for record in self._read(lambda: journal.load(self.database, run_id, attempt)):
            self._learn(record)

    @property
    def unfinished(self) -> bool:
        """Whether submitted work of the run may not have ended."""
        return bool(self._open)

    def window(self, queue: str) -> int:
        """How many rows of a wave are announced ahead on a queue."""
        return graph.window(self.carrier.slots(queue))

    def check(self, what: str) -> None:
        """Whether the body may go on with a call of orchestra.

        Raises:
            Parked: The segment has parked.
            Cancelled: The run is being cancelled.
            Fenced: Another process has claimed the run.
            ForeignThread: The call comes from a thread that the body started.
        """
        if self.parked:
            raise Parked
        if self.claim.lost:
            raise Fenced
        if self.claim.cancelled:
            raise Cancelled
        interrupts.check()
        if self.mismatch is not None:
            raise self.mismatch
        if self.broken is not None:
            raise Adrift
        if self._observing is not None:
            raise DefinitionError(f"{what} was called inside of what {self._observing!r} looks at; call it outside")
        self._warn_if_slow()
        line = current_line.get()
        if line is None or line.thread != threading.get_ident():
            raise ForeignThread(what)
        if self.carrier.stopping() and not self._inline:
            self._give_back()

    def _warn_if_slow(self) -> None:
        """Say once where a body's own code takes long between journaled steps: every replay does that work again."""
        since, self._replayed_at = self._replayed_at, None
        if since is None or self._warned_slow or clock.monotonic() - since < SLOW_REPLAY:
            return
        self._warned_slow = True
        engine_logger(self.context).warning(
            "the flow body's own code before %s took over %g s and runs again in every replay; make it a task",
            calling_line(),
            SLOW_REPLAY,
        )

    def _give_back(self) -> None:
        """The worker shuts down: what was submitted is written, and the run left to another worker."""
        if self._unwritten:
            self._flush(dispatched=True)
        self.guard(lambda: claims.give_back(self.database, self.claim))
        self.parked = True
        raise Parked

    def _line(self) -> Branch:
        line = current_line.get()
        assert line is not None
        return line.branch

    @property
    def _of_attempt(self) -> str:
        """The fingerprint of steps that a retry must not take over: what they saw is seen anew."""
        return f"attempt {self.claim.run_attempt}"

    def _answer(
        self, asked: Asked, inputs: bytes | None, fingerprint: str | None = None, upstreams: Sequence[str] = ()
    ) -> StepRecord | None:
        """The record of a step that was asked for before.

        Args:
            upstreams: Steps whose results are among its inputs: where one is run again, so is this.

        Raises:
            NonDeterministic: The journal holds another.
        """
        given = fingerprint or _fingerprint(inputs)
        try:
            record = self.replay.answer(asked, given, afresh=any(not self._is_moved(key) for key in upstreams))
        except NonDeterministic as error:
            self.mismatch = error
            raise
        if record is None:
            # What an earlier run attempt recorded under this key no longer counts.
            self._records.pop(asked.key, None)
            return None
        self._replayed_at = clock.monotonic()
        own = record.recorded_attempt == self.claim.run_attempt
        if own and given is not None and record.fingerprint not in (None, given):
            logger.warning("step %r is replayed with other inputs than it was run with; its result is kept", asked.key)
        return record

    def _is_moved(self, key: str) -> bool:
        """Whether a step was recorded in an earlier run attempt, and stands."""
        record = self._records.get(key)
        return record is not None and record.recorded_attempt < self.claim.run_attempt

    def _state(self, key: str) -> State[Any]:
        """The final state of a step that has ended; decoded once."""
        if key not in self._states:
            record = self._records[key]
            data = record.result
            if record.large:
                data = self._read(
                    lambda: journal.result_of(self.database, self.claim.run_id, self.claim.run_attempt, key)
                )
            self._states[key] = state_of(
                record.state_type, record.state_name, record.state_message, data, self._details(key)
            )
        return self._states[key]

    def _is_done(self, key: str) -> bool:
        record = self._records.get(key)
        return key in self._states or (record is not None and record.done)

    def _missing(self, keys: Sequence[str]) -> list[str]:
        return [key for key in dict.fromkeys(keys) if not self._is_done(key)]

    def _satisfied(self, keys: Sequence[str], first: bool) -> bool:
        missing = self._missing(keys)
        return not missing or (first and len(missing) < len(set(keys)))

    def _refresh(self, keys: Sequence[str]) -> None:
        """Read from the journal which of these steps, and which others, have ended."""
        unwritten = {step.key for step in self._unwritten}
        asked = [key for key in keys if key not in unwritten]
        if not asked:
            return
        run_id, attempt = self.claim.run_id, self.claim.run_attempt
        if len(asked) <= _FEW:
            found = self._read(lambda: journal.load_steps(self.database, run_id, attempt, asked))
            ended = any(record.done for record in found)
        else:
            found, ended = [], True
        if (ended and len(self._open) > len(asked)) or len(asked) > _FEW:
            since = self._seen_until - _OVERLAP
            self._seen_until = clock.now()
            found += self._read(lambda: journal.load_done(self.database, run_id, attempt, since))
        for record in found:
            self._learn(record)

    def _learn_all(self, keys: Sequence[str]) -> None:
        """Read these steps by name: finding the ended ones by time may miss some where clocks differ by much."""
        run_id, attempt = self.claim.run_id, self.claim.run_attempt
        for record in self._read(lambda: journal.load_steps(self.database, run_id, attempt, keys)):
            self._learn(record)

    def _learn(self, record: StepRecord) -> None:
        self._records[record.key] = record
        if record.done and record.key in self._open:
            self._open.discard(record.key)
            for callback in self._callbacks.pop(record.key, ()):
                callback()

    def _write(self, steps: list[NewStep]) -> None:
        """Write ended steps, with all that is not yet written."""
        self._unwritten += steps
        self._flush(dispatched=False)

    def _flush(self, *, dispatched: bool) -> None:
        unwritten, self._unwritten = self._unwritten, []
        announcements = self.guard(
            lambda: journal.record(self.database, self.claim, unwritten, window=self.window, dispatched=dispatched)
        )
        if dispatched:
            self._linger_until = clock.monotonic() + LINGER
        self._announce(announcements)

    def guard(self, write: Callable[[], T]) -> T:
        """Do a write under the claim, not to be interrupted in the middle.

        Raises:
            Fenced: The claim was lost.
            Cancelled: The run is being cancelled.
            Adrift: The database is away.
        """
        if self.parked:
            raise Parked
        if self.broken is not None:
            raise Adrift
        try:
            with interrupts.shielded():
                return write()
        except StoreError as error:
            self.broken = error
            raise Adrift from error
        except CancelRequested as error:
            raise Cancelled from error
        except ClaimLost as error:
            self.claim.lost = True
            logger.warning("%s: what this process did since is not recorded", error)
            raise Fenced from error

    def _read(self, look: Callable[[], T]) -> T:
        """Read from the journal.

        Raises:
            Adrift: The database is away.
        """
        try:
            return look()
        except StoreError as error:
            self.broken = error
            raise Adrift from error

    def _announce(self, announcements: Sequence[Announcement]) -> None:
        if announcements:
            failpoint("before_announce")
            self.carrier.announce(announcements)
            failpoint("after_announce")

    # -- small parts ---------------------------------------------------------------------------------------------

    def _check_deadline(self, wait: _Wait | None = None, *, replayed: bool = False) -> None:
        """Raise the flow's timeout where the body would go on past its deadline, or did when it was first run.

        Args:
            wait: The wait it is raised in, else it is raised before the next step is asked for.
            replayed: Only if it was raised here when this was first run.
        """
        if self._timed_out or self.row["timeout_seconds"] is None:
            return
        name = "timeout" if wait is None else f"timeout-{wait.digest}"
        asked = self._line().peek(name)
        # What was done before the deadline is replayed after it.
        late = self.seconds_left == 0.0 and not self.replay.reaches(asked)
        if not self.replay.holds(asked) and (replayed or not late):
            return
        self._timed_out = True
        self.observe(name, self._raise_timeout)

    @property
    def seconds_left(self) -> float | None:
        """Until the run's deadline, 0 after it; None: it has none."""
        return None if self._deadline is None else max(self._deadline - clock.monotonic(), 0.0)

    def _raise_timeout(self) -> None:
        raise RunTimeout(f"flow {self.flow.name!r} ran longer than its timeout_seconds={self.flow.timeout_seconds:g}")

    def _wait_for_futures(self, call: Call) -> None:
        keys = [_key_of(future) for future, _ in _futures_of(call)]
        if keys:
            self._wait_for_keys(keys)

    async def _wait_for_futures_async(self, call: Call) -> None:
        keys = [_key_of(future) for future, _ in _futures_of(call)]
        if keys:
            await self._wait_for_keys_async(keys)

    def route(self, queue: str | None, priority: int | None, path: str) -> tuple[str, int | None]:
        """The queue and priority of a call: its own, else the router's, else its parent's."""
        routed, routed_priority = (None, None) if queue else self.carrier.route(path)
        chosen = queue or routed or self.row["queue"] or self.carrier.default_queue
        return chosen, priority if priority is not None else routed_priority

    def _task_context(
        self, asked: Asked, task: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> TaskRunContext:
        run_id = self.claim.run_id
        parameters = _parameters(task, args, kwargs)
        name = asked.key.rpartition("/")[2]
        return TaskRunContext(
            task=task,
            task_run_id=identifiers.step_id(run_id, self.claim.run_attempt, asked.key),
            task_run_name=task_run_name(task, parameters, name),
            flow_run=self.context,
            step_key=asked.key,
            attempt=1,
            idempotency_key=identifiers.idempotency_key(run_id, asked.key),
            parameters=parameters,
            log_prints=self.context.log_prints if task.log_prints is None else task.log_prints,
        )

    def _new(
        self,
        asked: Asked,
        task: TaskSpec,
        inputs: bytes | None,
        *,
        queue: str | None = None,
        priority: int | None = None,
        ending: Ending | None = None,
    ) -> NewStep:
        return NewStep(
            asked.key,
            asked.branch,
            asked.position,
            self._next_sequence(),
            Kind.TASK,
            asked.key.rpartition("/")[2],
            task.path,
            inputs=inputs,
            fingerprint=_fingerprint(inputs),
            queue=queue,
            priority=priority,
            lease_seconds=task.lease_seconds,
            ending=ending,
        )

    def _plain(self, asked: Asked, kind: Kind) -> NewStep:
        name = asked.key.rpartition("/")[2]
        return NewStep(asked.key, asked.branch, asked.position, self._next_sequence(), kind, name)

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _details(self, key: str) -> StateDetails:
        run_id = self.claim.run_id
        return StateDetails(run_id, identifiers.step_id(run_id, self.claim.run_attempt, key))

    def _with_details(self, state: State[Any], key: str) -> State[Any]:
        return State(state.type, state.name, state.message, state.data, state.timestamp, self._details(key))


def _deadline(row: Mapping[str, Any]) -> float | None:
    if row["deadline_at"] is None or row["deadline_at"] >= waits.NEVER:
        return None
    return float(
        clock.monotonic() + row["deadline_at"] - row.get("claimed_at", row["lease_until"] - row["lease_seconds"])
    )


def _longest_sleep(task: TaskSpec, inputs: bytes | None) -> float:
    """Longer retry delays free the slot; a call that cannot be sent must be tried again here."""
    try:
        _sendable(task, inputs)
    except OrchestraError:
        return float("inf")
    return IN_PLACE


def _sendable(task: TaskSpec, inputs: bytes | None) -> bytes:
    """A call's inputs, if another process can run it.

    Raises:
        NotImportable: It could not find the task.
        SerializationError: It could not be handed the arguments.
    """
    require_importable(task.path, "task")
    if inputs is None:
        raise SerializationError(
            f"the arguments of task {task.name!r} cannot be encoded, and its queue is not this worker's: hand "
            "on plain data, or call it where its queue is consumed"
        )
    return inputs


def _fingerprint(inputs: bytes | None) -> str | None:
    """A digest of encoded inputs; None for pickles, whose bytes differ between processes for equal values."""
    if inputs is None or inputs[:1] not in (b"j", b"t"):
        return None
    return identifiers.fingerprint(inputs)


def _encoded_inputs(call: Call) -> bytes | None:
    """A direct call's arguments; None where they cannot be encoded: inline they need not be."""
    try:
        return encode_inputs(*_with_refs(call))
    except SerializationError:
        return None


def _with_refs(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def ref(future: Future[Any], strict: bool) -> StepRef:
        return StepRef(_key_of(future), allow_failure=not strict)

    return replace_futures(call.args, ref), replace_futures(call.kwargs, ref)


def _futures_of(call: Call) -> list[tuple[Future[Any], bool]]:
    return [*find_futures([call.args, call.kwargs]), *_wait_for_futures(call.wait_for)]


def _wait_for_futures(wait_for: tuple[Any, ...]) -> list[tuple[Future[Any], bool]]:
    return find_futures(list(wait_for)) if wait_for else []


def _key_of(future: Future[Any]) -> str:
    if not isinstance(future, JournalFuture):
        raise DefinitionError(f"{future!r} belongs to another run; hand on its result instead")
    return future.key


def _parameters(task: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    if not args and not kwargs and not signature(task.fn).parameters:
        return {}
    try:
        return bind(task.fn, args, kwargs)
    except TypeError:
        # The body's call will raise it, as the task's own failure.
        return dict(kwargs)


def calling_line() -> str:
    """`file:line` of the user's code that called orchestra."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("orchestra."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
