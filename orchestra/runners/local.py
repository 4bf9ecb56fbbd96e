"""The local runner: direct calls in the caller's thread, submitted ones in a pool of threads of this process."""

from __future__ import annotations

import asyncio
import concurrent.futures as pools
import contextvars
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from orchestra import clock, identifiers, lazy, states
from orchestra.context import (
    FlowRunContext,
    TaskRunContext,
    flow_run_context,
    tags_of,
    task_run_context,
    transaction_here,
)
from orchestra.engine import bodies, caching, interrupts
from orchestra.engine import slots as engine_slots
from orchestra.engine.arguments import find_futures, replace_futures, settled
from orchestra.engine.hooks import TaskRunHooks
from orchestra.engine.parameters import bind
from orchestra.engine.run_names import task_run_name
from orchestra.engine.slots import NoSlots
from orchestra.engine.task_run import EVERYTHING, CallBody, Ended, RetryLater, run_attempts, run_attempts_async
from orchestra.errors import Cancelled, DbTransactionError, InputTimeout, InvalidRunInput, StoreError, UpstreamFailed
from orchestra.futures import Future
from orchestra.hooks import hooks_of
from orchestra.questions import Message, Pause, Receive, Slots
from orchestra.runners.local_future import LocalFuture, help_with, in_pool_thread, mark_pool_thread, shadow
from orchestra.runners.steps import Finished, Step, StepBook
from orchestra.specs import Call, FlowSpec, TaskSpec
from orchestra.states import State
from orchestra.store import events
from orchestra.store.tables import Kind
from orchestra.task_runners import InlineTaskRunner, ProcessPoolTaskRunner, TaskRunner

T = TypeVar("T")

#: Threads of a pool for which no `max_workers` is given: more would only wait for each other.
MOST_THREADS = 256

_HERE: tuple[type[BaseException], ...] = (Exception,)


class FlowRunner(Protocol):
    """Carries out the flows that a body calls."""

    def run(self, flow: FlowSpec, parameters: dict[str, Any], step: Step) -> State[Any]:
        """Run `flow` here, as the child run of `step`."""
        ...

    async def run_async(self, flow: FlowSpec, parameters: dict[str, Any], step: Step) -> State[Any]:
        """As `run`, for a coroutine function."""
        ...

    def pause(self, step: Step, pause: Pause) -> Coroutine[Any, Any, Any]:
        """Wait until the run is resumed; gives the answer."""
        ...

    def receive(self, step: Step, wanted: Receive, check: Callable[[], None]) -> Coroutine[Any, Any, Any]:
        """Wait for a message to the run; what `check` raises ends the wait."""
        ...

    def send(self, message: Message) -> None:
        """Send a message."""
        ...


class Processes(Protocol):
    """Processes for the bodies of submitted tasks."""

    def call(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        timeout: float | None = None,
        log_prints: bool = False,
    ) -> Any:
        """As `bodies.call`, in a process of its own."""
        ...

    def kill(self) -> None:
        """End them all, at work or not, and start no more."""
        ...

    def close(self) -> None:
        """End those that wait for work; to be called when none works."""
        ...


class LocalRunner:
    """Carries out the calls of one run attempt here, or those made outside of any run."""

    def __init__(
        self,
        book: StepBook,
        flows: FlowRunner,
        *,
        task_runner: TaskRunner | None = None,
        finished: Finished | None = None,
    ) -> None:
        """Prepare.

        Args:
            book: Numbers and records the steps.
            flows: Carries out child runs.
            task_runner: Who runs submitted tasks; None: threads.
            finished: What the run attempt before has ended.
        """
        self.book, self.flows, self.finished = book, flows, finished
        self._stopped = False
        self._is_inline = isinstance(task_runner, InlineTaskRunner)
        self._processes: Processes | None = None
        threads = (task_runner.most_in_flight if task_runner is not None else None) or MOST_THREADS
        if isinstance(task_runner, ProcessPoolTaskRunner):
            # Each has a thread here, which hands the work over and waits for its end.
            threads = task_runner.max_workers or os.cpu_count() or 1
            self._processes = lazy.load("processes")()
        self._threads = threads
        self._pool: pools.ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        #: In the order of submission: upstreams before what depends on them.
        self._submitted: dict[LocalFuture, None] = {}
        #: What the pauses that have a key were given.
        self._given: dict[str, Any] = {}
        #: Makes what keeps the transactions of a recorded run; None: they are kept in memory alone.
        self.make_keeper: Callable[[], Any] | None = None
        self._keeper: Any = None

    @property
    def keeper(self) -> Any:
        """Keeps the transactions of the body."""
        if self._keeper is None:
            self._keeper = (self.make_keeper or lazy.load("memory_keeper"))()
        return self._keeper

    def close_transactions(self, state: State[Any]) -> State[Any]:
        """Roll back what the body left open that has ended so; gives how its run ends then."""
        if self._keeper is None:
            return state
        closed: State[Any] = self._keeper.close(state)
        return closed

    # -- tasks ---------------------------------------------------------------------------------------------------

    def call_task(self, task: TaskSpec, call: Call) -> State[Any]:
        """The final state of a direct call."""
        step = self._open_task(task)
        self.wait(upstreams_of(call), None)
        return self._run_step(task, call, step, _HERE)

    async def call_task_async(self, task: TaskSpec, call: Call) -> State[Any]:
        """The final state of a direct call to a coroutine function."""
        step = self._open_task(task)
        await self.wait_async(upstreams_of(call), None)
        try:
            args, kwargs = inputs_of(call)
        except UpstreamFailed as error:
            return self._not_run(task, step, error)
        if (state := self._find(step, args, kwargs)) is not None:
            return state
        context = self._context(task, args, kwargs, step)
        with _closing(self.book, step, context), self._tag_slots(step) as slots:
            on_retry = self._on_retry(step, slots)
            run = partial(run_attempts_async, task, args, kwargs, context, contain=_HERE)
            run = partial(run, before_attempt=partial(self._before_async, step, slots), on_retry=on_retry)
            ended = await (caching.answered_async(context, run) if task.may_be_cached else run())
        state = self._ended(context, step, (args, kwargs), ended)
        if hooks_of(task, state.type):
            await _hooks(context, state, step).run_to_end_async()
        return state

    def submit_task(self, task: TaskSpec, call: Call) -> Future[Any]:
        """Run the task in the pool when its upstreams have ended."""
        upstreams = [future for future in upstreams_of(call) if isinstance(future, LocalFuture)]
        step = self._open_task(task)
        future = LocalFuture(step, self, upstreams)
        if (txn := transaction_here()) is not None:
            txn.submitted.append(future)
        if self._is_inline:
            self.wait(upstreams, None)
            state = self._run_step(task, call, step, _HERE)
            future.box.set_result(future.let_go(state, self.book.reader(step)))
            return future
        call_body = bodies.call if self._processes is None else self._processes.call

        def run() -> State[Any]:
            state = self._run_step(task, call, step, EVERYTHING, call_body)
            return future.let_go(state, self.book.reader(step))

        future.prepare(partial(contextvars.copy_context().run, run))
        with self._lock:
            self._submitted[future] = None
        future.add_done_callback(self._forget)
        self._start_after(future, [upstream for upstream in upstreams if not upstream.box.done()])
        return future

    def _forget(self, future: Future[Any]) -> None:
        # So that a run with many tasks does not hold all their results to its end.
        with self._lock:
            self._submitted.pop(cast("LocalFuture", future), None)

    def _start_after(self, future: LocalFuture, upstreams: Sequence[LocalFuture]) -> None:
        if not upstreams:
            self._start(future)
            return
        left = set(map(id, upstreams))
        lock = threading.Lock()

        def ended(upstream: Future[Any]) -> None:
            with lock:
                left.discard(id(upstream))
                ready = not left
            if ready:
                self._start(future)

        for upstream in {id(upstream): upstream for upstream in upstreams}.values():
            upstream.add_done_callback(ended)

    def _start(self, future: LocalFuture) -> None:
        if self._stopped:
            future.drop()
            return
        with self._lock:
            if self._pool is None:
                self._pool = pools.ThreadPoolExecutor(self._threads, "orchestra-task", mark_pool_thread)
            pool = self._pool
        pool.submit(future.run)

    def _run_step(
        self,
        task: TaskSpec,
        call: Call,
        step: Step,
        contain: tuple[type[BaseException], ...],
        call_body: CallBody = bodies.call,
    ) -> State[Any]:
        try:
            args, kwargs = inputs_of(call)
        except UpstreamFailed as error:
            return self._not_run(task, step, error)
        if (state := self._find(step, args, kwargs)) is not None:
            return state
        context = self._context(task, args, kwargs, step)
        if call_body is bodies.call and task_run_context.get() is None:
            context.record = partial(self._record, context, step, (args, kwargs))
        with _closing(self.book, step, context), self._tag_slots(step) as slots:
            on_retry = self._on_retry(step, slots)
            run = partial(run_attempts, task, args, kwargs, context, contain=contain, call_body=call_body)
            run = partial(run, before_attempt=partial(self._before, step, slots), on_retry=on_retry)
            ended = caching.answered(context, run) if task.may_be_cached else run()
        state = self._ended(context, step, (args, kwargs), ended)
        if hooks_of(task, state.type):
            # A cancel of the run is raised when they have run.
            with interrupts.shielded():
                _hooks(context, state, step).run()
        return state

    def _context(self, task: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any], step: Step) -> TaskRunContext:
        flow_run = flow_run_context.get()
        parameters = bind(task.fn, args, kwargs)
        step.name = task_run_name(task, parameters, step.name)
        return TaskRunContext(
            task=task,
            task_run_id=step.id,
            task_run_name=step.name,
            flow_run=flow_run,
            step_key=step.key,
            attempt=1,
            idempotency_key=_idempotency_key(flow_run, step),
            parameters=parameters,
            log_prints=_prints(task, flow_run),
            runner=self,
            tags=step.tags,
        )

    def _not_run(self, task: TaskSpec, step: Step, error: UpstreamFailed) -> State[Any]:
        state = replace(states.from_exception(error), state_details=_details(step))
        self.book.close(step, state, task=task)
        return state

    def _tag_slots(self, step: Step) -> NoSlots:
        """The slots that a task needs for its tags; given back at the end of the block."""
        return engine_slots.of_tags(step.tags, on_wait=lambda: self.book.waiting(step))

    def _before(self, step: Step, slots: NoSlots) -> None:
        """Just before a body starts."""
        slots.take()
        self.book.running(step)

    def _before_async(self, step: Step, slots: NoSlots) -> Awaitable[None] | None:
        if (ready := slots.take_async()) is not None:
            return self._when_ready(ready, step)
        self.book.running(step)
        return None

    async def _when_ready(self, ready: Awaitable[None], step: Step) -> None:
        await ready
        self.book.running(step)

    def _on_retry(self, step: Step, slots: NoSlots) -> Callable[[State[Any], float], None]:
        def note(state: State[Any], delay: float) -> None:
            # Others may have them until the next try.
            slots.give()
            self.book.retrying(step, state, delay)

        return note

    def _ended(self, context: TaskRunContext, step: Step, inputs: Any, ended: Ended | RetryLater) -> State[Any]:
        if context.recorded is not None:
            if context.task.persist_result is not False:
                self._keep_finished(step, inputs, context.recorded)
            return context.recorded
        txn, final = transaction_here(), ended.state
        # What the cache has answered has done nothing that could be rolled back, or is to be committed.
        has_run = context.cached is None or not context.cached.is_answered
        if has_run and context.task.on_commit and txn is None and final.is_completed():
            final = lazy.load("transacting").commit_alone(context, final)
        state = replace(final, state_details=_details(step))
        if has_run and txn is not None and state.is_completed():
            txn.task_ended(context)
        known = None if context.cached is None else context.cached.kept
        # The cache answers a later attempt by itself; what is done in a block is undone, or done anew with it.
        again = inputs if context.cached is None and txn is None else None
        self.book.close(step, state, attempt=ended.attempt, task=context.task, known=known, inputs=again)
        if context.task.persist_result is not False:
            self._keep_finished(step, inputs, state)
        return state

    def _keep_finished(self, step: Step, inputs: Any, state: State[Any]) -> None:
        """Keep how a step ended for the next run attempt; in a transaction, once that is committed."""
        if self.finished is None:
            return
        if (txn := transaction_here()) is not None:
            txn.when_committed.append(partial(self.finished.keep, step, inputs, state))
        else:
            self.finished.keep(step, inputs, state)

    def _record(self, context: TaskRunContext, step: Step, inputs: Any, state: State[Any], joint: Any) -> State[Any]:
        """Record an end within the transaction of the body."""
        txn = transaction_here()
        if context.task.on_commit and txn is None:
            state = lazy.load("transacting").commit_alone(context, state)
            if not state.is_completed():
                return state
        state = replace(state, state_details=_details(step))
        if txn is not None:
            txn.task_ended(context)
        try:
            again = inputs if context.cached is None and txn is None else None
            self.book.close(step, state, attempt=context.attempt, task=context.task, joint=joint, inputs=again)
        except StoreError as error:
            raise DbTransactionError(str(error)) from error
        return state

    def _find(self, step: Step, *inputs: Any) -> State[Any] | None:
        """How the step ended in the run attempt before, if it did and its inputs are equal."""
        state = self.finished.find(step, inputs) if self.finished is not None else None
        if state is not None:
            if step.child_run_id is not None:
                # The run whose result it is: none is made for this step.
                step.child_run_id = state.state_details.flow_run_id
            self.book.close(step, state)
        return state

    def _open_task(self, task: TaskSpec) -> Step:
        step = self._open(task.name, Kind.TASK, task.path)
        step.tags = tags_of(task.tags)
        return step

    def _open(self, name: str, kind: Kind, path: str | None = None) -> Step:
        # The thread of a body whose time is over cannot be stopped; it ends here, at its next call.
        self._check()
        return self.book.open(name, kind, path)

    # -- flows ---------------------------------------------------------------------------------------------------

    def call_flow(self, flow: FlowSpec, parameters: dict[str, Any], wait_for: tuple[Any, ...]) -> State[Any]:
        """The final state of a child run, run here."""
        call, step = Call(kwargs=parameters, wait_for=wait_for), self._open_flow(flow)
        self.wait(upstreams_of(call), None)
        try:
            given = inputs_of(call)[1]
            state = self._find(step, given) or self.flows.run(flow, given, step)
        except UpstreamFailed as error:
            return self._flow_ended(flow, step, parameters, states.from_exception(error))
        return self._flow_ended(flow, step, given, state)

    async def call_flow_async(
        self, flow: FlowSpec, parameters: dict[str, Any], wait_for: tuple[Any, ...]
    ) -> State[Any]:
        """The final state of a child run whose body is a coroutine function."""
        call, step = Call(kwargs=parameters, wait_for=wait_for), self._open_flow(flow)
        await self.wait_async(upstreams_of(call), None)
        try:
            given = inputs_of(call)[1]
            state = self._find(step, given) or await self.flows.run_async(flow, given, step)
        except UpstreamFailed as error:
            return self._flow_ended(flow, step, parameters, states.from_exception(error))
        return self._flow_ended(flow, step, given, state)

    def _flow_ended(self, flow: FlowSpec, step: Step, inputs: Any, state: State[Any]) -> State[Any]:
        again = (inputs,) if flow.keeps_results and transaction_here() is None else None
        self.book.close(step, state, inputs=again)
        self._keep_finished(step, (inputs,), state)
        return state

    def _open_flow(self, flow: FlowSpec) -> Step:
        step = self._open(flow.name, Kind.SUBFLOW, flow.path)
        step.child_run_id = identifiers.new_run_id()
        return step

    # -- time and people -----------------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Go on after `seconds`."""
        step = self._open("sleep", Kind.SLEEP)
        time.sleep(max(0.0, seconds))
        self.book.close(step, states.Completed())

    async def sleep_async(self, seconds: float) -> None:
        """Go on after `seconds`, holding up the calling branch only."""
        step = self._open("sleep", Kind.SLEEP)
        await asyncio.sleep(seconds)
        self.book.close(step, states.Completed())

    def pause(self, pause: Pause) -> Any:
        """Go on when a person resumes the run; gives what the pause makes of the answer."""
        return bodies.run_coroutine(lambda: self.pause_async(pause))

    async def pause_async(self, pause: Pause) -> Any:
        """As `pause`, holding up the calling branch only."""
        key, refused = pause.question.key, None
        while key is None or key not in self._given:
            step = self._open(key or "pause", Kind.PAUSE)
            asked = replace(pause, question=replace(pause.question, refused=refused))
            answer = await self._answered(step, pause.question, partial(self.flows.pause, step, asked))
            try:
                value = None if pause.accept is None else pause.accept(answer)
            except InvalidRunInput as error:
                refused = str(error)
                continue
            if key is None:
                return value
            self._given[key] = value
        return self._given[key]

    def receive(self, wanted: Receive) -> Any:
        """Go on when a message has come."""
        return bodies.run_coroutine(lambda: self.receive_async(wanted))

    async def receive_async(self, wanted: Receive) -> Any:
        """As `receive`, holding up the calling branch only."""
        step = self._open("receive", Kind.INPUT)
        try:
            return await self._answered(step, wanted, partial(self.flows.receive, step, wanted, self._check))
        except InputTimeout as error:
            self.book.close(step, states.from_exception(error))
            raise

    async def _answered(self, step: Step, asked: Any, ask: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """What a step is answered; in a further attempt of the run what it was answered before."""
        if (state := self._find(step, asked)) is not None:
            return state.data
        state = states.Completed(data=await ask())
        if step.kind is not Kind.PAUSE:
            # A pause is a row of its own from its beginning, which whoever resumes the run ends.
            self.book.close(step, state)
        self._keep_finished(step, (asked,), state)
        return state.data

    def slots(self, wanted: Slots) -> AbstractContextManager[None]:
        """Slots of concurrency limits, had while inside; waited for in this thread."""
        self._check()
        return engine_slots.held(wanted)

    def slots_async(self, wanted: Slots) -> AbstractAsyncContextManager[None]:
        """As `slots`, without holding up the event loop."""
        self._check()
        return engine_slots.held_async(wanted)

    def send(self, message: Message) -> None:
        """Send a message to another run."""
        self._check()
        self.flows.send(message)

    def emit(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write an event behind the body: a local body is not replayed."""
        events.record_behind(row)
        return row

    def _check(self) -> None:
        if self._stopped:
            raise Cancelled("the flow run was cancelled, or has ended")

    def observe(self, name: str, look: Callable[[], T]) -> T:
        """What `look` gives: a local body is not replayed."""
        return look()

    def patched(self, name: str) -> bool:
        """A run in this process begins and ends under one code, the newest."""
        return True

    # -- waiting -------------------------------------------------------------------------------------------------

    def wait(self, futures: Sequence[Future[Any]], timeout: float | None, *, first: bool = False) -> None:
        """Return when all futures are done (`first`: when one is), or after `timeout` seconds."""
        given = [future for future in futures if isinstance(future, LocalFuture)]
        if timeout is None and in_pool_thread():
            help_with(given, first)
        if given:
            pools.wait([future.box for future in given], timeout, _return_when(first))

    async def wait_async(self, futures: Sequence[Future[Any]], timeout: float | None, *, first: bool = False) -> None:
        """As `wait`, without holding up the event loop."""
        boxes = [future.box for future in futures if isinstance(future, LocalFuture)]
        if any(not box.done() for box in boxes):
            waiters = [asyncio.wrap_future(shadow(box)) for box in boxes]
            await asyncio.wait(waiters, timeout=timeout, return_when=_return_when(first))

    def drain(self) -> None:
        """Wait until all that was submitted has ended, also what was submitted meanwhile."""
        while pending := self._pending():
            pools.wait([future.box for future in pending])
        self._shut()

    async def drain_async(self) -> None:
        """As `drain`, without holding up the event loop."""
        while pending := self._pending():
            await self.wait_async(pending, None)
        self._shut()

    def abandon(self) -> None:
        """Cancel what has not begun; what runs in a thread cannot be stopped and goes on, a process is ended."""
        self.stop()
        # The last first: what is dropped starts, or drops, nothing that depends on it.
        for future in reversed(self._pending()):
            future.drop()
        self._shut()

    def stop(self) -> None:
        """Have the body raise `Cancelled` at its next call."""
        self._stopped = True
        if self._processes is not None:
            self._processes.kill()

    def _pending(self) -> list[LocalFuture]:
        with self._lock:
            return [future for future in self._submitted if not future.box.done()]

    def _shut(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
            self._submitted.clear()
        if pool is not None:
            pool.shutdown(wait=False)
        if self._processes is not None:
            self._processes.close()


class _closing:
    """Records the step as Crashed where its body is left by a signal, Ctrl-C or `sys.exit()`."""

    def __init__(self, book: StepBook, step: Step, context: TaskRunContext) -> None:
        self.book, self.step, self.context = book, step, context

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if error is not None and self.context.recorded is None:
            state = states.Crashed(states.describe(error))
            self.book.close(self.step, state, attempt=self.context.attempt, task=self.context.task)


def _hooks(context: TaskRunContext, state: State[Any], step: Step) -> TaskRunHooks:
    """The hooks of a task run that has ended; one whose result was taken over from an earlier run attempt has none."""
    return TaskRunHooks(context, state, start_time=step.start_time, end_time=clock.now())


def upstreams_of(call: Call) -> list[Future[Any]]:
    """The futures among a call's arguments and in its `wait_for`."""
    return [future for future, _ in find_futures((call.args, call.kwargs, call.wait_for))]


def inputs_of(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with values in place of futures that are done.

    Raises:
        UpstreamFailed: One of them, or of `wait_for`, did not succeed.
    """
    replace_futures(call.wait_for, settled)
    return replace_futures(call.args, settled), replace_futures(call.kwargs, settled)


def _idempotency_key(flow_run: FlowRunContext | None, step: Step) -> str:
    if flow_run is None or step.key is None:
        return step.id
    attempt = 1 if transaction_here() is None else flow_run.run_attempt
    return identifiers.idempotency_key(flow_run.run_id, step.key, attempt)


def _prints(task: TaskSpec, flow_run: FlowRunContext | None) -> bool:
    if task.log_prints is not None:
        return task.log_prints
    return flow_run is not None and flow_run.log_prints


def _details(step: Step) -> states.StateDetails:
    flow_run = flow_run_context.get()
    return states.StateDetails(flow_run.run_id if flow_run else None, step.id)


def _return_when(first: bool) -> str:
    return pools.FIRST_COMPLETED if first else pools.ALL_COMPLETED
