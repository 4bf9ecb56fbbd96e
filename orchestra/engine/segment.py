"""One segment of a flow run on a worker: claim the run, replay its body, go on, and end or park it.

Whatever happens here ends in one of these: the run parked, ended, given back, held, or its claim lost.
Nothing is raised for what a user's code did.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from orchestra import clock, lazy, results, retries, serializers, states
from orchestra.context import FlowRunContext, flow_run_context, tags_context, task_run_context
from orchestra.engine import (
    bodies,
    definitions,
    deployed,
    greenlets,
    history,
    interrupts,
    loops,
    owed,
    tracing,
    unknown,
    versions,
)
from orchestra.engine.arguments import replace_futures, replace_refs
from orchestra.engine.branches import Line, Waiters, current_line
from orchestra.engine.durable import DurableRunner
from orchestra.engine.future import JournalFuture
from orchestra.engine.heartbeat import Heart
from orchestra.engine.hooks import FlowRunHooks, running_state
from orchestra.engine.journaled import SegmentStart
from orchestra.engine.outcomes import flow_state
from orchestra.engine.parameters import bind_named, call_with, validate
from orchestra.engine.run_names import flow_run_name
from orchestra.engine.values import ending_of
from orchestra.errors import (
    Adrift,
    Cancelled,
    CancelledRun,
    ClaimLost,
    CrashedRun,
    DefinitionNotFound,
    Fenced,
    NonDeterministic,
    OtherVersion,
    ParameterError,
    Parked,
    ResultStorageUnavailable,
    RunTimeout,
    Signal,
    StoreError,
)
from orchestra.logging import engine_logger, masked
from orchestra.runners.carrier import Carrier
from orchestra.serializers import StepRef, clean_text
from orchestra.specs import FlowSpec
from orchestra.states import State
from orchestra.store import claims, interventions, journal, logs, runs, waits
from orchestra.store import history as store_history
from orchestra.store.announcements import WAKE_SUFFIX
from orchestra.store.claims import Claim, Claimed
from orchestra.store.database import Database
from orchestra.store.journal import Ending
from orchestra.store.tables import LONGEST_NAME
from orchestra.store.waits import Park

logger = logging.getLogger("orchestra.engine")


def run_segment(database: Database, run_id: str, carrier: Carrier, heart: Heart) -> None:
    """Claim a flow run, if it is due, and carry it on as far as it goes.

    Raises:
        StoreError: The database is away; the claim lapses, and the run is taken up again.
    """
    claimed = claims.claim_run(database, run_id)
    if claimed is None:
        return
    wake = WAKE_SUFFIX if claimed.claim.number > 1 else ""
    heart.mark(claimed.row["queue"] + wake, claimed.row["announced_at"])
    if claimed.row["deployment_id"] is None:
        _carry_on(database, claimed, carrier, heart)
        return
    admission = deployed.admit(database, claimed, carrier)
    if admission.goes_on:
        _carry_on(database, claimed, carrier, heart)
        deployed.hand_on(database, run_id, carrier)
    elif admission.instead is not None:
        run_segment(database, admission.instead, carrier, heart)


def _carry_on(database: Database, claimed: Claimed, carrier: Carrier, heart: Heart) -> None:
    job = None if claimed.over_budget else deployed.job_of(database, claimed.row)
    if job is not None and lazy.load("carry_out_job")(database, claimed, job, carrier, heart):
        return
    flow = load(database, claimed, carrier)
    if flow is not None:
        Segment(database, flow, claimed, carrier, heart).run()


def load(database: Database, claimed: Claimed, carrier: Carrier) -> FlowSpec | None:
    """The run's flow; None where the run was left to a worker that has its code, in its version."""
    row = claimed.row
    if claimed.over_budget:
        # Its code may be what kills the process; it is ended without.
        return unknown.unknown_flow(row["path"], row["flow_name"])
    try:
        path = row["path"] if row["deployment_id"] is None else deployed.entrypoint_here(database, row)
        flow = definitions.load_flow(path, row["entrypoint"], row["options"])
        versions.check(flow, row["version"])
        return flow
    except DefinitionNotFound as error:
        if not claimed.claim.cancelled:
            _leave(database, claimed, carrier, error)
            return None
        return unknown.unknown_flow(row["path"], row["flow_name"])


def _leave(database: Database, claimed: Claimed, carrier: Carrier, error: DefinitionNotFound) -> None:
    deployed.give_up(database, claimed, carrier)
    if isinstance(error, OtherVersion):
        versions.leave(database, claimed, carrier, error)
    else:
        unknown.wait_for_code(database, claimed.claim, error)


class Segment:
    """One claimed flow run, from its claim to the end of the claim."""

    def __init__(
        self,
        database: Database,
        flow: FlowSpec,
        claimed: Claimed,
        carrier: Carrier,
        heart: Heart,
        waiters: Waiters | None = None,
    ) -> None:
        self.database = database
        self.flow = flow
        self.claimed = claimed
        self.claim = claimed.claim
        self.row = claimed.row
        self.carrier = carrier
        self.heart = heart
        self.waiters = waiters or Waiters()
        self.is_invalid = False
        #: The hooks that the run's end calls for, once that is recorded, and the claim on them.
        self.hooks: tuple[Claim, FlowRunHooks] | None = None
        self.runner: DurableRunner
        self.context: FlowRunContext

    def run(self) -> State[Any] | None:
        """Carry the run on; gives its final state, or None where it did not end here."""
        if self.flow.is_async and greenlets.active() and not greenlets.is_native():
            return greenlets.natively(self._run_and_pay)
        return self._run_and_pay()

    def _run_and_pay(self) -> State[Any] | None:
        final = self._run()
        if self.hooks is not None:
            # Outside of the claim on the run, which is over.
            owed.pay(self.database, self.heart, *self.hooks)
        return final

    def _run(self) -> State[Any] | None:
        try:
            with self.heart.hold(self.claim):
                return self._carry_on()
        except (Fenced, ClaimLost) as lost:
            if not self.claim.lost and isinstance(lost, Fenced):
                # The claim of the run around this one was lost; this one goes on alone.
                claims.give_back(self.database, self.claim)
                raise
            logger.warning("flow run %s goes on elsewhere: %s", self.claim.run_id, lost)
            return None
        except ResultStorageUnavailable as error:
            away = error
        except Adrift:
            assert self.runner.broken is not None
            if not isinstance(self.runner.broken, ResultStorageUnavailable):
                raise self.runner.broken from None
            away = self.runner.broken
        unknown.wait_for_storage(self.database, self.claim, away)
        return None

    def _carry_on(self) -> State[Any] | None:
        self._open()
        try:
            return self._advance()
        except Cancelled:
            return self._finish_cancelled()

    def _advance(self) -> State[Any] | None:
        if self.claim.cancelled:
            return self._finish_cancelled()
        if self.claimed.over_budget:
            return self._finish_crashed()
        if self.row["outcome"] is not None:
            return self._conclude(self.row["outcome"])
        self._note_running()
        return self._plan() if self._to_be_planned else self._run_body()

    def _note_running(self) -> None:
        run_id = self.claim.run_id
        # A process that died may have told it, and the run has come into no other state since.
        if not (self.row["lapses"] and store_history.newest(self.database, run_id) == "Running"):
            history.note(run_id, "RUNNING", "Running", at=self.claimed.at)

    def _open(self) -> None:
        """Read the journal, and prepare what the body will find around it."""
        first = self.claim.number == 1
        records = [] if first else journal.load(self.database, self.claim.run_id, self.claim.run_attempt)
        written = {} if first else self.database.read(lambda c: logs.written_lines(c, self.claim.run_id))
        start = SegmentStart(self.database, self.claimed, self.flow, self.carrier, records, self.waiters)
        self.runner = DurableRunner(start, self._run_child, self.heart)
        self.context = FlowRunContext(
            flow=self.flow,
            run_id=self.claim.run_id,
            run_name=self.row["name"],
            parameters={},
            runner=self.runner,
            tags=tuple(json.loads(self.row["tags"])),
            run_attempt=self.claim.run_attempt,
            anew_since=self.row["retried_from_attempt"] or 1,
            parent_run_id=self.row["parent_run_id"],
            root_run_id=self.row["root_run_id"],
            scheduled_start_time=self.row["scheduled_at"],
            start_time=self.row["start_time"],
            log_prints=bool(self.flow.log_prints),
            lines=Lines(self.claim.run_attempt, written),
            depth=self.row["depth"],
            deployment_id=self.row["deployment_id"],
        )
        above = flow_run_context.get()
        if self.flow.log_prints is None and above is not None:
            self.context.log_prints = above.log_prints
        self.runner.context = self.context

    def keep_outcome(self, error: BaseException) -> bool:
        """Note that the body ended by this error, for a process that died in it and could not say so itself.

        The next segment, or whoever goes on under this claim, ends the run so. A crash before leaves the claim to its
        lapse, one after a run whose body is over.

        Returns:
            Whether the claim is held on: there is no submitted work to wait for.

        Raises:
            Fenced: The claim was taken over, or the run has ended.
            Cancelled: The run is being cancelled; nothing was kept.
        """
        self._open()
        outcome = self._encode_outcome(states.from_exception(error))
        parking = self.runner.guard(
            lambda: runs.body_ended(self.database, self.claim, outcome, (), window=self.runner.window)
        )
        self.carrier.announce(parking.announcements)
        return not parking.parked

    # -- a static flow -------------------------------------------------------------------------------------------

    @property
    def _to_be_planned(self) -> bool:
        """Whether this is the start of a static flow whose plan was not written when it was submitted."""
        alone = self.row["parent_run_id"] is None
        return self.flow.static and alone and self.claim.number == 1 and self.claim.run_attempt == 1

    def _plan(self) -> State[Any] | None:
        """Write all that the run will do, and let it wait for that."""
        runner = self.runner
        try:
            plan = tracing.trace(
                self.flow,
                serializers.decode(self.row["parameters"]),
                lambda task: runner.route(task.queue, task.priority, task.routed_as),
                run_id=self.claim.run_id,
                run_name=self.row["name"],
                tags=self.context.tags,
            )
        except Exception as error:
            return self._finish(states.from_exception(error))
        parking = runner.guard(
            lambda: runs.body_ended(self.database, self.claim, plan.outcome, plan.steps, window=runner.window)
        )
        self.carrier.announce(parking.announcements)
        return None if parking.parked else self._conclude(plan.outcome)

    # -- the body ------------------------------------------------------------------------------------------------

    def _run_body(self) -> State[Any] | None:
        if not self.row["streak_parks"]:
            engine_logger(self.context).info("started flow %r", self.flow.name)
        tokens = (
            flow_run_context.set(self.context),
            task_run_context.set(None),
            current_line.set(Line()),
            tags_context.set(frozenset(self.context.tags)),
        )
        try:
            state = self._call_body()
        except Parked:
            return None
        except NonDeterministic as error:
            self._hold(error)
            return None
        finally:
            tags_context.reset(tokens[3])
            current_line.reset(tokens[2])
            task_run_context.reset(tokens[1])
            flow_run_context.reset(tokens[0])
            self.waiters.looks.remove(self.runner.look)
        return self._end_body(state)

    def _call_body(self) -> Any:
        """Run the body; gives what it returned, or a failed State.

        Raises:
            Parked: The segment has parked, however the body then ended.
            Cancelled, Fenced, NonDeterministic: The body was stopped so.
        """
        try:
            value = self._call(*self._arguments())
        except Exception as error:
            self._check_stopped(error)
            value = states.from_body(error)
        except BaseException as error:
            self._check_stopped(error)
            if isinstance(error, interrupts.Expired):
                # The deadline of a run around this one, which is its own and goes on alone.
                self.runner.guard(lambda: claims.give_back(self.database, self.claim))
                raise
            if isinstance(error, Signal):
                raise
            value = states.from_body(error)
        self._check_stopped(None)
        if not isinstance(value, State) or value.is_completed():
            line = current_line.get()
            self.runner.replay.check_ended(line.branch.cancelled if line is not None else ())
        return value

    def _check_stopped(self, error: BaseException | None) -> None:
        """What a body does with a signal changes nothing: parked is parked, lost is lost."""
        if isinstance(error, NonDeterministic):
            raise error
        if self.runner.parked:
            raise Parked
        if self.runner.broken is not None:
            raise Adrift
        if self.claim.lost:
            raise Fenced
        if self.claim.cancelled:
            raise Cancelled
        if self.runner.mismatch is not None:
            raise self.runner.mismatch

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        try:
            return call_with(self.flow.fn, self._parameters())
        except ParameterError:
            # They will not fit the next time either.
            self.is_invalid = True
            raise

    def _parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = serializers.decode(self.row["parameters"])
        if self.row["deployment_id"] is not None:
            # Where it was started there was no code: only here it is known what a parameter's default is.
            parameters = bind_named(self.flow.fn, parameters)
        self.context.parameters = parameters
        if self.flow.validate_parameters:
            self.context.parameters = validate(self.flow.fn, parameters)
        if self.row["deployment_id"] is not None and not self.row["named"]:
            self._name()
        return self.context.parameters

    def _name(self) -> None:
        """Name a run of a deployment by its flow's template: where it was started there was no code to do so."""
        if self.flow.flow_run_name is not None:
            name = self.context.run_name = clean_text(flow_run_name(self.flow, self.context.parameters))
            self.runner.guard(lambda: runs.rename(self.database, self.claim, name))

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.runner.guard(lambda: claims.ensure(self.database, self.claim))
        if self.flow.on_running and self.row["hooks_attempt"] != self.claim.run_attempt:
            self._now_running()
        if self.flow.is_async:
            body = bodies.call_async(self.flow.fn, args, kwargs, log_prints=self.context.log_prints)
            with interrupts.armed():
                return loops.run_branches(
                    body, self.waiters, seconds=self._seconds_left(), timed_out=self._timeout_error
                )
        left = self._seconds_left()
        timeout = left if interrupts.available() else None
        with interrupts.armed():
            value = bodies.call(
                self.flow.fn,
                args,
                kwargs,
                timeout=timeout,
                allowed=self.flow.timeout_seconds,
                log_prints=self.context.log_prints,
            )
        if left is not None and self.runner.is_late:
            # Nothing can stop a body in a thread of a pool; that it took too long shows at its end.
            raise self._timeout_error()
        return value

    def _now_running(self) -> None:
        """Run the hooks of a run attempt that starts; a process that dies before that is noted leaves them to the next.

        What they may ask of the run is what its body may, but they are no part of it.
        """
        state = running_state(self.claim.run_attempt)
        with interrupts.shielded():
            owed.flow_hooks(self.flow, self.row, state, self.claim.run_attempt).run()
        self.runner.guard(lambda: runs.hooks_ran(self.database, self.claim))

    def _timeout_error(self) -> RunTimeout:
        return interrupts.timeout_error(bodies.name_of(self.flow.fn), self.flow.timeout_seconds or 0.0)

    def _seconds_left(self) -> float | None:
        """Until the deadline; a body that is replayed after it is timed out where it blocks."""
        return self.runner.seconds_left or None

    # -- the end -------------------------------------------------------------------------------------------------

    def _end_body(self, value: Any) -> State[Any] | None:
        """The body has ended: keep how, and end the run, or wait for the rest of its submitted work."""
        runner = self.runner
        if not runner.unfinished:
            return self._finish(self._final(value))
        try:
            outcome = self._encode_outcome(value)
        except Exception as error:
            outcome = self._encode_outcome(states.from_exception(error))
        parking = runner.guard(
            lambda: runs.body_ended(self.database, self.claim, outcome, runner.take_unwritten(), window=runner.window)
        )
        self.carrier.announce(parking.announcements)
        return None if parking.parked else self._conclude(outcome)

    def _encode_outcome(self, value: Any) -> bytes:
        """How a body ended, with step keys in place of futures. `E` an exception, `V` a value."""
        if isinstance(value, State) and isinstance(value.data, BaseException) and not value.is_completed():
            ending, _ = ending_of(value, what="the result of a flow")
            head = serializers.encode([str(value.type), value.name, value.message])
            return b"E%08d" % len(head) + head + (ending.result or b"")
        if isinstance(value, State):
            return b"S" + serializers.encode([str(value.type), value.name, value.message, value.data])
        refs = replace_futures(
            value, lambda future, strict: StepRef(getattr(future, "key", "")), lambda state, strict: state
        )
        return b"V" + serializers.encode(refs, what=f"the result of flow {self.flow.name!r}")

    def _conclude(self, outcome: bytes) -> State[Any] | None:
        """All submitted work has ended: end the run as its body did."""
        if self.runner.unfinished and runs.unfinished(self.database, self.claim.run_id, self.claim.run_attempt):
            parking = self.runner.guard(
                lambda: waits.park(self.database, self.claim, Park(None), window=self.runner.window)
            )
            if parking.parked:
                return None
        self.runner.reload()
        try:
            value = self._decode_outcome(outcome)
        except StoreError:
            raise
        except Exception as error:
            value = states.from_exception(error)
        return self._finish(self._final(value))

    def _decode_outcome(self, outcome: bytes) -> Any:
        kind, rest = outcome[:1], outcome[1:]
        if kind == tracing.PLANNED:
            runner = self.runner
            return tracing.planned_value(outcome, runner.known_state, lambda key: JournalFuture(runner, key))
        if kind == b"E":
            size = int(rest[:8])
            state_type, name, message = serializers.decode(rest[8 : 8 + size])
            error = serializers.decode_exception(rest[8 + size :])
            return State(states.StateType(state_type), name, message, error)
        if kind == b"S":
            state_type, name, message, data = serializers.decode(rest)
            return State(states.StateType(state_type), name, message, data)
        return replace_refs(serializers.decode(rest), lambda ref: JournalFuture(self.runner, ref.step_key))

    def _final(self, value: Any) -> State[Any]:
        try:
            return flow_state(value)
        except Exception as error:
            return states.from_exception(error)

    def _finish(self, state: State[Any]) -> State[Any] | None:
        """Write the final state, or open the next run attempt; what transactions are open is rolled back first."""
        runner = self.runner
        closed = self._close_transactions(state)
        if closed is None:
            return None
        state = masked(self.context, closed)
        if (delay := self._retry_delay(state)) is not None:
            engine_logger(self.context).warning("%s; the flow is retried in %.3g s", state.message, delay)
            announcement = runner.guard(
                lambda: runs.reopen(
                    self.database,
                    self.claim,
                    delay=delay,
                    message=_clean(state.message),
                    new=runner.take_unwritten(),
                    window=runner.window,
                )
            )
            if announcement is not None:
                self.carrier.announce([announcement])
            return None
        what, keeping = f"the result of flow {self.flow.name!r}", results.keeping_of(self.database, self.flow)
        ending, final = ending_of(state, what=what, keeping=keeping)
        return self._write_end(ending, final)

    def _close_transactions(self, state: State[Any], *, cancelled: bool = False) -> State[Any] | None:
        """Roll back what is open at the end of a run; gives how it ends then, None where that goes on later.

        How the body ended is kept first: whoever goes on, where this process dies in a hook, does not run it again.
        """
        runner = self.runner
        if not runner.has_transactions:
            return state
        rollbacks = lazy.load("rollbacks")
        keys = rollbacks.open_keys(runner)
        if keys and not cancelled and self.row["outcome"] is None:
            outcome = self._encode_outcome(state)
            runner.guard(
                lambda: runs.body_ended(
                    self.database, self.claim, outcome, runner.take_unwritten(), window=runner.window
                )
            )
        closed: State[Any] | None = rollbacks.close(runner, keys, state)
        return closed

    def _write_end(self, ending: Ending, final: State[Any]) -> State[Any]:
        runner = self.runner
        level = logging.INFO if final.is_completed() else logging.ERROR
        engine_logger(self.context).log(level, "ended %s%s", final.name, f": {final.message}" if final.message else "")
        debt = owed.flow_debt(self.flow, self.claim, self.row, ending)
        asked_at = clock.monotonic()
        runner.guard(
            lambda: self.carrier.announce(
                runs.finish(self.database, self.claim, ending, runner.take_unwritten(), window=runner.window, debt=debt)
            )
        )
        if debt is not None and debt.owner is not None:
            due = owed.flow_hooks(self.flow, self.row, final, self.claim.run_attempt)
            self.hooks = debt.claim(asked_at), due
        return final

    def _retry_delay(self, state: State[Any]) -> float | None:
        if self.claim.cancelled or self.is_invalid or not retries.may_retry_flow(state):
            return None
        try:
            return retries.next_delay(self.flow.max_retries, self.flow.retry_delay, self.claim.run_attempt)
        except Exception:
            logger.exception("retry_delay_seconds of flow %r raised; the flow is not retried", self.flow.name)
            return None

    def _finish_cancelled(self) -> State[Any] | None:
        """End a cancelled run, once its running steps have ended, and what its transactions did is undone."""
        # The signal may have been meant for a run around this one: whoever cancels it is still to reach this one's row.
        self.claim.cancelled = True
        self.runner.take_unwritten()
        # Whoever cancelled it may have died, or be at it, before it had cancelled the children and ended the steps.
        self.carrier.announce(interventions.cancel_below(self.database, self.claim.run_id))
        if runs.unfinished(self.database, self.claim.run_id, self.claim.run_attempt):
            parking = waits.park(self.database, self.claim, Park(None, ending=True), window=self.runner.window)
            if parking.parked:
                return None
        state = states.from_exception(CancelledRun("the flow run was cancelled"))
        closed = self._close_transactions(state, cancelled=True)
        return None if closed is None else self._write_end(*ending_of(closed, what="the result of a flow"))

    def _finish_crashed(self) -> State[Any] | None:
        """End a run that was started too often without getting on; it is kept for `flow-run retry`.

        As ever, it is final when its submitted work is: a retry must not start what still runs.
        """
        starts = self.row["lapses"]
        error = CrashedRun(
            f"its worker died or hung {starts} times in a row without getting any further; mend what kills it, then "
            f"run `orchestra flow-run retry {self.claim.run_id}`"
        )
        return self._end_body(states.from_exception(error))

    def _hold(self, error: NonDeterministic) -> None:
        """Park a run whose body no longer asks for the steps of its journal; nothing is run until a person acts."""
        engine_logger(self.context).error("%s", error)
        self.runner.take_unwritten()
        reason, message = interventions.NONDETERMINISTIC, clean_text(str(error))
        self.runner.guard(
            lambda: interventions.hold_claimed(self.database, self.claim, reason, "NonDeterministic", message)
        )

    def _run_child(self, flow: FlowSpec, claimed: Claimed) -> State[Any] | None:
        """Run a child run inside this segment, under its own claim."""
        # A signal for a claim around the child's is kept back where the child's body does not run: it must not be
        # raised in the midst of what the child writes.
        claimed.claim.around = self.claim
        with interrupts.shielded():
            return Segment(self.database, flow, claimed, self.carrier, self.heart).run()


class Lines:
    """Numbers the log lines of a body, branch by branch; those already written are dropped in a replay."""

    def __init__(self, run_attempt: int, written: dict[str, int]) -> None:
        self._prefix = f"{run_attempt}/"
        self._written = written
        self._counts: dict[str, int] = {}

    def next(self, series: str = "") -> tuple[str, int] | None:
        """Branch and ordinal of the next line of the calling branch; None where it was written before."""
        line = current_line.get()
        branch = (self._prefix + (line.branch.id if line is not None else "") + series)[:LONGEST_NAME]
        ordinal = self._counts.get(branch, 0)
        self._counts[branch] = ordinal + 1
        return None if ordinal < self._written.get(branch, 0) else (branch, ordinal)


def _clean(message: str | None) -> str | None:
    return None if message is None else clean_text(message)
