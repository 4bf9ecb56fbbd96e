"""Hooks of transactions of flow runs on workers, each called to one recorded end, by whoever has the claim."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from orchestra import serializers, settings, states
from orchestra.context import FlowRunContext
from orchestra.engine import definitions, interrupts
from orchestra.engine.hooks import EVERYTHING
from orchestra.engine.task_run import IN_PLACE, Ended, RetryLater
from orchestra.engine.transacting import HookCall, call_hook, spec_of
from orchestra.engine.values import decode_inputs
from orchestra.errors import DefinitionNotFound, OrchestraError, StoreError
from orchestra.failpoints import failpoint
from orchestra.serializers import clean_text
from orchestra.specs import TaskSpec
from orchestra.store import claims, database, transactions
from orchestra.store.claims import Claim
from orchestra.store.database import Database
from orchestra.store.transactions import HookRow, TransactionRow
from orchestra.transaction_rules import UNSETTLED, Durable, HookKind, HookState, TransactionState
from orchestra.transactions import Transaction


class HookLater(Exception):
    """A hook failed, and is to be tried again after `delay` seconds."""

    def __init__(self, delay: float) -> None:
        super().__init__(delay)
        self.delay = delay


def carry_out(
    db: Database,
    claim: Claim,
    flow_run: FlowRunContext,
    keys: Collection[str],
    kind: HookKind,
    *,
    longest_sleep: float = IN_PLACE,
    without_code: bool = False,
) -> list[HookRow]:
    """Run the hooks of transactions that have not ended, each to its recorded end; gives those that failed.

    Args:
        claim: Under which the ends are recorded: on the flow run, or on owed hooks.
        flow_run: The run.
        keys: Of the transactions.
        kind: Which hooks.
        longest_sleep: Retry delays below this many seconds are slept through.
        without_code: A hook that cannot be found here fails, rather than that it waits for a worker that has it.

    Raises:
        HookLater: One failed, and is to be tried again later; those before it have ended.
        DefinitionNotFound: The code of one is not here.
        ClaimLost: Another claim was made.
    """
    pending = transactions.pending_hooks(db, claim.run_id, claim.run_attempt, keys, kind)
    if pending:
        rows = transactions.load(db, claim.run_id, claim.run_attempt)
        work = _Work(db, claim, flow_run, rows, longest_sleep, without_code)
        with interrupts.shielded():
            for hook in pending:
                work.carry_out(hook)
    elif not any(row.state in UNSETTLED for row in transactions.load(db, claim.run_id, claim.run_attempt, keys)):
        return transactions.failed_hooks(db, claim.run_id, claim.run_attempt, kind, keys)
    return [hook for hook in transactions.settle(db, claim, keys) if hook.kind == kind]


@dataclass(frozen=True, slots=True)
class _Work:
    """Under which claim, and for which run, hooks are carried out."""

    db: Database
    claim: Claim
    flow_run: FlowRunContext
    rows: Sequence[TransactionRow]
    longest_sleep: float
    without_code: bool

    def carry_out(self, hook: HookRow) -> None:
        """Run one hook to its recorded end.

        A process that dies in it leaves its start: another one runs it again, as often as the crash budget allows.
        """
        claims.ensure(self.db, self.claim)
        if hook.due_at is not None and (left := hook.due_at - self.db.now()) > 0:
            raise HookLater(left)
        if hook.starts >= settings.current().crash_budget:
            self._fail(hook, f"its process died or hung {hook.starts} times while it ran")
            return
        call = self._call_of(hook)
        if call is None:
            return
        transactions.start_hook(self.db, self.claim, hook)
        failpoint("in_transaction_hook")
        self._record(hook, self._outcome_of(hook, call))

    def _call_of(self, hook: HookRow) -> HookCall | None:
        """What is to be called; None where it cannot be, and the hook has failed of that."""
        try:
            return _loaded(self.flow_run, self.rows, hook)
        except StoreError:
            raise
        except DefinitionNotFound as error:
            if not self.without_code:
                raise
            self._fail(hook, str(error))
        except OrchestraError as error:
            self._fail(hook, states.describe(error))
        return None

    def _outcome_of(self, hook: HookRow, call: HookCall) -> Ended | RetryLater:
        return call_hook(
            call,
            self.flow_run,
            hook.key,
            run_attempt=hook.run_attempt,
            attempt=hook.attempt,
            longest_sleep=self.longest_sleep,
            contain=EVERYTHING,
        )

    def _record(self, hook: HookRow, outcome: Ended | RetryLater) -> None:
        said = None if outcome.state.message is None else clean_text(outcome.state.message)
        if isinstance(outcome, RetryLater):
            attempt, delay = outcome.attempt + 1, outcome.delay
            transactions.postpone_hook(self.db, self.claim, hook, attempt=attempt, delay=delay, message=said)
            raise HookLater(delay)
        state = HookState.COMPLETED if outcome.state.is_completed() else HookState.FAILED
        transactions.end_hook(self.db, self.claim, hook, state, said)

    def _fail(self, hook: HookRow, why: str) -> None:
        transactions.end_hook(self.db, self.claim, hook, HookState.FAILED, clean_text(why))


def _loaded(flow_run: FlowRunContext, rows: Sequence[TransactionRow], hook: HookRow) -> HookCall:
    """A hook, from what the database has of it.

    Raises:
        DefinitionNotFound: Its code is not here.
        SerializationError: What it is called with cannot be read here.
    """
    if hook.step_key is not None:
        own = Transaction(parent=_restored(rows, hook.transaction_key))
        own.stored = {} if hook.stored is None else serializers.decode(hook.stored)
        own.state = own.parent.state if own.parent is not None else own.state
        fn = _hook_of(_task_at(flow_run, hook), hook)
        return HookCall(hook.name, spec_of(fn), (*getattr(fn, "_bound", ()), own))
    fn = _function_of(flow_run, hook)
    if hook.arguments is None:
        return HookCall(hook.name, spec_of(fn), (_restored(rows, hook.transaction_key),))
    args, kwargs = decode_inputs(hook.arguments)
    return HookCall(hook.name, spec_of(fn), args, kwargs)


def _task_at(flow_run: FlowRunContext, hook: HookRow) -> TaskSpec:
    return definitions.load_task(definitions.importable(hook.path or "", flow_run.flow.entrypoint), hook.options)


def _hook_of(task: TaskSpec, hook: HookRow) -> Any:
    """The hook of a task that was registered: at its place, else by its name, where the code was changed since.

    Raises:
        DefinitionNotFound: The task has no such hook.
    """
    found = task.on_rollback if hook.kind == HookKind.ROLLBACK else task.on_commit
    named = {clean_text(getattr(each, "__name__", "")): each for each in found}
    if hook.number < len(found) and getattr(found[hook.number], "__name__", hook.name) == hook.name:
        return found[hook.number]
    if hook.name in named:
        return named[hook.name]
    if hook.number < len(found):
        return found[hook.number]
    raise DefinitionNotFound(hook.path or "", f"the task has no on_{hook.kind} hook {hook.name!r} any more")


def _function_of(flow_run: FlowRunContext, hook: HookRow) -> Any:
    if hook.function is not None:
        return serializers.decode(hook.function)
    if hook.path is None:
        raise DefinitionNotFound(hook.name, "it lived in the process that registered it")
    if hook.options is not None:
        return _Given(_task_at(flow_run, hook))
    return definitions.function_at(definitions.importable(hook.path, flow_run.flow.entrypoint))


class _Given:
    """A task, by its spec alone."""

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec


def restored(run_id: str, run_attempt: int, key: str) -> Transaction | None:
    """A transaction of a run as it stands in the database, and those around it: to be asked for what was set."""
    return _restored(transactions.load(database.database(), run_id, run_attempt), key)


def _restored(rows: Sequence[TransactionRow], key: str | None) -> Transaction | None:
    row = next((row for row in rows if row.key == key), None)
    if row is None:
        return None
    made = Transaction(row.name, parent=_restored(rows, row.parent_key))
    made.row_key = row.key
    made.stored = {} if row.stored is None else serializers.decode(row.stored)
    made.state = _SHOWN.get(row.state, TransactionState.ACTIVE)
    return made


_SHOWN = {
    Durable.COMMITTING.value: TransactionState.COMMITTED,
    Durable.COMMITTED.value: TransactionState.COMMITTED,
    Durable.ROLLING_BACK.value: TransactionState.ROLLED_BACK,
    Durable.ROLLED_BACK.value: TransactionState.ROLLED_BACK,
    Durable.ROLLBACK_FAILED.value: TransactionState.ROLLED_BACK,
}


def described(hook: HookRow) -> str:
    """A hook that failed, as errors name it."""
    return f"{hook.name!r}: {hook.message}"
