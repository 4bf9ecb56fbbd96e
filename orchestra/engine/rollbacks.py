"""Transactions of flow runs on workers once no body runs: at the end of a run, again by hand, and after a death."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from orchestra import states
from orchestra.context import FlowRunContext
from orchestra.engine import definitions, leases, owed, unknown
from orchestra.engine.transacting import rollback_failed
from orchestra.engine.transaction_hooks import HookLater, carry_out, described
from orchestra.errors import CrashedRun, DefinitionNotFound
from orchestra.serializers import clean_text
from orchestra.states import State
from orchestra.store import claims, local_runs, runs, transactions
from orchestra.store.claims import Claim
from orchestra.store.database import Database
from orchestra.store.owed import ClaimedHooks
from orchestra.store.transactions import Failure
from orchestra.transaction_rules import Durable, HookKind

logger = logging.getLogger("orchestra.engine")


# -- at the end of a run -----------------------------------------------------------------------------------------


def open_keys(runner: Any) -> dict[str, str]:
    """The transactions that are open at the end of a run, or owe hooks."""
    claim: Claim = runner.claim
    found: dict[str, str] = runner._read(
        lambda: transactions.unsettled_keys(runner.database, claim.run_id, claim.run_attempt)
    )
    return found


def _carry_out_all(db: Database, claim: Claim, flow_run: FlowRunContext, keys: dict[str, str], **how: Any) -> None:
    """Run what is owed by transactions whose states these are, those that were open being rolled back."""
    committing = [key for key, state in keys.items() if state == Durable.COMMITTING]
    for kind, of_kind in ((HookKind.COMMIT, committing), (HookKind.ROLLBACK, [*keys.keys() - set(committing)])):
        if of_kind:
            carry_out(db, claim, flow_run, of_kind, kind, **how)


def close(runner: Any, keys: dict[str, str], state: State[Any]) -> State[Any] | None:
    """Roll back what is open at the end of a run, and end what was decided; gives how the run ends then.

    None where that goes on later: the claim is given back.

    Args:
        runner: The segment's.
        keys: As `open_keys` gave them.
        state: How the run would end.
    """
    claim: Claim = runner.claim
    if keys:
        left = [key for key, found in keys.items() if found == Durable.ACTIVE]
        if left:
            reason = clean_text(state.message or state.name)
            failure = Failure("", None, reason)
            runner.guard(lambda: transactions.roll_back(runner.database, claim, left, failure, window=runner.window))
        try:
            runner.guard(lambda: _carry_out_all(runner.database, claim, runner.context, keys))
        except HookLater as later:
            delay = later.delay
            runner.guard(lambda: claims.give_back(runner.database, claim, due_in=delay))
            return None
        except DefinitionNotFound as error:
            missing = error
            runner.guard(lambda: unknown.wait_for_code(runner.database, claim, missing))
            return None
    failed = runner._read(lambda: transactions.failed_hooks(runner.database, claim.run_id, claim.run_attempt))
    return rollback_failed([described(hook) for hook in failed], state) if failed else state


# -- by hand, and of the dead ------------------------------------------------------------------------------------


def pay(db: Database, claimed: ClaimedHooks) -> None:
    """Run the rollback hooks that are run again by hand, under the claim on what is owed.

    Raises:
        DefinitionNotFound: Their code is not here.
        HookLater: One is to be tried again later.
    """
    claim, run = claimed.claim, claimed.run
    flow = definitions.load_flow(run["path"], run["entrypoint"], run["options"])
    rows = transactions.load(db, claim.run_id, claim.run_attempt)
    keys = [row.key for row in rows if row.state == Durable.ROLLING_BACK]
    carry_out(db, claim, owed.flow_context(flow, run), keys, HookKind.ROLLBACK)
    if not transactions.failed_hooks(db, claim.run_id, claim.run_attempt):
        transactions.mend_run(db, claim.run_id, claim.run_attempt)


def recover(db: Database, run: local_runs.Dead) -> None:
    """Roll back what a dead process left open in a local run, and end the run: Crashed, or as a rollback that failed.

    A process that dies meanwhile leaves a claim that lapses: the next one goes on.
    """
    claim = local_runs.take_over(db, run)
    if claim is None:
        return
    logger.warning("flow run %s: its process died inside of a transaction, which is rolled back here", run.id)
    with leases.hold(claim.owner, lambda: None):
        row = runs.read(db, run.id)
        state = states.from_exception(CrashedRun("its process died"))
        keys = transactions.unsettled_keys(db, run.id, claim.run_attempt)
        if left := [key for key, found in keys.items() if found == Durable.ACTIVE]:
            failure = Failure("", None, "its process died")
            transactions.roll_back(db, claim, left, failure, window=lambda queue: 0)
        flow = unknown.unknown_flow(row["path"], row["flow_name"])
        context = owed.flow_context(replace(flow, entrypoint=row["entrypoint"]), row)
        _carry_out_all(db, claim, context, keys, longest_sleep=float("inf"), without_code=True)
        failed = transactions.failed_hooks(db, run.id, claim.run_attempt)
        if failed:
            state = rollback_failed([described(hook) for hook in failed], state)
        local_runs.finish_run(db, run.id, claim.owner, state, has_remote_steps=True)
