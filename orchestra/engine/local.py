"""A flow run in this process: its row, its attempts, its end. The default, without any worker.

A call is: write the row, run the body, wait for what it submitted, run it again while retries are left, write the
final state. Steps, states and log lines are written behind, and flushed when the outermost run ends.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

from orchestra import clock, identifiers, lazy, retries, settings, states
from orchestra.context import FlowRunContext, flow_run_context, tags_context, task_run_context
from orchestra.engine import bodies, interrupts, leases, operations, receiving, terminations
from orchestra.engine.definitions import encoded_options
from orchestra.engine.hooks import FlowRunHooks, running_state
from orchestra.engine.outcomes import flow_state
from orchestra.engine.parameters import call_with, validate
from orchestra.engine.run_names import flow_run_name
from orchestra.errors import Cancelled, OrchestraError, ParameterError, PauseTimeout, Terminated
from orchestra.hooks import hooks_of
from orchestra.logging import engine_logger, masked
from orchestra.questions import Message, Pause, Receive
from orchestra.results import check_parameters
from orchestra.runners.carrier import Carrier
from orchestra.runners.local import LocalRunner
from orchestra.runners.steps import NOTHING, Finished, KeptEarlier, Recorded, Step, Unrecorded, kept
from orchestra.serializers import decode, encode
from orchestra.specs import FlowSpec
from orchestra.states import State, StateType
from orchestra.store import claims, local_runs
from orchestra.store.behind import behind
from orchestra.store.database import database
from orchestra.task_runners import CeleryTaskRunner, InlineTaskRunner

#: For how long the end of a run waits for rows written behind, in seconds; they are written later if it is too short.
FLUSH_PATIENCE = 10.0
#: How often a paused run looks whether it was resumed, in seconds.
PAUSE_POLL = 0.2


def runner() -> LocalRunner:
    """The runner of calls made outside of any flow run: flows are recorded, single tasks only run."""
    return LocalRunner(Unrecorded(), ChildFlows(None))


@dataclass(slots=True)
class ChildFlows:
    """Runs the flows that a body calls, as children of its run; or, without one, on their own."""

    parent: LocalFlowRun | None

    def run(self, flow: FlowSpec, parameters: dict[str, Any], step: Step) -> State[Any]:
        """Run `flow` here."""
        return LocalFlowRun(flow, parameters, step, self.parent).run()

    async def run_async(self, flow: FlowSpec, parameters: dict[str, Any], step: Step) -> State[Any]:
        """Run `flow`, whose function is a coroutine function, in the running loop."""
        return await LocalFlowRun(flow, parameters, step, self.parent).run_async()

    async def pause(self, step: Step, pause: Pause) -> Any:
        """Wait until the parent run is resumed; gives the answer.

        Raises:
            PauseTimeout: Nobody resumed it in time.
        """
        return None if self.parent is None else await self.parent.pause(step, pause)

    async def receive(self, step: Step, wanted: Receive, check: Callable[[], None]) -> Any:
        """The next message to the parent run.

        Raises:
            InputTimeout: None came in time.
        """
        assert self.parent is not None
        return await receiving.receive(database(), self.parent.run_id, wanted, step.id, check)

    def send(self, message: Message) -> None:
        """Send a message to a run."""
        operations.send(database(), message)


@dataclass(slots=True)
class LocalFlowRun:
    """One flow run, from its row to its final state."""

    flow: FlowSpec
    parameters: dict[str, Any]
    step: Step
    parent: LocalFlowRun | None
    owner: str = field(default_factory=identifiers.owner)
    run_attempt: int = 1
    #: As it ended before, if a person has it run again; None: it begins here.
    again: local_runs.Ended | None = None
    runner: LocalRunner = field(init=False)
    context: FlowRunContext = field(init=False)
    _invalid: State[Any] | None = None
    _cancelled: bool = False
    _interrupted: bool = False
    _over: bool = False
    #: Another process has ended or claimed the run: its hooks are not ours to run.
    _lost: bool = False

    @property
    def run_id(self) -> str:
        """The id of this run."""
        return self.step.child_run_id or self.step.id

    def run(self) -> State[Any]:
        """Carry it out."""
        with self._told_to_end(lambda: interrupts.raise_in_main(Terminated("SIGTERM"))):
            state = self._carry_out()
            self._run_hooks(state)
            return state

    def _carry_out(self) -> State[Any]:
        in_main = threading.current_thread() is threading.main_thread()
        try:
            with self._running(self._interrupt if in_main else _nothing):
                state = self._invalid or self._attempt()
                while (delay := self._retry_delay(state)) is not None:
                    time.sleep(delay)
                    self._next_attempt()
                    state = self._attempt()
        except Cancelled:
            return self._cancelled_here()
        return self._end(state)

    async def run_async(self) -> State[Any]:
        """Carry it out in the running loop."""
        loop, branch = asyncio.get_running_loop(), asyncio.current_task()
        assert branch is not None
        with self._told_to_end(lambda: loop.call_soon_threadsafe(self._interrupt_branch, branch)):
            state = await self._carry_out_async(loop, branch)
            if self._owes(state):
                await self._hooks(state).run_to_end_async()
                self._flush()
            return state

    async def _carry_out_async(self, loop: asyncio.AbstractEventLoop, branch: asyncio.Task[Any]) -> State[Any]:
        try:
            with self._running(lambda: loop.call_soon_threadsafe(self._interrupt_branch, branch)):
                state = self._invalid or await self._attempt_async()
                while (delay := self._retry_delay(state)) is not None:
                    await asyncio.sleep(delay)
                    self._next_attempt()
                    state = await self._attempt_async()
        except Cancelled:
            branch.uncancel()
            return self._cancelled_here()
        return self._end(state)

    async def pause(self, step: Step, pause: Pause) -> Any:
        """Show as Paused until `resume_flow_run`; gives the answer."""
        book = self.runner.book
        assert isinstance(book, Recorded)
        if pause.question.refused is not None:
            engine_logger(self.context).warning("%s; the run waits again", pause.question.refused)
        db, until = database(), clock.now() + pause.timeout
        shown = states.Paused(pause.question.refused, name=pause.state_name)
        local_runs.open_pause(db, self.owner, book.pause_row(step, until, pause.question), shown)
        while (ended := local_runs.pause_ending(db, step.id)) is None and clock.now() < until:
            await asyncio.sleep(min(PAUSE_POLL, pause.timeout))
        if ended is None and not local_runs.end_pause(db, step.id):
            # Resumed just now: whoever did so was told that it goes on.
            ended = local_runs.pause_ending(db, step.id)
        if ended is not None and ended[0] == StateType.CANCELLED:
            raise Cancelled("the flow run was cancelled while it was paused")
        local_runs.set_state(db, self.run_id, self.owner, states.Running(), run_attempt=self.run_attempt)
        if ended is None or ended[0] != StateType.COMPLETED:
            raise PauseTimeout(f"flow run {self.context.run_name!r} was not resumed within {pause.timeout:g} s")
        return None if ended[1] is None else decode(ended[1])

    # -- the parts of a run --------------------------------------------------------------------------------------

    @contextmanager
    def _running(self, interrupt: Callable[[], object]) -> Iterator[None]:
        """Open the run and its context; what passes its attempt ends it: Ctrl-C and `sys.exit()` as Crashed.

        Args:
            interrupt: Makes the body raise, from another thread, when the run is cancelled. Where nothing can, the
                body learns it at its next call; if it makes none, the run is cancelled all the same when it ends.

        Raises:
            Cancelled: The run was cancelled.
        """
        self._invalid = self._validate()
        self._prepare()
        try:
            with interrupts.shielded():
                self._begin()
        except KeyboardInterrupt as error:
            # The row may be there already, and would be shown as running until its lease lapses.
            self._crash(error)
            raise
        flow_token, task_token = flow_run_context.set(self.context), task_run_context.set(None)
        try:
            with leases.hold(self.owner, lambda: self._cancel(interrupt)), self._armed():
                yield
            if self._cancelled:
                raise Cancelled("the flow run was cancelled")
        except BaseException as error:
            self.runner.abandon()
            if self._cancelled or isinstance(error, Cancelled):
                raise Cancelled(str(error)) from error
            self._crash(error)
            raise
        finally:
            self._over = True
            task_run_context.reset(task_token)
            flow_run_context.reset(flow_token)

    def _told_to_end(self, stop: Callable[[], object]) -> AbstractContextManager[None]:
        return terminations.caught(stop) if self.parent is None else nullcontext()

    def _crash(self, error: BaseException) -> None:
        """End the run by what is no failure of its own, and is raised on."""
        if isinstance(error, asyncio.CancelledError) and terminations.told():
            error = Terminated("SIGTERM")
        self._run_hooks(self._end(states.Crashed(states.describe(error))))

    def _run_hooks(self, state: State[Any]) -> None:
        if self._owes(state):
            # A cancel of the run around this one is raised when they have run.
            with interrupts.shielded():
                self._hooks(state).run()
            self._flush()

    def _hooks(self, state: State[Any]) -> FlowRunHooks:
        return FlowRunHooks(self.context, state, end_time=clock.now())

    def _owes(self, state: State[Any]) -> bool:
        """Whether the end of this run calls for hooks; where another process has ended it, they are not ours."""
        return bool(hooks_of(self.flow, state.type)) and not self._lost

    def _armed(self) -> AbstractContextManager[None]:
        return interrupts.armed() if self.parent is None else nullcontext()

    def _cancel(self, interrupt: Callable[[], object]) -> None:
        """Called by another thread when the run is being cancelled."""
        if not self._cancelled:
            self._cancelled = True
            self.runner.stop()
        if not self._interrupted:
            # Its body may not be entered yet: then it is told the next time.
            self._interrupted = interrupt() is not False

    def _interrupt(self) -> bool:
        return interrupts.raise_in_main(Cancelled("the flow run was cancelled"))

    def _interrupt_branch(self, branch: asyncio.Task[Any]) -> None:
        # Called by the loop, by when the run may have ended: then what runs in the branch is its caller's.
        if not self._over:
            branch.cancel()

    def _cancelled_here(self) -> State[Any]:
        """End a run that was cancelled; a parent that was cancelled too learns it at its next call."""
        return self._end(states.Cancelled("the flow run was cancelled"))

    def _validate(self) -> State[Any] | None:
        """The final state of a run whose parameters do not fit; None: they do, and are coerced now."""
        if not self.flow.validate_parameters:
            return None
        try:
            self.parameters = validate(self.flow.fn, self.parameters)
        except ParameterError as error:
            return states.from_exception(error)
        return None

    @property
    def _above(self) -> FlowRunContext | None:
        return flow_run_context.get() if self.parent is None else self.parent.context

    def _prepare(self) -> None:
        above = self._above
        self.context = FlowRunContext(
            flow=self.flow,
            run_id=self.run_id,
            run_name=flow_run_name(self.flow, self.parameters) if self.again is None else self.again.name,
            parameters=self.parameters,
            runner=self._open_attempt(),
            tags=tuple(sorted(tags_context.get())),
            run_attempt=self.run_attempt,
            parent_run_id=above.run_id if above else None,
            root_run_id=(above.root_run_id or above.run_id) if above else self.run_id,
            start_time=clock.now(),
            log_prints=_first(self.flow.log_prints, above.log_prints if above else None),
            depth=above.depth + 1 if above else 0,
        )

    def _begin(self) -> None:
        leases.mark_dead_once(database())
        if self.again is not None:
            local_runs.claim_again(database(), self.again, self.owner, settings.current().lease_seconds)
            engine_logger(self.context).info("retried flow %r: run attempt %d", self.flow.name, self.run_attempt)
            return
        local_runs.start_run(database(), self._row(self._above), states.Running())
        engine_logger(self.context).info("started flow %r", self.flow.name)

    def _row(self, above: FlowRunContext | None) -> local_runs.NewLocalRun:
        return local_runs.NewLocalRun(
            id=self.run_id,
            name=self.context.run_name,
            flow_name=self.flow.name,
            path=self.flow.path,
            owner=self.owner,
            lease_seconds=settings.current().lease_seconds,
            entrypoint=self.flow.entrypoint,
            description=self.flow.description,
            version=self.flow.version,
            parameters=_encoded(self.parameters),
            tags=self.context.tags,
            parent_run_id=self.context.parent_run_id,
            parent_attempt=above.run_attempt if above else None,
            parent_step_key=self.step.key,
            root_run_id=self.context.root_run_id,
            depth=self.context.depth,
            timeout_seconds=self.flow.timeout_seconds,
            options=_options(self.flow),
        )

    def _open_attempt(self, earlier: Finished | None = None) -> LocalRunner:
        book = Recorded(self.run_id, self.run_attempt, self.owner, self.flow)
        finished = self._finished(earlier)
        runner = self.flow.task_runner
        if isinstance(runner, CeleryTaskRunner):
            carrier = lazy.load("remote_carrier")(runner.app)
            if carrier is not None:
                self.runner = self._open_remote(book, carrier, finished)
                return self.runner
            runner = InlineTaskRunner()
        self.runner = LocalRunner(book, ChildFlows(self), task_runner=runner, finished=finished)
        self.runner.make_keeper = self._make_keeper
        return self.runner

    def _finished(self, earlier: Finished | None) -> Finished | None:
        if self.again is not None and earlier is None:
            return Finished(None, KeptEarlier(self.run_id))
        return Finished(earlier) if self.flow.max_retries else None

    def _make_keeper(self) -> Any:
        return lazy.load("local_keeper")(self._claim(), lambda: self._cancelled or self._over)

    def _claim(self) -> claims.Claim:
        lease = settings.current().lease_seconds
        number = 1 if self.again is None else self.again.claim_number + 1
        return claims.Claim("flow", self.run_id, self.run_attempt, None, self.owner, number, lease, clock.monotonic())

    def _open_remote(self, book: Recorded, carrier: Carrier, finished: Finished | None) -> LocalRunner:
        claim = self._claim()
        made: LocalRunner = lazy.load("remote_runner")(
            book,
            ChildFlows(self),
            flow=self.flow,
            claim=claim,
            carrier=carrier,
            database=database(),
            finished=finished,
        )
        made.make_keeper = self._make_keeper
        return made

    def _next_attempt(self) -> None:
        if self._cancelled:
            raise Cancelled("the flow run was cancelled")
        self.run_attempt += 1
        self.context.run_attempt = self.run_attempt
        self.context.runner = self._open_attempt(self.runner.finished)
        retrying = states.Running(name="Retrying")
        local_runs.set_state(database(), self.run_id, self.owner, retrying, run_attempt=self.run_attempt)

    def _attempt(self) -> State[Any]:
        if self.flow.on_running:
            FlowRunHooks(self.context, running_state(self.run_attempt)).run()
        args, kwargs = call_with(self.flow.fn, self.parameters)
        body = _body(self.flow.fn, self.runner.drain)
        try:
            state = flow_state(bodies.call(body, args, kwargs, **self._body_options()))
        except Exception as error:
            self.runner.abandon()
            state = masked(self.context, states.from_body(error))
        return self.runner.close_transactions(state)

    async def _attempt_async(self) -> State[Any]:
        if self.flow.on_running:
            await FlowRunHooks(self.context, running_state(self.run_attempt)).run_async()
        args, kwargs = call_with(self.flow.fn, self.parameters)
        body = _body_async(self.flow.fn, self.runner.drain_async)
        try:
            state = flow_state(await bodies.call_async(body, args, kwargs, **self._body_options()))
        except Exception as error:
            self.runner.abandon()
            state = masked(self.context, states.from_body(error))
        return self.runner.close_transactions(state)

    def _body_options(self) -> dict[str, Any]:
        return {"timeout": self.flow.timeout_seconds, "log_prints": self.context.log_prints}

    def _retry_delay(self, state: State[Any]) -> float | None:
        """Seconds until the next run attempt; None: there is none."""
        if self._invalid or self._cancelled or not retries.may_retry_flow(state):
            return None
        try:
            delay = retries.next_delay(self.flow.max_retries, self.flow.retry_delay, self.run_attempt)
        except Exception:
            engine_logger(self.context).exception("retry_delay_seconds raised; the flow is not retried")
            return None
        if delay is not None:
            waiting = states.Scheduled(state.message, name="AwaitingRetry")
            local_runs.set_state(database(), self.run_id, self.owner, waiting, run_attempt=self.run_attempt)
            say = "%s; run attempt %d of %d in %.3g s"
            engine_logger(self.context).warning(
                say, state.message, self.run_attempt + 1, self.flow.max_retries + 1, delay
            )
        return delay

    def _keeps(self, state: State[Any]) -> bool:
        return self.flow.keeps_results and state.is_completed()

    def _end(self, state: State[Any]) -> State[Any]:
        """Record the final state, and see that all that was written behind is there."""
        with interrupts.shielded():
            state = self.runner.close_transactions(state)
            return self._record_end(replace(state, state_details=states.StateDetails(self.run_id)))

    def _record_end(self, state: State[Any]) -> State[Any]:
        logger = engine_logger(self.context)
        logger.log(logging.INFO if state.is_completed() else logging.ERROR, "ended %s", _described(state))
        try:
            result = kept(state.data, self.context.run_name, self.flow) if self._keeps(state) else NOTHING
            remote = isinstance(self.flow.task_runner, CeleryTaskRunner)
            if not local_runs.finish_run(
                database(),
                self.run_id,
                self.owner,
                state,
                result=result.data,
                blob=result.blob,
                has_remote_steps=remote,
            ):
                self._lost = True
                logger.warning("the end of this run is not recorded: another process has ended or claimed it")
        except OrchestraError as error:
            logger.warning("the end of this run is not recorded: %s", error)
        self._flush()
        return state

    def _flush(self) -> None:
        if self.context.parent_run_id is None:
            behind().flush(FLUSH_PATIENCE)


def _body(fn: Callable[..., Any], drain: Callable[[], None]) -> Callable[..., Any]:
    """`fn`, and then the end of all that it submitted; after a timeout nothing is waited for."""

    @wraps(fn)
    def body(*args: Any, **kwargs: Any) -> Any:
        try:
            value = bodies.value_of(fn, args, kwargs)
        except Exception:
            drain()
            raise
        drain()
        return value

    return body


def _body_async(fn: Callable[..., Any], drain: Callable[[], Awaitable[None]]) -> Callable[..., Any]:
    """As `_body`, for a coroutine function."""

    @wraps(fn)
    async def body(*args: Any, **kwargs: Any) -> Any:
        try:
            value = await fn(*args, **kwargs)
        except Exception:
            await drain()
            raise
        await drain()
        return value

    return body


def _encoded(parameters: dict[str, Any]) -> bytes | None:
    """The parameters as they are kept; None where they cannot be: locally that fails nothing."""
    try:
        return check_parameters(encode(parameters, what="the parameters"))
    except OrchestraError:
        return None


def _options(flow: FlowSpec) -> bytes | None:
    """What `with_options` has set, for whoever carries the run out again; None where it cannot be kept."""
    try:
        return encoded_options(flow)
    except OrchestraError:
        return None


def _nothing() -> None:
    pass


def _described(state: State[Any]) -> str:
    return state.name if state.message is None else f"{state.name}: {state.message}"


def _first(*given: bool | None) -> bool:
    return next((value for value in given if value is not None), False)
