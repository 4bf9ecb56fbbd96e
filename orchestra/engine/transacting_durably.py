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

from orchestra import serializers, states
from orchestra.context import TaskRunContext
from orchestra.engine.task_run import IN_PLACE
from orchestra.engine.transacting import (
    check_key,
    encoded_hook,
    encoded_stage,
    hooks_of_step,
    is_committed_before,
    mark_standing,
    refuse_futures,
    shown_key,
    submitted_in,
)
from orchestra.engine.transaction_hooks import HookLater, carry_out, described
from orchestra.engine.values import ending_of
from orchestra.errors import CommitHookFailed, Parked, RollbackFailed
from orchestra.journal import Asked
from orchestra.logging import engine_logger
from orchestra.serializers import clean_text
from orchestra.states import State, StateType
from orchestra.store import claims, transactions
from orchestra.store.claims import Claim
from orchestra.store.journal import Effect, NewStep, StepRecord
from orchestra.store.tables import Kind
from orchestra.store.transactions import Failure, HookRow, NewTransaction, TransactionRow
from orchestra.transaction_rules import STANDING, Durable, HookKind, TransactionState
from orchestra.transactions import Transaction

logger = logging.getLogger("orchestra.engine")


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
        raise error([described(hook) for hook in found], found[0].transaction_key)

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


def _is_at_failure(row: TransactionRow, branch: str, position: int, reaches: bool) -> bool:
    """Whether a block that failed before asks for what it did not get to then."""
    if branch == row.failed_branch and row.failed_position is not None:
        return position >= row.failed_position
    return not reaches


def _error_of(row: TransactionRow) -> BaseException:
    assert row.error is not None
    return serializers.decode_exception(row.error)
