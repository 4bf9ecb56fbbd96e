"""Transactions of flow runs on workers: in the journal, so that any process goes on with them.

What a block did, and the hooks that undo it, are rows. A block that fails notes that, and why, before the first hook is
called; each hook is called to one recorded end. Whoever carries the run calls them: the body's segment where the block
is left, else the segment that ends the run (cancelled, crashed, over its time), without the body.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from orchestra import serializers, settings, states
from orchestra.context import FlowRunContext, TaskRunContext
from orchestra.engine import definitions, interrupts, leases, owed, unknown
from orchestra.engine.hooks import EVERYTHING
from orchestra.engine.task_run import IN_PLACE, RetryLater
from orchestra.engine.transacting import (
    HookCall,
    call_hook,
    check_key,
    encoded_hook,
    encoded_stage,
    hooks_of_step,
    is_committed_before,
    mark_standing,
    refuse_futures,
    rollback_failed,
    shown_key,
    spec_of,
    submitted_in,
)
from orchestra.engine.values import decode_inputs, ending_of
from orchestra.errors import (
    CommitHookFailed,
    CrashedRun,
    DefinitionNotFound,
    OrchestraError,
    Parked,
    RollbackFailed,
    StoreError,
)
from orchestra.failpoints import failpoint
from orchestra.journal import Asked
from orchestra.logging import engine_logger
from orchestra.serializers import clean_text
from orchestra.specs import TaskSpec
from orchestra.states import State, StateType
from orchestra.store import claims, database, local_runs, runs, transactions
from orchestra.store.claims import Claim
from orchestra.store.database import Database
from orchestra.store.journal import Effect, NewStep, StepRecord
from orchestra.store.owed import ClaimedHooks
from orchestra.store.tables import Kind
from orchestra.store.transactions import Failure, HookRow, NewTransaction, TransactionRow
from orchestra.transaction_rules import STANDING, UNSETTLED, Durable, HookKind, HookState, TransactionState
from orchestra.transactions import Transaction

logger = logging.getLogger("orchestra.engine")


class HookLater(Exception):
    """A hook failed, and is to be tried again after `delay` seconds."""

    def __init__(self, delay: float) -> None:
        super().__init__(delay)
        self.delay = delay


class DurableKeeper:
    """Keeps the transactions of one segment of a flow run."""

    def __init__(self, runner: Any, records: Collection[StepRecord]) -> None:
        """Read what the journal has of them.

        Args:
            runner: The segment's `DurableRunner`.
            records: The steps of its run attempt.
        """
        self._runner = runner
        self._rows: dict[str, TransactionRow] = {}
        self._failed_commits: set[str] = set()
        if any(record.kind == Kind.TRANSACTION for record in records):
            claim: Claim = runner.claim
            rows = runner._read(lambda: transactions.load(runner.database, claim.run_id, claim.run_attempt))
            self._rows = {row.key: row for row in rows}
            failed = runner._read(
                lambda: transactions.failed_hooks(runner.database, claim.run_id, claim.run_attempt, HookKind.COMMIT)
            )
            self._failed_commits = {hook.transaction_key for hook in failed}
        #: Blocks that failed when they were run before, by key.
        self._failed = {key: row for key, row in self._rows.items() if row.error is not None}

    # -- the block -----------------------------------------------------------------------------------------------

    @property
    def is_stopped(self) -> bool:
        """Whether nothing that the body still does counts."""
        stopped: bool = self._runner.is_stopped
        return stopped

    def open(self, txn: Transaction) -> None:
        """Ask for the step that a block is."""
        runner = self._runner
        check_key(txn)
        runner.check("transaction")
        runner._check_deadline()
        asked: Asked = runner._line().ask("txn")
        txn.row_key = asked.key
        if runner._answer(asked, None) is None:
            # One from which the run is retried is done anew, whatever is kept under its key.
            is_new = runner.is_retried_from(asked.key)
            was_committed = not is_new and runner._read(lambda: is_committed_before(txn))
            step = self._step(asked, Kind.TRANSACTION, was_committed)
            if not was_committed:
                parent = None if txn.parent is None else txn.parent.row_key
                new = NewTransaction(asked.key, parent, shown_key(txn))
                step.effects = (transactions.opening(*self._place, new),)
            runner._unwritten.append(step)
        if runner._state(asked.key).result():
            txn.state = TransactionState.COMMITTED

    def keep_stored(self, txn: Transaction) -> None:
        """Keep what was set with the next write: before any step that is asked for later."""
        runner = self._runner
        runner.check("Transaction.set")
        data = serializers.encode(txn.stored, what="what was set in a transaction")
        asked = self._ask(txn, "set")
        if runner._answer(asked, None) is None:
            step = self._step(asked, Kind.TRANSACTION, None)
            step.effects = (transactions.storing(*self._place, txn.row_key or "", data),)
            runner._unwritten.append(step)

    def register(
        self, txn: Transaction, kind: HookKind, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, told: bool
    ) -> None:
        """Register a hook of the block: it is in the journal when this returns."""
        runner = self._runner
        runner.check(f"Transaction.on_{kind.value}")
        key = txn.row_key or ""
        # What may be refused is refused before the step is asked for: then a replay refuses it, too.
        refuse_futures(kind, fn, (args, kwargs))
        new = encoded_hook("", key, kind, fn, args, kwargs, 0, told=told)
        asked = self._ask(txn, "hook")
        if runner._answer(asked, None) is None:
            step = self._step(asked, Kind.OBSERVATION, None)
            hook = replace(new, key=asked.key, sequence=step.sequence)
            step.effects = (transactions.registering(*self._place, [hook]),)
            runner._write([step])

    def task_ended(self, txn: Transaction, context: TaskRunContext) -> None:
        """Nothing: the hooks of a step are written with its end."""

    def effects_of(self, step: NewStep, context: TaskRunContext) -> tuple[Effect, ...]:
        """What the end of an inline call writes besides, where it ended well inside of a block."""
        assert step.transaction is not None
        hooks = hooks_of_step(context.task, step.transaction, step.key, context.transaction, step.sequence)
        return (transactions.registering(*self._place, hooks),)

    @property
    def _place(self) -> tuple[str, int]:
        claim: Claim = self._runner.claim
        return claim.run_id, claim.run_attempt

    def _ask(self, txn: Transaction, what: str) -> Asked:
        stem = (txn.row_key or "").rpartition("/")[2]
        asked: Asked = self._runner._line().ask(f"{stem}/{what}")
        return asked

    def _step(self, asked: Asked, kind: Kind, value: Any) -> NewStep:
        step: NewStep = self._runner._plain(asked, kind)
        state: State[Any] = State(StateType.COMPLETED, data=value)
        step.ending, self._runner._states[asked.key] = ending_of(state, what="what a transaction saw")
        return step

    # -- replay --------------------------------------------------------------------------------------------------

    def check(self, txn: Any, branch: str, position: int, reaches: bool) -> None:
        """Whether a block may be asked for more.

        Args:
            txn: The innermost block.
            branch: That asks.
            position: Of what it would ask for.
            reaches: Whether the journal has something there.

        Raises:
            BaseException: What the block raised when it was run before, at this place.
        """
        while txn is not None and self._failed:
            row = self._failed.get(txn.row_key)
            if row is not None and _is_at_failure(row, branch, position, reaches):
                raise _error_of(row)
            txn = txn.parent

    def failure_before(self, txn: Transaction) -> BaseException | None:
        """What the block raised when it was run before."""
        row = self._failed.get(txn.row_key or "")
        return None if row is None else _error_of(row)

    # -- ends ----------------------------------------------------------------------------------------------------

    def wait(self, txn: Transaction) -> None:
        """Wait for the ends of what was submitted inside; parks where they are not there."""
        if keys := submitted_in(txn):
            self._runner._wait_for_keys(keys)

    async def wait_async(self, txn: Transaction) -> None:
        """As `wait`, holding up the calling branch only."""
        if keys := submitted_in(txn):
            await self._runner._wait_for_keys_async(keys)

    def decide_rollback(
        self, txn: Transaction, nodes: Sequence[Transaction], error: BaseException | None
    ) -> BaseException | None:
        """Note that these are rolled back, and why, unless that is noted; gives the error that leaves the block."""
        runner, key = self._runner, txn.row_key or ""
        keys = [node.row_key or "" for node in nodes]
        before = self._failed.get(key)
        if error is None and (before is not None or self._next_after(None) is not None or self._is_settled(keys)):
            return None
        if before is not None and error is not None:
            known = _error_of(before)
            mark_standing(nodes, [row.key for row in self._rows.values() if row.state in STANDING])
            return error if type(error) is type(known) else known
        data = None
        if error is not None:
            data, decoded = serializers.encode_exception(error)
            if type(decoded) is not type(error):
                # As it comes back in a replay.
                error = decoded
        message = "it was not committed" if error is None else states.describe(error)
        branch = runner._line()
        failure = Failure(key, data, clean_text(message), branch.id, branch.position)
        engine_logger(runner.context).warning("transaction %r is rolled back: %s", key, message)
        with runner._handed_over() as unwritten:
            stand, announcements = runner.guard(
                lambda: transactions.roll_back(
                    runner.database, runner.claim, keys, failure, unwritten, window=runner.window
                )
            )
        runner._announce(announcements)
        mark_standing(nodes, stand)
        return error

    def _is_settled(self, keys: Collection[str]) -> bool:
        """Whether what is rolled back without an error was so before, and owes nothing."""
        runner = self._runner
        rows = [self._rows.get(key) for key in keys]
        if any(row is None or row.state in (Durable.ACTIVE, Durable.ROLLING_BACK) for row in rows):
            return False
        pending = transactions.pending_hooks
        return not runner._read(lambda: pending(runner.database, *self._place, keys, HookKind.ROLLBACK))

    def decide_commit(self, txn: Transaction, nodes: Sequence[Transaction]) -> bool:
        """Note that these are committed, and keep what was staged, unless that is noted."""
        runner = self._runner
        keys = [node.row_key or "" for node in nodes]
        known = [self._rows.get(key) for key in keys]
        if all(row is not None and row.state == Durable.COMMITTED for row in known):
            return not self._failed_commits.isdisjoint(keys)
        kept = [(node.key or "", encoded_stage(node.staged)) for node in nodes if node.keeps and node.store is None]
        for node in nodes:
            if node.keeps and node.store is not None:
                node.store.write(node.key or "", node.staged)
        with runner._handed_over() as unwritten:
            owed, announcements = runner.guard(
                lambda: transactions.commit(runner.database, runner.claim, keys, kept, unwritten, window=runner.window)
            )
        runner._announce(announcements)
        return bool(owed)

    def run(self, nodes: Sequence[Transaction], kind: HookKind, failed: Transaction | None = None) -> None:
        """Run the hooks of these that have not ended.

        Where the body went on behind this when it was run before, all of them had ended by then; what was registered
        since is for a later decision.

        Raises:
            TransactionHookFailed: One failed in all its tries, now or before; the others were run.
            Parked: One is to be tried again later.
        """
        keys = [node.row_key or "" for node in nodes]
        following = self._next_after(failed)
        found = self._carry_out(keys, kind) if following is None else self._failed_before(keys, kind, following)
        if not found:
            return
        error = RollbackFailed if kind is HookKind.ROLLBACK else CommitHookFailed
        raise error([_described(hook) for hook in found], found[0].transaction_key)

    def _carry_out(self, keys: Collection[str], kind: HookKind) -> list[HookRow]:
        runner = self._runner
        longest = float("inf") if runner._inline else IN_PLACE
        try:
            failed: list[HookRow] = runner.guard(
                lambda: carry_out(runner.database, runner.claim, runner.context, keys, kind, longest_sleep=longest)
            )
        except HookLater as later:
            delay = later.delay
            runner.guard(lambda: claims.give_back(runner.database, runner.claim, due_in=delay))
            runner.parked = True
            raise Parked from None
        return failed

    def _failed_before(self, keys: Collection[str], kind: HookKind, sequence: int) -> list[HookRow]:
        """The hooks that failed, of those that were registered before a step."""
        runner = self._runner
        found = runner._read(lambda: transactions.failed_hooks(runner.database, *self._place, kind, keys))
        return [hook for hook in found if hook.sequence < sequence]

    def _next_after(self, failed: Transaction | None) -> int | None:
        """The number of the first step that the body asked for behind this, when it was run before; None: it did not.

        Args:
            failed: The block that is left by an error: it counts where it failed before, whatever its code does now.
        """
        branch, row = self._runner._line(), None if failed is None else self._failed.get(failed.row_key or "")
        position = branch.position
        if row is not None and row.failed_branch == branch.id:
            position = max(position, row.failed_position or 0)
        return self._runner.next_asked(branch.id, position)  # type: ignore[no-any-return]  # the runner is not typed here


# -- carrying hooks out, whoever does ------------------------------------------------------------------------------


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
        with interrupts.shielded():
            for hook in pending:
                _carry_out_one(db, claim, flow_run, rows, hook, longest_sleep, without_code)
    elif not any(row.state in UNSETTLED for row in transactions.load(db, claim.run_id, claim.run_attempt, keys)):
        return transactions.failed_hooks(db, claim.run_id, claim.run_attempt, kind, keys)
    return [hook for hook in transactions.settle(db, claim, keys) if hook.kind == kind]


def _carry_out_one(
    db: Database,
    claim: Claim,
    flow_run: FlowRunContext,
    rows: Sequence[TransactionRow],
    hook: HookRow,
    longest_sleep: float,
    without_code: bool,
) -> None:
    claims.ensure(db, claim)
    if hook.due_at is not None and (left := hook.due_at - db.now()) > 0:
        raise HookLater(left)
    if hook.starts >= settings.current().crash_budget:
        message = f"its process died or hung {hook.starts} times while it ran"
        transactions.end_hook(db, claim, hook, HookState.FAILED, message)
        return
    try:
        call = _loaded(db, flow_run, rows, hook)
    except StoreError:
        raise
    except DefinitionNotFound as error:
        if not without_code:
            raise
        transactions.end_hook(db, claim, hook, HookState.FAILED, clean_text(str(error)))
        return
    except OrchestraError as error:
        transactions.end_hook(db, claim, hook, HookState.FAILED, clean_text(states.describe(error)))
        return
    transactions.start_hook(db, claim, hook)
    failpoint("in_transaction_hook")
    outcome = call_hook(
        call,
        flow_run,
        hook.key,
        run_attempt=hook.run_attempt,
        attempt=hook.attempt,
        longest_sleep=longest_sleep,
        contain=EVERYTHING,
    )
    said = None if outcome.state.message is None else clean_text(outcome.state.message)
    if isinstance(outcome, RetryLater):
        transactions.postpone_hook(db, claim, hook, attempt=outcome.attempt + 1, delay=outcome.delay, message=said)
        raise HookLater(outcome.delay)
    state = HookState.COMPLETED if outcome.state.is_completed() else HookState.FAILED
    transactions.end_hook(db, claim, hook, state, said)


def _loaded(db: Database, flow_run: FlowRunContext, rows: Sequence[TransactionRow], hook: HookRow) -> HookCall:
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


def _is_at_failure(row: TransactionRow, branch: str, position: int, reaches: bool) -> bool:
    """Whether a block that failed before asks for what it did not get to then."""
    if branch == row.failed_branch and row.failed_position is not None:
        return position >= row.failed_position
    return not reaches


def _error_of(row: TransactionRow) -> BaseException:
    assert row.error is not None
    return serializers.decode_exception(row.error)


def _described(hook: HookRow) -> str:
    return f"{hook.name!r}: {hook.message}"


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
    return rollback_failed([_described(hook) for hook in failed], state) if failed else state


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
            state = rollback_failed([_described(hook) for hook in failed], state)
        local_runs.finish_run(db, run.id, claim.owner, state, has_remote_steps=True)
