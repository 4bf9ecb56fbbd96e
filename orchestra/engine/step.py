"""One task message: claim the step, resolve its arguments from the journal, run it, and write what follows."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from orchestra import clock, graph, identifiers, lazy, serializers, states
from orchestra.context import FlowRunContext, TaskRunContext, flow_run_context, tags_context
from orchestra.engine import caching, definitions, history, interrupts, owed, unknown, versions
from orchestra.engine.heartbeat import Heart
from orchestra.engine.hooks import TaskRunHooks
from orchestra.engine.inputs import kept_tags, resolved_inputs
from orchestra.engine.parameters import bind
from orchestra.engine.run_names import task_run_name
from orchestra.engine.slots import TAGS, limits_of, step_claim
from orchestra.engine.task_run import IN_PLACE, Ended, RetryLater, run_attempts
from orchestra.engine.values import ending_of
from orchestra.errors import (
    Cancelled,
    CancelledRun,
    ClaimLost,
    CrashedRun,
    DefinitionNotFound,
    Fenced,
    OtherVersion,
    ResultStorageUnavailable,
    StoreError,
)
from orchestra.failpoints import failpoint
from orchestra.results import Keeping, keeping_of
from orchestra.runners.carrier import Carrier
from orchestra.serializers import clean_text
from orchestra.specs import FlowSpec, TaskSpec
from orchestra.states import State, StateDetails
from orchestra.store import claims, in_flight, settle, slots
from orchestra.store.claims import Claim, Claimed
from orchestra.store.database import Database
from orchestra.store.joint import Joint
from orchestra.store.journal import Effect, Ending
from orchestra.store.owed import Debt
from orchestra.store.prepared import prepare
from orchestra.store.slots import Holder
from orchestra.store.tables import flow_runs

logger = logging.getLogger("orchestra.engine")


def run_step(database: Database, run_id: str, run_attempt: int, step_key: str, carrier: Carrier, heart: Heart) -> None:
    """Claim a step, if it is due, and run it to its end, or to a retry that is due later.

    Raises:
        StoreError: The database is away; the claim lapses, and the step is run again.
    """
    claimed = claims.claim_step(database, run_id, run_attempt, step_key)
    if claimed is None:
        return
    heart.mark(claimed.row["queue"], claimed.row["announced_at"])
    step = _Step(database, claimed, carrier)
    try:
        with heart.hold(claimed.claim):
            step.run()
    except ResultStorageUnavailable as error:
        unknown.wait_for_storage(database, step.claim, error)
        return
    except (Fenced, ClaimLost) as lost:
        logger.warning("step %s of flow run %s goes on elsewhere: %s", step_key, run_id, lost)
        return
    step.give_slots()
    if step.hooks is not None:
        owed.pay(database, heart, *step.hooks)


class _Step:
    def __init__(self, database: Database, claimed: Claimed, carrier: Carrier) -> None:
        self.database = database
        self.claimed = claimed
        self.claim = claimed.claim
        self.row = claimed.row
        self.carrier = carrier
        self.context: TaskRunContext | None = None
        #: Those that its end calls for, once that is recorded, and the claim on them.
        self.hooks: tuple[Claim, TaskRunHooks] | None = None
        #: Has slots of the limits that are for its tags.
        self.holder: Holder | None = None
        self.tries = history.Tries(self.claim.run_id, self.row["id"], is_told=claimed.is_told, at=claimed.at)

    def run(self) -> None:
        if self.claim.cancelled:
            self._end(_cancelled(), self.row["attempt"])
            return
        if self.claimed.over_budget:
            # Before its code is loaded: it may be that which kills the process.
            self._end(_crashed(self.row["lapses"]), self.row["attempt"])
            return
        try:
            if (version := self.row["version"]) is not None:
                versions.check(_flow_of(_run_row(self.database, self.claim.run_id)), version)
            task = definitions.load_task(self.row["path"], self.row["options"])
        except OtherVersion as error:
            versions.leave(self.database, self.claimed, self.carrier, error)
            return
        except DefinitionNotFound as error:
            unknown.wait_for_code(self.database, self.claim, error)
            return
        try:
            outcome = self._attempts(task)
        except Cancelled:
            outcome = Ended(_cancelled(), self.row["attempt"])
        if self.context is not None and self.context.recorded is not None:
            return
        if isinstance(outcome, RetryLater):
            self._retry_later(outcome)
        elif isinstance(outcome, caching.Hit):
            attempt = self.row["attempt"]
            self._write_end(outcome.ending(attempt=attempt), outcome.state, attempt, task)
        elif outcome is not None:
            self._end(outcome.state, outcome.attempt, task)

    def _attempts(self, task: TaskSpec) -> Ended | RetryLater | caching.Hit | None:
        """Run the body; None where it was set back, as it must wait for a slot of a limit, or for another's result."""
        try:
            args, kwargs = resolved_inputs(self.database, self.claim.run_id, self.claim.run_attempt, self.row["inputs"])
        except StoreError:
            raise
        except Exception as error:
            return Ended(states.from_exception(error), self.row["attempt"])
        context = self.context = self._context(task, args, kwargs)
        context.record = lambda state, joint: self._end(state, context.attempt, task, joint)
        claim_token = step_claim.set(self.claim)
        token = flow_run_context.set(context.flow_run)
        tags_token = tags_context.set(frozenset(context.flow_run.tags if context.flow_run else ()))
        try:
            with interrupts.armed():
                met = self._meet_cache(context)
                if isinstance(met, caching.Hit):
                    return met
                if met is not None or not self._has_slots(context.tags):
                    return None
                with caching.computing(context):
                    return run_attempts(
                        task,
                        args,
                        kwargs,
                        context,
                        longest_sleep=IN_PLACE,
                        before_attempt=self._before_body,
                        on_retry=self.tries.retry,
                    )
        finally:
            tags_context.reset(tags_token)
            flow_run_context.reset(token)
            step_claim.reset(claim_token)

    def _has_slots(self, tags: tuple[str, ...]) -> bool:
        """Take the slots that it needs for its tags; where none are free, it gives up its claim and waits in line."""
        names = limits_of(tags)
        if not names:
            return True
        holder = slots.of_claim(self.claim, TAGS)
        with interrupts.shielded():
            asked = slots.acquire_or_set_back(self.database, self.claim, holder, names)
        if asked.granted:
            self.holder = holder
        self.carrier.announce(asked.announcements)
        return asked.granted

    def give_slots(self) -> None:
        """Hand on the slots of its tags, which its end has freed. A crash before costs a sweep."""
        if self.holder is not None:
            self.carrier.announce(slots.release(self.database, self.holder))

    def _meet_cache(self, context: TaskRunContext) -> caching.Hit | caching.SetBack | None:
        if not context.task.may_be_cached:
            return None
        with interrupts.shielded():
            met = caching.meet_step(self.database, self.claim, context)
        if isinstance(met, caching.SetBack):
            self.carrier.announce(met.announcements)
        return met

    def _before_body(self) -> None:
        with interrupts.shielded():
            claims.ensure(self.database, self.claim)
        if self.claim.cancelled:
            raise Cancelled
        self.tries.begin()
        failpoint("in_body")

    def _context(self, task: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskRunContext:
        flow_run = self._flow_run()
        try:
            parameters = bind(task.fn, args, kwargs)
        except TypeError:
            # The body's call will raise it, as the task's own failure.
            parameters = dict(kwargs)
        log_prints = flow_run.log_prints if task.log_prints is None else task.log_prints
        return TaskRunContext(
            task=task,
            task_run_id=self.row["id"],
            task_run_name=task_run_name(task, parameters, self.row["name"]),
            flow_run=flow_run,
            step_key=self.claim.step_key,
            attempt=self.row["attempt"],
            idempotency_key=identifiers.idempotency_key(
                self.claim.run_id, self.row["step_key"], 1 if self._called_in is None else self.claim.run_attempt
            ),
            parameters=parameters,
            log_prints=log_prints,
            tags=kept_tags(task, self.row["tags"]),
            called_in=self._called_in,
        )

    @property
    def _called_in(self) -> tuple[int, str] | None:
        """The transaction in whose block it was submitted."""
        key = self.row["transaction_key"]
        return None if key is None else (self.claim.run_attempt, key)

    def _effects(self, task: TaskSpec | None, ending: Ending) -> tuple[Effect, ...]:
        """What is written together with its end: the hooks that it has in a transaction."""
        key = self.row["transaction_key"]
        if task is None or key is None or not task.has_transaction_hooks or ending.state_type != "COMPLETED":
            return ()
        own = None if self.context is None else self.context.transaction
        made: tuple[Effect, ...] = lazy.load("transacting").step_effects(
            self.claim, task, key, own, self.row["sequence"]
        )
        return made

    def _flow_run(self) -> FlowRunContext:
        """The run this step belongs to, as its body may ask for it."""
        row = _run_row(self.database, self.claim.run_id)
        flow = _flow_of(row)
        return FlowRunContext(
            flow=flow,
            run_id=self.claim.run_id,
            run_name=row.name,
            parameters=serializers.decode(row.parameters) if row.parameters else {},
            runner=None,  # type: ignore[arg-type]  # a task's calls run plainly, in its process
            tags=tuple(json.loads(row.tags)),
            run_attempt=self.claim.run_attempt,
            parent_run_id=row.parent_run_id,
            root_run_id=row.root_run_id,
            start_time=row.start_time,
            log_prints=bool(flow.log_prints),
            depth=row.depth,
            deployment_id=row.deployment_id,
        )

    def _end(
        self, state: State[Any], attempt: int = 1, task: TaskSpec | None = None, joint: Joint | None = None
    ) -> State[Any]:
        """Record the end, in the transaction of the body, if one is given: then only where the result can be kept."""
        failpoint("after_body")
        if task is not None and task.on_commit and state.is_completed() and self._called_in is None and self.context:
            state = lazy.load("transacting").commit_alone(self.context, state)
        what = f"the result of {self.row['name']!r}"
        ending, final = ending_of(state, what=what, attempt=attempt, keeping=self._keeping(task))
        if joint is not None and not final.is_completed():
            return final
        self._write_end(ending, final, attempt, task, joint, self._effects(task, ending))
        return final

    def _write_end(
        self,
        ending: Ending,
        final: State[Any],
        attempt: int,
        task: TaskSpec | None,
        joint: Joint | None = None,
        effects: Sequence[Effect] = (),
    ) -> None:
        cached: caching.Cached | None = None if self.context is None else self.context.cached
        # Counted here at the latest: within the transaction it is only looked up.
        self._window(self.row["queue"] or "")
        debt = None if task is None else self._debt(task, ending)
        asked_at = clock.monotonic()
        bounded = in_flight.is_bounded(self.row["wave"])
        announcements = settle.complete(
            self.database,
            self.claim,
            ending,
            window=self._window,
            debt=debt,
            bounded=bounded,
            cached=None if cached is None else cached.keeping(ending),
            effects=effects,
            joint=joint,
        )
        if task is not None and debt is not None:
            self.hooks = debt.claim(asked_at), self._hooks(task, final, attempt)
        if cached is not None:
            announcements = announcements + cached.let_go(self.database)
        failpoint("before_announce")
        self.carrier.announce(announcements)
        failpoint("after_announce")

    def _keeping(self, task: TaskSpec | None) -> Keeping | None:
        flow_run = None if self.context is None else self.context.flow_run
        return None if task is None or flow_run is None else keeping_of(self.database, task, flow_run.flow)

    def _debt(self, task: TaskSpec, ending: Ending) -> Debt | None:
        row = self.row
        return owed.task_debt(task, self.claim, row["step_key"], row["name"], row["queue"], row["priority"], ending)

    def _hooks(self, task: TaskSpec, final: State[Any], attempt: int) -> TaskRunHooks:
        context = replace(self.context or self._context(task, (), {}), attempt=attempt)
        details = StateDetails(self.claim.run_id, self.row["id"])
        return owed.task_hooks(context, replace(final, state_details=details), self.row["start_time"])

    def _window(self, queue: str) -> int:
        return graph.window(self.carrier.slots(queue))

    def _retry_later(self, outcome: RetryLater) -> None:
        message = outcome.state.message
        if self.context is not None and self.context.cached is not None:
            self.carrier.announce(self.context.cached.release(self.database))
        announcements = settle.retry_later(
            self.database,
            self.claim,
            delay=outcome.delay,
            attempt=outcome.attempt + 1,
            message=None if message is None else clean_text(message),
        )
        self.carrier.announce(announcements)


_FLOW_RUN = prepare(
    sa.select(
        flow_runs.c.name,
        flow_runs.c.flow_name,
        flow_runs.c.path,
        flow_runs.c.deployment_id,
        flow_runs.c.options,
        flow_runs.c.entrypoint,
        flow_runs.c.runner,
        flow_runs.c.parent_run_id,
        flow_runs.c.root_run_id,
        flow_runs.c.start_time,
        flow_runs.c.depth,
        flow_runs.c.parameters,
        flow_runs.c.tags,
    ).where(flow_runs.c.id == sa.bindparam("b_run"))
)


#: Rows of runs of which steps ran here last; what is read of them stays as it is once the run has started.
_known_runs: OrderedDict[str, Any] = OrderedDict()
#: So many, as each may hold parameters of up to 512 KiB.
_KNOWN = 32


def _run_row(database: Database, run_id: str) -> Any:
    row = _known_runs.get(run_id)
    if row is None:
        row = database.read(lambda connection: _FLOW_RUN.first(connection, {"b_run": run_id}))
        if row.start_time is not None:
            _known_runs[run_id] = row
        while len(_known_runs) > _KNOWN:
            _known_runs.popitem(last=False)
    return row


def _flow_of(row: Any) -> FlowSpec:
    if row.path.startswith("__main__:") and row.runner == "local":
        # The script is another process's to run: loading it here would run it, where it has no `__main__` part.
        return unknown.unknown_flow(row.path, row.flow_name)
    try:
        return definitions.load_flow(row.path, row.entrypoint, row.options)
    except DefinitionNotFound:
        # A worker may know a task and not the flow that called it.
        return unknown.unknown_flow(row.path, row.flow_name)


def _cancelled() -> State[Any]:
    return states.from_exception(CancelledRun("the task run was cancelled"))


def _crashed(lapses: int) -> State[Any]:
    message = f"its worker died or hung {lapses} times in a row while running it"
    return states.from_exception(CrashedRun(message))
