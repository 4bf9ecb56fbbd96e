"""The durable runner: what a flow body's calls become on a worker. Each is a step; the journal answers those it has.

A call that the journal has not is carried out (inline), or handed to other workers (dispatched). Where a value is not
there yet, the segment parks: what was asked is written, the claim released, and the body left by a signal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from orchestra import clock, identifiers, lazy, names, results, serializers, states
from orchestra.context import TaskRunContext, tags_context, tags_of, transaction_here
from orchestra.engine import caching, definitions, interrupts, owed
from orchestra.engine.arguments import find_futures, replace_futures, settled
from orchestra.engine.future import JournalFuture
from orchestra.engine.heartbeat import Heart
from orchestra.engine.history import UnwrittenTries
from orchestra.engine.holding import Holding
from orchestra.engine.journaled import SegmentStart, fingerprint_of
from orchestra.engine.parameters import bind, signature
from orchestra.engine.run_names import flow_run_name, task_run_name
from orchestra.engine.task_run import IN_PLACE, Ended, RetryLater, run_attempts, run_attempts_async
from orchestra.engine.values import decode_inputs, encode_inputs, ending_of
from orchestra.engine.waiting import abandoned
from orchestra.errors import (
    DefinitionError,
    OrchestraError,
    SerializationError,
    UpstreamFailed,
)
from orchestra.failpoints import failpoint
from orchestra.futures import Future
from orchestra.graph import Edge
from orchestra.hooks import has_final_hooks, hooks_of
from orchestra.journal import Asked
from orchestra.runners.carrier import RanInline
from orchestra.serializers import StepRef, clean_text
from orchestra.specs import Call, FlowSpec, TaskSpec, overridden, require_importable
from orchestra.states import State
from orchestra.store import claims, history, runs
from orchestra.store.claims import Claimed
from orchestra.store.joint import Joint
from orchestra.store.journal import Ending, NewStep, StepRecord
from orchestra.store.runs import NewRun
from orchestra.store.tables import Kind
from orchestra.task_runners import CeleryTaskRunner, InlineTaskRunner

#: Child runs nested deeper than this are sent as messages instead of run inside their parent.
INLINE_DEPTH = 20

#: Types whose values no body can change.
_UNCHANGING = frozenset({type(None), bool, int, float, complex, str, bytes})

#: Runs a claimed child run here; gives its final state, or None where it parked.
RunChild = Callable[[FlowSpec, Claimed], "State[Any] | None"]


class DurableRunner(Holding):
    """Carries out the calls of one segment of one flow run."""

    def __init__(self, start: SegmentStart, run_child: RunChild, heart: Heart) -> None:
        """Begin a segment.

        Args:
            start: What it begins with.
            run_child: Runs a child run inside this segment.
            heart: Holds the claims on the hooks of inline calls while they run.
        """
        super().__init__(start)
        self._run_child, self._heart = run_child, heart
        #: Branches that have gone on, after a lapse, where the journal ends.
        self._taken_up: set[str] = set()

    @property
    def keeper(self) -> Any:
        """Keeps the transactions of the body."""
        if self._keeper is None:
            self._keeper = lazy.load("durable_keeper")(self, self._records.values())
        return self._keeper

    def call_task(self, task: TaskSpec, call: Call) -> State[Any]:
        """Run the task inline if this worker consumes its queue, else dispatch it and wait."""
        if task.persist_result is False:
            return self._call_unjournaled(task, call)
        return self._call_journaled(task, call)[1]

    def _call_journaled(self, task: TaskSpec, call: Call) -> tuple[str, State[Any]]:
        """Run the task inline, or dispatch it and wait; gives its step key and final state."""
        self.check(task.name)
        self._wait_for_futures(call)
        asked, record, inputs = self._ask_task(task, call)
        task = self._anew(asked, task)
        started = None if record is not None else self._begin_inline(asked, task, call, inputs)
        if isinstance(started, State):
            return asked.key, started
        final = None
        if started is not None:
            args, kwargs, context = started
            tries, longest = self._tries(asked, context.task_run_id), _longest_sleep(task, inputs)
            context.record = lambda state, joint: self._journal_inline(
                asked, task, inputs, context, Ended(state, context.attempt), tries, joint
            )
            run = partial(run_attempts, task, args, kwargs, context, longest_sleep=longest)
            with caching.computing(context):
                outcome = run(before_attempt=partial(self._before_body, tries), on_retry=tries.retry)
            final = self._journal_inline(asked, task, inputs, context, outcome, tries)
            self.give_tag_slots(asked.key)
        if final is None:
            self._wait_for_keys([asked.key])
            final = self._state(asked.key)
        return asked.key, final

    async def call_task_async(self, task: TaskSpec, call: Call) -> State[Any]:
        """As `call_task`, for a coroutine function, in the body's loop."""
        if task.persist_result is False:
            return await self._call_unjournaled_async(task, call)
        self.check(task.name)
        await self._wait_for_futures_async(call)
        asked, record, inputs = self._ask_task(task, call)
        if record is not None:
            await self._be_cancelled_again(record)
            await self._wait_for_keys_async([asked.key])
            return self._state(asked.key)
        task = self._anew(asked, task)
        started = self._begin_inline(asked, task, call, inputs)
        if isinstance(started, State):
            return started
        if started is None:
            await self._wait_for_keys_async([asked.key])
            return self._state(asked.key)
        args, kwargs, context = started
        tries = self._tries(asked, context.task_run_id)
        self._inline.add(asked.key)
        try:
            run = partial(run_attempts_async, task, args, kwargs, context, longest_sleep=_longest_sleep(task, inputs))
            with caching.computing(context):
                outcome = await run(before_attempt=partial(self._before_body, tries), on_retry=tries.retry)
        except asyncio.CancelledError:
            self._abandon_inline(asked, task, inputs, tries)
            self._release(context)
            self.give_tag_slots(asked.key)
            raise
        finally:
            self._inline.discard(asked.key)
        final = self._journal_inline(asked, task, inputs, context, outcome, tries)
        self.give_tag_slots(asked.key)
        if final is None:
            await self._wait_for_keys_async([asked.key])
            return self._state(asked.key)
        return final

    def _tries(self, asked: Asked, step_id: str) -> UnwrittenTries:
        """What people see of a direct call that is about to run here."""
        run_id, is_told = self.claim.run_id, False
        if self.row["lapses"] and asked.branch not in self._taken_up:
            # The first call of a branch that the journal has not: that of a process which died may have told of it.
            self._taken_up.add(asked.branch)
            is_told = self._read(lambda: history.newest(self.database, run_id, step_id)) is not None
        return UnwrittenTries(run_id, step_id, is_told=is_told)

    def _ask_task(self, task: TaskSpec, call: Call) -> tuple[Asked, StepRecord | None, bytes | None]:
        """Ask for the step of a call; gives its record, if any, and its encoded inputs, where they are needed."""
        self._check_deadline()
        inputs = self._encoded_inputs(call)
        asked = self._line().ask(names.step_name(task.name))
        if not task.cache_result_in_memory:
            self.unheld.add(asked.key)
        upstreams = [self.key_of(future) for future, _ in _futures_of(call)]
        return asked, self._answer(asked, inputs, upstreams=upstreams), inputs

    def _anew(self, asked: Asked, task: TaskSpec) -> TaskSpec:
        """The task of a new step; with `refresh_cache` where a person had the run retried from there."""
        return overridden(task, {"refresh_cache": True}) if self.is_retried_from(asked.key) else task

    def _begin_inline(
        self, asked: Asked, task: TaskSpec, call: Call, inputs: bytes | None
    ) -> State[Any] | tuple[tuple[Any, ...], dict[str, Any], TaskRunContext] | None:
        """Get a new direct call ready to run here: its arguments and context.

        Gives a final state where an upstream failed, None where the call was dispatched: to another queue, or because
        it must wait for a slot of a limit.
        """
        queue, priority = self.route(task.queue, task.priority, task.routed_as)
        try:
            args, kwargs = _settled(call)
        except UpstreamFailed as error:
            ending, final = ending_of(states.from_exception(error), what=f"the result of task {task.name!r}")
            self._write([self._new(asked, task, inputs, ending=ending)])
            return final
        if not self._is_consumed_here(queue):
            try:
                self.carrier.check_queue(queue)
                step = self._new(asked, task, _sendable(task, inputs), queue=queue, priority=priority)
            except OrchestraError as error:
                # Asked for, so it is journaled: in a replay another worker may consume the queue.
                ending, final = ending_of(states.from_exception(error), what=f"the result of task {task.name!r}")
                self._write([self._new(asked, task, None, ending=ending)])
                return final
            self._unwritten.append(step)
            self._open.add(asked.key)
            return None
        self.dispatch()
        known = inputs if args is call.args and kwargs is call.kwargs else None
        args, kwargs = _copied(args, kwargs, known)
        context = self._task_context(asked, task, args, kwargs)
        met = (
            self.guard(lambda: caching.meet_inline(self.database, self.claim, context)) if task.may_be_cached else None
        )
        if isinstance(met, caching.Hit):
            return self._journal_hit(asked, task, inputs, context, met)
        if isinstance(met, caching.Busy) and _can_be_sent(task, inputs):
            # As a row it waits for what another one computes, and holds no slot of a worker.
            step = self._new(asked, task, inputs, queue=queue, priority=priority)
            self._unwritten.append(step)
            self._open.add(asked.key)
            return None
        if (tags := tags_of(task.tags)) and not self._has_slots(asked, task, tags, inputs, queue, priority):
            self._release(context)
            return None
        return args, kwargs, context

    def _journal_hit(
        self, asked: Asked, task: TaskSpec, inputs: bytes | None, context: TaskRunContext, hit: caching.Hit
    ) -> State[Any]:
        """Write a direct call that the cache answers."""
        return self._write_inline(asked, task, inputs, context, hit.ending(clock.now()), hit.state)

    def _release(self, context: TaskRunContext) -> None:
        """Let others compute what this call was to compute for them."""
        if context.cached is not None and not self.is_stopped:
            self._announce(self.guard(lambda: context.cached.release(self.database)))

    def _has_slots(
        self,
        asked: Asked,
        task: TaskSpec,
        tags: tuple[str, ...],
        inputs: bytes | None,
        queue: str,
        priority: int | None,
    ) -> bool:
        """Take the slots that a direct call needs for its tags; where none are free it is dispatched, and waits there.

        One that nobody else can carry out waits here, and holds its worker slot.
        """
        if self.take_tag_slots(asked.key, tags):
            return True
        try:
            step = self._new(asked, task, _sendable(task, inputs), queue=queue, priority=priority)
        except OrchestraError:
            self.wait_for_tag_slots(asked.key, tags)
            return True
        self._unwritten.append(step)
        self._open.add(asked.key)
        return False

    def _journal_inline(
        self,
        asked: Asked,
        task: TaskSpec,
        inputs: bytes | None,
        context: TaskRunContext,
        outcome: Ended | RetryLater,
        tries: UnwrittenTries,
        joint: Joint | None = None,
    ) -> State[Any] | None:
        """Write how an inline call ended; None where it is to be tried again later, elsewhere.

        Args:
            joint: The transaction of its body, which this ends; nothing is written where the result cannot be kept.
        """
        if context.recorded is not None:
            return context.recorded
        failpoint("after_body")
        if isinstance(outcome, RetryLater):
            self._release(context)
            queue, priority = self.route(task.queue, task.priority, task.routed_as)
            step = self._new(asked, task, inputs, queue=queue, priority=priority)
            step.delay, step.attempt = outcome.delay, outcome.attempt + 1
            step.running_at, step.effects = tries.running_at(), (tries.set_back(outcome.state.message),)
            self._unwritten.append(step)
            self._open.add(asked.key)
            return None
        if task.on_commit and outcome.state.is_completed() and transaction_here() is None:
            outcome = Ended(lazy.load("transacting").commit_alone(context, outcome.state), outcome.attempt)
        ending, final = self._ending_of(task, outcome, tries.start_time)
        if joint is not None and not final.is_completed():
            return final
        return self._write_inline(asked, task, inputs, context, ending, final, joint, tries)

    def _write_inline(
        self,
        asked: Asked,
        task: TaskSpec,
        inputs: bytes | None,
        context: TaskRunContext,
        ending: Ending,
        final: State[Any],
        joint: Joint | None = None,
        tries: UnwrittenTries | None = None,
    ) -> State[Any]:
        """Write a direct call that has ended here, or (without `tries`) that the cache has answered."""
        step = self._new(asked, task, None, ending=ending)
        step.running_at = None if tries is None else tries.running_at()
        if task.has_transaction_hooks and step.transaction is not None and final.is_completed() and tries is not None:
            # What the cache answers has done nothing that could be rolled back.
            step.effects = self.keeper.effects_of(step, context)
        step.fingerprint = fingerprint_of(inputs)
        step.inline, step.attempt = True, ending.attempt
        cached: caching.Cached | None = context.cached
        step.cached = None if cached is None else cached.keeping(ending)
        final = self._with_details(final, asked.key)
        if hooks_of(task, final.type):
            self._write_with_hooks(step, task, inputs, context, final, joint)
        else:
            self._write([step], joint)
        if cached is not None:
            self._announce(self.guard(lambda: cached.let_go(self.database)))
        if self.carrier.is_watched:
            self._tell(step, ending)
        return final

    def _tell(self, step: NewStep, ending: Ending) -> None:
        ended = clock.now()
        self.carrier.tell(
            RanInline(
                task_run_id=identifiers.step_id(self.claim.run_id, self.claim.run_attempt, step.key),
                flow_run_id=self.claim.run_id,
                step_key=step.key,
                name=step.name,
                start_time=ending.start_time or ended,
                end_time=ended,
                state_type=ending.state_type,
                state_name=ending.state_name,
                message=ending.message,
            )
        )

    def _ending_of(self, task: TaskSpec, outcome: Ended, start_time: float) -> tuple[Ending, State[Any]]:
        what, keeping = f"the result of task {task.name!r}", results.keeping_of(self.database, task, self.flow)
        # A storage of results that is away ends the segment, as a database does that is.
        return self._read(
            lambda: ending_of(outcome.state, what=what, start_time=start_time, attempt=outcome.attempt, keeping=keeping)
        )

    def _write_with_hooks(
        self,
        step: NewStep,
        task: TaskSpec,
        inputs: bytes | None,
        context: TaskRunContext,
        final: State[Any],
        joint: Joint | None,
    ) -> None:
        """Write an ended inline call, and then run the hooks that its end calls for.

        In an async body they hold the loop up: were they awaited, what cancels a branch could reach it here, and not in
        a replay, in which they do not run.
        """
        assert step.ending is not None
        queue, priority = self.route(task.queue, task.priority, task.routed_as)
        debt = owed.task_debt(task, self.claim, step.key, step.name, queue, priority, step.ending)
        # For whoever runs them if this process dies.
        step.debt, step.inputs = debt, inputs
        asked_at = clock.monotonic()
        self._write([step], joint)
        if debt is not None:
            hooks = owed.task_hooks(context, final, step.ending.start_time)
            owed.pay(self.database, self._heart, debt.claim(asked_at), hooks)

    def _abandon_inline(self, asked: Asked, task: TaskSpec, inputs: bytes | None, tries: UnwrittenTries) -> None:
        """Keep that the branch of an inline call was cancelled while its body ran: so it is in a replay."""
        if self.is_stopped:
            return
        step = self._new(asked, task, inputs, ending=abandoned())
        step.inline, step.running_at = True, tries.running_at()
        self._unwritten.append(step)

    def _call_unjournaled(self, task: TaskSpec, call: Call) -> State[Any]:
        """A direct call that says `persist_result=False`: it takes no place in the journal, and runs in each replay."""
        self.check(task.name)
        self._wait_for_futures(call)
        started = self._begin_unjournaled(task, call)
        if isinstance(started, State):
            return started
        context = started[2]
        with self.tag_slots(context.step_key, context.tags) as slots:
            slots.take()
            state = run_attempts(task, *started, before_attempt=self._before_body).state
        return self._end_unjournaled(context, state)

    async def _call_unjournaled_async(self, task: TaskSpec, call: Call) -> State[Any]:
        self.check(task.name)
        await self._wait_for_futures_async(call)
        started = self._begin_unjournaled(task, call)
        if isinstance(started, State):
            return started
        context = started[2]
        with self.tag_slots(context.step_key, context.tags) as slots:
            if (turn := slots.take_async()) is not None:
                await turn
            state = (await run_attempts_async(task, *started, before_attempt=self._before_body)).state
        return self._end_unjournaled(context, state)

    def _end_unjournaled(self, context: TaskRunContext, state: State[Any]) -> State[Any]:
        if context.task.on_commit and state.is_completed() and transaction_here() is None:
            state = lazy.load("transacting").commit_alone(context, state)
        _run_unowed(context, state)
        return state

    def _begin_unjournaled(
        self, task: TaskSpec, call: Call
    ) -> State[Any] | tuple[tuple[Any, ...], dict[str, Any], TaskRunContext]:
        """Its arguments and context; a final state where an upstream failed."""
        if task.has_transaction_hooks and transaction_here() is not None:
            raise DefinitionError(
                f"task {task.name!r} says persist_result=False, so that its end is not journaled, and has hooks for "
                "transactions, which need that: let its result be kept, or call it outside of the transaction"
            )
        asked = self._line().outside(names.step_name(task.name))
        try:
            args, kwargs = _settled(call)
        except UpstreamFailed as error:
            return states.from_exception(error)
        self.dispatch()
        return args, kwargs, self._task_context(asked, task, args, kwargs)

    def _before_body(self, tries: UnwrittenTries | None = None) -> None:
        """Just before a body starts: is the claim still ours? Then it is seen to run, if its call is journaled."""
        self.guard(lambda: claims.ensure(self.database, self.claim))
        if tries is not None:
            tries.begin()
        failpoint("in_body")

    def submit_task(self, task: TaskSpec, call: Call) -> Future[Any]:
        """Add the call to the graph of this segment; it is dispatched before the body blocks or ends."""
        if isinstance(self.flow.task_runner, InlineTaskRunner):
            return JournalFuture(self, self._call_journaled(task, call)[0])
        self.check(task.name)
        found = [*find_futures([call.args, call.kwargs]), *_wait_for_futures(call.wait_for)]
        # What may be refused is refused before the step is asked for: then a replay refuses it, too.
        require_importable(task.path, "task")
        if task.queue is not None:
            self.carrier.check_queue(task.queue)
        inputs = _checked(encode_inputs(*self._with_refs(call)), task)
        self._check_deadline()
        asked = self._line().ask(names.step_name(task.name))
        if not task.cache_result_in_memory:
            self.unheld.add(asked.key)
        if self._answer(asked, inputs, upstreams=[self.key_of(future) for future, _ in found]) is None:
            queue, priority = self.route(task.queue or self._runner_queue, task.priority, task.routed_as)
            step = self._new(asked, self._anew(asked, task), inputs, queue=queue, priority=priority)
            step.edges = tuple(Edge(self.key_of(future), strict) for future, strict in found)
            step.most_in_flight = self.flow.most_in_flight
            self._unwritten.append(step)
            self._open.add(asked.key)
        if (txn := transaction_here()) is not None:
            txn.submitted.append(asked.key)
        return JournalFuture(self, asked.key)

    @property
    def _runner_queue(self) -> str | None:
        """The queue that the flow's task runner names for submitted tasks."""
        runner = self.flow.task_runner
        return runner.queue if isinstance(runner, CeleryTaskRunner) else None

    def call_flow(self, flow: FlowSpec, parameters: dict[str, Any], wait_for: tuple[Any, ...]) -> State[Any]:
        """Run a child run: inside this segment if its queue is consumed here, else by a message."""
        self.check(flow.name)
        call = Call((), parameters, wait_for)
        self._wait_for_futures(call)
        try:
            values = _settled(call)[1]
        except UpstreamFailed as error:
            # No step: whether its upstreams failed is in the journal, so that a replay is told the same.
            return states.from_exception(error)
        key = self._start_child(flow, values)
        self._wait_for_keys([key])
        return self._state(key)

    async def call_flow_async(
        self, flow: FlowSpec, parameters: dict[str, Any], wait_for: tuple[Any, ...]
    ) -> State[Any]:
        """As `call_flow`; an async child run in an async body is sent as a message, so that its siblings go on."""
        self.check(flow.name)
        call = Call((), parameters, wait_for)
        await self._wait_for_futures_async(call)
        try:
            values = _settled(call)[1]
        except UpstreamFailed as error:
            # As in `call_flow`.
            return states.from_exception(error)
        key = self._start_child(flow, values, inside=False)
        await self._wait_for_keys_async([key])
        return self._state(key)

    def _start_child(self, flow: FlowSpec, values: dict[str, Any], *, inside: bool = True) -> str:
        # Run inside or not: a child that parks is taken up alone.
        require_importable(flow.path, "flow")
        what = f"the set of parameters of flow {flow.name!r}"
        encoded = results.check_parameters(serializers.encode(values, what=what), what=what)
        self._check_deadline()
        asked = self._line().ask(names.step_name(flow.name))
        if self._answer(asked, encoded) is not None:
            return asked.key
        child = self._new_child(asked, flow, values, encoded)
        inline = inside and self._is_consumed_here(child.queue) and child.depth < INLINE_DEPTH
        step = NewStep(
            asked.key,
            asked.branch,
            asked.position,
            self._next_sequence(),
            Kind.SUBFLOW,
            flow.name,
            flow.path,
            fingerprint=fingerprint_of(encoded),
            queue=child.queue,
            child_run_id=child.id,
            transaction=self._transaction_key(),
        )
        self._open.add(asked.key)
        claimed = self._write_child(step, child, inline)
        if claimed is not None:
            # A database that is away for the child is so for its parent.
            self._read(lambda: self._run_child(flow, claimed))
        return asked.key

    def _new_child(self, asked: Asked, flow: FlowSpec, values: dict[str, Any], parameters: bytes) -> NewRun:
        queue, priority = self.route(flow.queue, flow.priority, flow.path)
        return NewRun(
            id=identifiers.child_run_id(self.claim.run_id, self.claim.run_attempt, asked.key),
            flow_name=flow.name,
            path=flow.path,
            options=definitions.encoded_options(flow),
            entrypoint=flow.entrypoint,
            description=clean_text(flow.description),
            name=clean_text(flow_run_name(flow, values)),
            parameters=parameters,
            queue=queue,
            priority=priority,
            version=flow.version,
            tags=[clean_text(tag) for tag in sorted(tags_context.get())],
            timeout_seconds=flow.timeout_seconds,
            parent_run_id=self.claim.run_id,
            parent_attempt=self.claim.run_attempt,
            parent_step_key=asked.key,
            root_run_id=self.row["root_run_id"],
            depth=self.row["depth"] + 1,
            has_hooks=has_final_hooks(flow),
        )

    def _write_child(self, step: NewStep, child: NewRun, inline: bool) -> Claimed | None:
        owner = identifiers.owner() if inline else None
        with self._handed_over() as unwritten:
            claimed, announcements = self.guard(
                lambda: runs.start_child(
                    self.database, self.claim, step, child, unwritten, window=self.window, owner=owner
                )
            )
        self._announce(announcements)
        return claimed

    def _wait_for_futures(self, call: Call) -> None:
        keys = [self.key_of(future) for future, _ in _futures_of(call)]
        if keys:
            self._wait_for_keys(keys)

    async def _wait_for_futures_async(self, call: Call) -> None:
        keys = [self.key_of(future) for future, _ in _futures_of(call)]
        if keys:
            await self._wait_for_keys_async(keys)

    def _encoded_inputs(self, call: Call) -> bytes | None:
        """A direct call's arguments; None where they cannot be encoded: inline they need not be."""
        try:
            return encode_inputs(*self._with_refs(call))
        except SerializationError:
            return None

    def _with_refs(self, call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def ref(future: Future[Any], strict: bool) -> StepRef:
            return StepRef(self.key_of(future), allow_failure=not strict)

        return replace_futures(call.args, ref), replace_futures(call.kwargs, ref)

    def route(self, queue: str | None, priority: int | None, path: str) -> tuple[str, int | None]:
        """The queue and priority of a call: its own, else the router's, else its parent's."""
        routed, routed_priority = (None, None) if queue else self.carrier.route(path)
        chosen = queue or routed or self.row["queue"] or self.carrier.default_queue
        ranked = next((each for each in (priority, routed_priority) if each is not None), self.row["priority"])
        return chosen, ranked

    def _is_consumed_here(self, queue: str) -> bool:
        """Whether this worker takes what is sent to a queue; one may take only what is for the version it has."""
        consumed, version = self.carrier.queues, self.row["version"]
        return queue in consumed or (version is not None and names.versioned_queue(queue, version) in consumed)

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
            idempotency_key=identifiers.idempotency_key(
                run_id, asked.key, 1 if self._transaction_key() is None else self.claim.run_attempt
            ),
            parameters=parameters,
            log_prints=self.context.log_prints if task.log_prints is None else task.log_prints,
            tags=tags_of(task.tags),
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
            definitions.encoded_options(task),
            inputs=inputs,
            fingerprint=fingerprint_of(inputs),
            queue=queue,
            priority=priority,
            lease_seconds=task.lease_seconds,
            version=self.row["version"],
            tags=tags_of(task.tags),
            ending=ending,
            transaction=self._transaction_key(),
        )


def _run_unowed(context: TaskRunContext, state: State[Any]) -> None:
    """Run the hooks of a call that is not journaled: they run each time that it does."""
    if hooks_of(context.task, state.type):
        with interrupts.shielded():
            owed.task_hooks(context, state, None).run()


def _longest_sleep(task: TaskSpec, inputs: bytes | None) -> float:
    """Longer retry delays free the slot; a call that cannot be sent must be tried again here."""
    return IN_PLACE if _can_be_sent(task, inputs) else float("inf")


def _can_be_sent(task: TaskSpec, inputs: bytes | None) -> bool:
    """Whether another process can run a call."""
    try:
        _sendable(task, inputs)
    except OrchestraError:
        return False
    return True


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
    return _checked(inputs, task)


def _checked(inputs: bytes, task: TaskSpec) -> bytes:
    """A call's inputs, if they are small enough to be kept."""
    return results.check_parameters(inputs, what=f"the set of arguments of task {task.name!r}")


def _copied(
    args: tuple[Any, ...], kwargs: dict[str, Any], known: bytes | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments that are plain data, as a worker elsewhere would get them; those with other objects stay as they are.

    A body that changes them in place must not change what the flow's body sees: a replay, which does not run it, would
    show that unchanged. An object that is more than its data, an `asyncio.Event` say, is meant to be shared.

    Args:
        known: The arguments' encoding, where it was made already.
    """
    if all(type(value) in _UNCHANGING for value in (*args, *kwargs.values())):
        return args, kwargs
    try:
        data = known or encode_inputs(args, kwargs)
    except OrchestraError:
        return args, kwargs
    return (args, kwargs) if serializers.is_pickle(data) else decode_inputs(data)


def _settled(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments, with values in the place of futures, all of which are done.

    Raises:
        UpstreamFailed: One that counts did not succeed.
    """
    args, kwargs = replace_futures(call.args, settled), replace_futures(call.kwargs, settled)
    replace_futures(list(call.wait_for), settled)
    return args, kwargs


def _futures_of(call: Call) -> list[tuple[Future[Any], bool]]:
    return [*find_futures([call.args, call.kwargs]), *_wait_for_futures(call.wait_for)]


def _wait_for_futures(wait_for: tuple[Any, ...]) -> list[tuple[Future[Any], bool]]:
    return find_futures(list(wait_for)) if wait_for else []


def _parameters(task: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    if not args and not kwargs and not signature(task.fn).parameters:
        return {}
    try:
        return bind(task.fn, args, kwargs)
    except TypeError:
        # The body's call will raise it, as the task's own failure.
        return dict(kwargs)
