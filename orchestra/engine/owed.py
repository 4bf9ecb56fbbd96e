"""State hooks on a worker: owed in the transaction that ends a run or step, run right after it, then struck off.

By the process that ended it; where that dies in between, or has not the code, by one that takes the debt's message.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestra import clock, identifiers, lazy, states
from orchestra.context import FlowRunContext, TaskRunContext
from orchestra.engine import definitions, interrupts, unknown
from orchestra.engine.heartbeat import Heart
from orchestra.engine.hooks import EVERYTHING, FlowRunHooks, RunHooks, TaskRunHooks
from orchestra.engine.inputs import decoded_parameters, kept_tags, resolved_inputs
from orchestra.engine.parameters import bind
from orchestra.engine.run_names import task_run_name
from orchestra.engine.values import state_of
from orchestra.errors import ClaimLost, DefinitionNotFound, Fenced, OrchestraError, StoreError, Terminated
from orchestra.failpoints import failpoint
from orchestra.hooks import hooks_of
from orchestra.logging import engine_logger
from orchestra.runners.carrier import Carrier
from orchestra.serializers import clean_text
from orchestra.specs import FlowSpec, TaskSpec
from orchestra.states import State, StateDetails
from orchestra.store import claims, owed
from orchestra.store.claims import Claim
from orchestra.store.database import Database
from orchestra.store.journal import Ending
from orchestra.store.owed import ClaimedHooks, Debt
from orchestra.store.tables import Kind

logger = logging.getLogger("orchestra.engine")


# -- owing -------------------------------------------------------------------------------------------------------


def flow_debt(flow: FlowSpec, claim: Claim, row: Mapping[str, Any], ending: Ending) -> Debt | None:
    """The hooks that the end of a claimed run calls for; None: there are none.

    Where the flow's code is not here, nobody knows, unless whoever submitted the run did; a worker that has it will.
    """
    if unknown.is_unknown(flow):
        owner = None
        if row["has_hooks"] is False:
            return None
    elif hooks_of(flow, ending.state_type):
        owner = identifiers.owner()
    else:
        return None
    return _debt(claim, "", row["flow_name"], row["queue"], row["priority"], ending, owner)


def task_debt(
    task: TaskSpec, claim: Claim, key: str, name: str, queue: str | None, priority: int | None, ending: Ending
) -> Debt | None:
    """The hooks that the end of a step calls for; None: there are none.

    Args:
        claim: On the step, or on the flow run in whose segment it was run.
        key: The step's.
        name: The step's.
        queue: Where workers have its code.
        priority: Of its messages.
    """
    if not hooks_of(task, ending.state_type):
        return None
    return _debt(claim, key, name, queue, priority, ending, identifiers.owner())


def _debt(
    claim: Claim, key: str, name: str, queue: str | None, priority: int | None, ending: Ending, owner: str | None
) -> Debt:
    return Debt(
        claim.run_id,
        claim.run_attempt,
        key,
        name,
        queue,
        priority,
        str(ending.state_type),
        ending.state_name,
        ending.message,
        owner,
    )


# -- paying ------------------------------------------------------------------------------------------------------


def pay(database: Database, heart: Heart, claim: Claim, due: RunHooks) -> None:
    """Run the hooks of an end that this process has just recorded; changes nothing of that, whatever happens.

    What would interrupt the body around is raised when they have run.
    """
    with interrupts.shielded(), _Guard(claim), heart.hold(claim):
        _run_each(database, claim, due, 0)


def run_hooks(database: Database, run_id: str, run_attempt: int, step_key: str, carrier: Carrier, heart: Heart) -> None:
    """Claim owed hooks, if nobody runs them, and run them."""
    claimed = owed.claim(database, run_id, run_attempt, step_key)
    if claimed is None:
        return
    with _Guard(claimed.claim), heart.hold(claimed.claim):
        if claimed.over_budget:
            _give_up(database, claimed)
            return
        if step_key and (claimed.step is None or claimed.step["kind"] == Kind.TRANSACTION):
            _roll_back_again(database, claimed)
            return
        try:
            due = _loaded(database, claimed)
        except DefinitionNotFound as error:
            _wait_for_code(database, claimed, error)
            return
        _run_each(database, claimed.claim, due, claimed.row["position"])


def _roll_back_again(database: Database, claimed: ClaimedHooks) -> None:
    """Run the rollback hooks that a person asked to be run again."""
    rollbacks = lazy.load("rollbacks")
    try:
        rollbacks.pay(database, claimed)
    except DefinitionNotFound as error:
        _wait_for_code(database, claimed, error)
    except rollbacks.HookLater as later:
        owed.wait_for_code(database, claimed.claim, later.delay, "a rollback hook is tried again later")
    else:
        owed.strike(database, claimed.claim)


class _Guard:
    """What stops hooks from being run to their end concerns only them: whoever claims them next goes on."""

    def __init__(self, claim: Claim) -> None:
        self.name = claims.name_of(claim)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> bool:
        if isinstance(error, StoreError):
            logger.warning("the database being away, %s are run again by another process: %s", self.name, error)
            return True
        if isinstance(error, Fenced | ClaimLost) and not isinstance(error, Terminated):
            logger.warning("%s are run by another process: %s", self.name, error)
            return True
        return False


def _run_each(database: Database, claim: Claim, due: RunHooks, position: int) -> None:
    """Run the hooks from that one on, and strike them off. A process that dies in one leaves it to be run again."""
    hooks = due.hooks
    for number, hook in enumerate(hooks[position:], position + 1):
        claims.ensure(database, claim)
        failpoint("before_hook")
        due.call(hook)
        failpoint("after_hook")
        if number < len(hooks):
            owed.advance(database, claim, number)
    owed.strike(database, claim)
    failpoint("after_hooks")


def _give_up(database: Database, claimed: ClaimedHooks) -> None:
    """Strike off hooks that end their process each time; the run's log tells."""
    context = flow_context(unknown.unknown_flow(claimed.run["path"], claimed.run["flow_name"]), claimed.run)
    engine_logger(context).error(
        "%s were given up: their process died or hung %d times in a row while it ran hook %d of them",
        claims.name_of(claimed.claim), claimed.row["lapses"], claimed.row["position"] + 1,
    )  # fmt: skip
    owed.strike(database, claimed.claim)


def _wait_for_code(database: Database, claimed: ClaimedHooks, error: DefinitionNotFound) -> None:
    message = f"{claims.name_of(claimed.claim)} wait for a worker that knows it: {error}"
    if claimed.row["waits_for"] is None:
        context = flow_context(unknown.unknown_flow(claimed.run["path"], claimed.run["flow_name"]), claimed.run)
        engine_logger(context).warning("%s", message)
    owed.wait_for_code(database, claimed.claim, unknown.UNKNOWN_WAIT, clean_text(message))


# -- what hooks are told -----------------------------------------------------------------------------------------


def flow_hooks(flow: FlowSpec, row: Mapping[str, Any], state: State[Any], run_attempt: int) -> FlowRunHooks:
    """The hooks of a flow run that has come into a state, given its row."""
    context = replace(flow_context(flow, row), run_attempt=run_attempt)
    details = StateDetails(context.run_id)
    end_time = (row["end_time"] or clock.now()) if state.is_final() else None
    return FlowRunHooks(context, replace(state, state_details=details), end_time=end_time, contain=EVERYTHING)


def flow_context(flow: FlowSpec, row: Mapping[str, Any]) -> FlowRunContext:
    """A flow run as its hooks may ask for it, given its row."""
    return FlowRunContext(
        flow=flow,
        run_id=row["id"],
        run_name=row["name"],
        parameters=decoded_parameters(flow, row["parameters"]),
        runner=None,  # type: ignore[arg-type]  # hooks have one of their own
        tags=tuple(json.loads(row["tags"])),
        run_attempt=row["run_attempt"],
        parent_run_id=row["parent_run_id"],
        root_run_id=row["root_run_id"],
        scheduled_start_time=row["scheduled_at"],
        start_time=row["start_time"],
        log_prints=bool(flow.log_prints),
        depth=row["depth"],
    )


def task_hooks(context: TaskRunContext, state: State[Any], start_time: float | None) -> TaskRunHooks:
    """The hooks of a task run that has ended just now."""
    return TaskRunHooks(context, state, start_time=start_time, end_time=clock.now(), contain=EVERYTHING)


def _loaded(database: Database, claimed: ClaimedHooks) -> RunHooks:
    """Owed hooks, with all that they are told, from the database.

    Raises:
        DefinitionNotFound: Their code is not on this worker.
    """
    run = claimed.run
    if claimed.step is None:
        flow = definitions.load_flow(run["path"], run["entrypoint"], run["options"])
        return flow_hooks(flow, run, _state(database, claimed), claimed.claim.run_attempt)
    task = definitions.load_task(claimed.step["path"], claimed.step["options"])
    context = _task_context(database, task, run, claimed.step)
    step = claimed.step
    times = {"start_time": step["start_time"], "end_time": step["end_time"]}
    return TaskRunHooks(context, _state(database, claimed), contain=EVERYTHING, **times)


def _state(database: Database, claimed: ClaimedHooks) -> State[Any]:
    row = claimed.row
    details = StateDetails(claimed.claim.run_id, claimed.step["id"] if claimed.step else None)
    told = row["state_type"], row["state_name"], row["state_message"]
    try:
        return state_of(*told, owed.result_of(database, claimed), details)
    except StoreError:
        raise
    except OrchestraError as error:
        logger.warning("%s are not told its result: %s", claims.name_of(claimed.claim), error)
        return State(states.StateType(told[0]), *told[1:], state_details=details)


def _task_context(
    database: Database, task: TaskSpec, run: Mapping[str, Any], step: Mapping[str, Any]
) -> TaskRunContext:
    try:
        flow = definitions.load_flow(run["path"], run["entrypoint"], run["options"])
    except DefinitionNotFound:
        # A worker may know a task and not the flow that called it.
        flow = unknown.unknown_flow(run["path"], run["flow_name"])
    flow_run = flow_context(flow, run)
    parameters = _task_parameters(database, task, step)
    return TaskRunContext(
        task=task,
        task_run_id=step["id"],
        task_run_name=task_run_name(task, parameters, step["name"]),
        flow_run=flow_run,
        step_key=step["step_key"],
        attempt=step["attempt"],
        idempotency_key=identifiers.idempotency_key(run["id"], step["step_key"]),
        parameters=parameters,
        log_prints=flow_run.log_prints if task.log_prints is None else task.log_prints,
        tags=kept_tags(task, step["tags"]),
    )


def _task_parameters(database: Database, task: TaskSpec, step: Mapping[str, Any]) -> dict[str, Any]:
    if step["inputs"] is None:
        return {}
    try:
        args, kwargs = resolved_inputs(database, step["run_id"], step["run_attempt"], step["inputs"])
        return bind(task.fn, args, kwargs)
    except StoreError:
        raise
    except Exception as error:
        logger.warning("the hooks of step %r are not told its arguments: %s", step["step_key"], error)
        return {}
