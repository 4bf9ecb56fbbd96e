"""Who keeps the transactions of bodies that run here: in scripts and in task bodies in memory alone, in local flow runs
also in the database, so that another process can undo what this one did.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from orchestra import callables, clock, serializers, states
from orchestra.context import TaskRunContext, flow_run_context
from orchestra.engine import interrupts
from orchestra.engine.transacting import (
    DATABASE,
    HookCall,
    bound_to,
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
    task_transaction,
)
from orchestra.errors import (
    ClaimLost,
    CommitHookFailed,
    Fenced,
    NotImportable,
    OrchestraError,
    RollbackFailed,
    SerializationError,
    StoreError,
)
from orchestra.failpoints import failpoint
from orchestra.logging import get_logger
from orchestra.runners.steps import BRANCH
from orchestra.states import State
from orchestra.store import database as databases
from orchestra.store import tables, transactions
from orchestra.store.behind import behind
from orchestra.store.claims import Claim
from orchestra.store.transactions import Failure, NewHook, NewTransaction
from orchestra.transaction_rules import Durable, HookKind, HookState, TransactionState, subtree
from orchestra.transactions import Transaction

_logger = get_logger("transactions")

#: How many rows are announced ahead of what these writes make ready: they make nothing ready.
_WINDOW = 16


@dataclass(slots=True)
class Live:
    """A hook that is kept in memory."""

    order: int
    kind: HookKind
    call: HookCall
    key: str
    run_id: str = ""
    run_attempt: int = 1
    starts: int = 0
    is_over: bool = False


class SilentKeeper:
    """Keeps the transactions of a body that is only drawn: nothing is done in it, so there is nothing to undo."""

    is_stopped = False

    def __getattr__(self, name: str) -> Any:
        return self._nothing

    def _nothing(self, *args: Any, **kwargs: Any) -> None:
        """Whatever it is asked."""

    async def wait_async(self, txn: Transaction) -> None:
        """Nothing runs."""

    def decide_rollback(self, txn: Transaction, nodes: Sequence[Transaction], error: Any) -> Any:
        """What leaves a block leaves the drawing."""
        return error


class MemoryKeeper:
    """Keeps transactions while this process lives: of scripts, and of blocks in the bodies of tasks."""

    is_stopped = False

    def __init__(self) -> None:
        self._order = itertools.count()
        self._numbers: dict[str, int] = {}
        #: The rollback hooks that failed.
        self.failed: list[str] = []

    def open(self, txn: Transaction) -> None:
        """Begin a block."""
        check_key(txn)
        txn.row_key = self._numbered(f"{BRANCH}/txn")
        if is_committed_before(txn):
            txn.state = TransactionState.COMMITTED

    def keep_stored(self, txn: Transaction) -> None:
        """Nothing: it is in memory."""

    def register(
        self, txn: Transaction, kind: HookKind, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, told: bool
    ) -> None:
        """Register a hook of the block."""
        refuse_futures(kind, fn, (args, kwargs))
        given = (txn,) if told else args
        call = HookCall(callables.name_of(getattr(fn, "fn", fn)), spec_of(fn), (*bound_to(fn), *given), kwargs)
        self._add(txn, kind, call, self._numbered(f"{txn.row_key}/hook"))

    def _numbered(self, stem: str) -> str:
        number = self._numbers.get(stem, 0)
        self._numbers[stem] = number + 1
        return f"{stem}-{number}"

    def _add(self, txn: Transaction, kind: HookKind, call: HookCall, key: str) -> Live:
        live = Live(next(self._order), kind, call, key)
        txn.hooks.append(live)
        return live

    def task_ended(self, txn: Transaction, context: TaskRunContext) -> None:
        """A task run inside the block has ended well: its hooks are registered."""
        task = context.task
        if not task.has_transaction_hooks:
            return
        own = task_transaction(context)
        for kind, hooks in ((HookKind.ROLLBACK, task.on_rollback), (HookKind.COMMIT, task.on_commit)):
            for number, hook in enumerate(hooks):
                call = HookCall(callables.name_of(getattr(hook, "fn", hook)), spec_of(hook), (*bound_to(hook), own))
                key = f"{context.step_key or context.task_run_id}/on_{kind.value}-{number}"
                live = self._add(txn, kind, call, key)
                if context.joint is not None:
                    context.joint.when_undone.append(partial(txn.hooks.remove, live))

    def failure_before(self, txn: Transaction) -> BaseException | None:
        """Nothing here is run a second time."""
        return None

    def wait(self, txn: Transaction) -> None:
        """Wait for the ends of what was submitted inside."""
        if futures := submitted_in(txn):
            futures[0].waiter.wait(futures, None)

    async def wait_async(self, txn: Transaction) -> None:
        """As `wait`, holding up the calling branch only."""
        if futures := submitted_in(txn):
            await futures[0].waiter.wait_async(futures, None)

    def decide_rollback(
        self, txn: Transaction, nodes: Sequence[Transaction], error: BaseException | None
    ) -> BaseException | None:
        """Say so in the log."""
        if txn.logger is not None:
            why = "it was not committed" if error is None else states.describe(error)
            txn.logger.warning("%r is rolled back: %s", txn, why)
        return error

    def decide_commit(self, txn: Transaction, nodes: Sequence[Transaction]) -> bool:
        """Keep what was staged."""
        for node in nodes:
            if node.keeps:
                (node.store or DATABASE).write(node.key or "", node.staged)
        return True

    def run(self, nodes: Sequence[Transaction], kind: HookKind, failed: Transaction | None = None) -> None:
        """Run the hooks of these, each to its end.

        Raises:
            TransactionHookFailed: One failed in all its tries; the others were run.
        """
        found = [live for node in nodes for live in node.hooks if live.kind is kind and not live.is_over]
        went_wrong = []
        with interrupts.shielded():
            for live in sorted(found, key=lambda live: live.order, reverse=kind is HookKind.ROLLBACK):
                state = self._run(live)
                live.is_over = True
                if not state.is_completed():
                    went_wrong.append(f"{live.call.name!r}: {state.message}")
        if went_wrong and kind is HookKind.ROLLBACK:
            self.failed += went_wrong
        if went_wrong:
            raise (RollbackFailed if kind is HookKind.ROLLBACK else CommitHookFailed)(went_wrong, self._shown(nodes))

    def _shown(self, nodes: Sequence[Transaction]) -> str | None:
        return None

    def _run(self, live: Live) -> State[Any]:
        return call_hook(live.call, flow_run_context.get(), live.key, run_attempt=live.run_attempt).state


class LocalKeeper(MemoryKeeper):
    """Keeps the transactions of a local flow run: called here, and in the database before they can be needed.

    Of a block without hooks a row is written behind, when it has ended: there is nothing to undo.
    """

    def __init__(self, claim: Claim, is_stopped: Callable[[], bool]) -> None:
        """Keep those of a run attempt.

        Args:
            claim: On the run.
            is_stopped: Whether the run was cancelled, or is over.
        """
        super().__init__()
        self._claim, self._is_stopped = claim, is_stopped
        self._database = databases.database()
        self._written: set[str] = set()
        self._opened: dict[str, float] = {}
        self._open: list[Transaction] = []

    def open(self, txn: Transaction) -> None:
        """Begin a block."""
        super().open(txn)
        self._opened[txn.row_key or ""] = clock.now()
        if txn.parent is None:
            self._open = [*(root for root in self._open if not root.is_over), txn]

    def keep_stored(self, txn: Transaction) -> None:
        """Write what was set, if a hook that may ask for it is written."""
        if txn.row_key in self._written:
            self._write([self._storing(txn)])

    def register(
        self, txn: Transaction, kind: HookKind, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, told: bool
    ) -> None:
        """Register a hook of the block, also for the process that finds this one dead."""
        super().register(txn, kind, fn, args, kwargs, told=told)
        live: Live = txn.hooks[-1]
        self._place(live)
        key = txn.row_key or ""
        try:
            hook = encoded_hook(live.key, key, kind, fn, args, kwargs, live.order, told=told)
        except (SerializationError, NotImportable) as error:
            _logger.warning("hook %r could not be run by another process if this one dies: %s", live.call.name, error)
            hook = NewHook(live.key, key, kind, live.call.name[: tables.LONGEST_NAME], live.order)
        self._write([*self._openings(txn), self._registering([hook])])

    def task_ended(self, txn: Transaction, context: TaskRunContext) -> None:
        """A task run inside the block has ended well: its hooks are registered."""
        before = len(txn.hooks)
        super().task_ended(txn, context)
        added = txn.hooks[before:]
        if not added:
            return
        for live in added:
            self._place(live)
        hooks = self._hooks_of_step(txn, context, added[0].order)
        written = set(self._written)
        effects = [*self._openings(txn), self._registering(hooks)]
        if context.joint is None:
            self._write(effects)
            return
        # In the one commit of the task's rows and its end.
        context.joint.effects += effects
        opened = self._written - written
        context.joint.when_undone.append(partial(self._written.difference_update, opened))

    def _hooks_of_step(self, txn: Transaction, context: TaskRunContext, order: int) -> list[NewHook]:
        step_key = context.step_key or context.task_run_id
        try:
            return hooks_of_step(context.task, txn.row_key or "", step_key, context.transaction, order)
        except OrchestraError as error:
            _logger.warning("what %r has set is not there for another process: %s", context.task.name, error)
            return hooks_of_step(context.task, txn.row_key or "", step_key, None, order)

    def _place(self, live: Live) -> None:
        live.run_id, live.run_attempt = self._claim.run_id, self._claim.run_attempt

    def _openings(self, txn: Transaction) -> list[Any]:
        """What writes a block, and those around it, unless it is written."""
        found: list[Any] = []
        node: Transaction | None = txn
        while node is not None and node.row_key not in self._written:
            parent = None if node.parent is None else node.parent.row_key
            key = node.row_key or ""
            new = NewTransaction(key, parent, shown_key(node))
            found.append(transactions.opening(self._claim.run_id, self._claim.run_attempt, new))
            if node.stored:
                found.append(self._storing(node))
            self._written.add(key)
            node = node.parent
        return found

    def _storing(self, txn: Transaction) -> Any:
        try:
            data = serializers.encode(txn.stored, what="what was set in a transaction")
        except OrchestraError as error:
            _logger.warning("it is not there for another process: %s", error)
            data = serializers.encode({})
        return transactions.storing(self._claim.run_id, self._claim.run_attempt, txn.row_key or "", data)

    def _registering(self, hooks: Sequence[NewHook]) -> Any:
        return transactions.registering(self._claim.run_id, self._claim.run_attempt, hooks)

    def _write(self, effects: Sequence[Any]) -> None:
        self._fenced(lambda: transactions.write_alone(self._database, self._claim, effects))

    def _fenced(self, write: Callable[[], Any]) -> Any:
        """Write under the claim.

        Raises:
            Fenced: Another process took this one for dead, and undoes what it did.
        """
        try:
            with interrupts.shielded():
                return write()
        except ClaimLost as error:
            _logger.warning("%s: what this process did is undone by the one that took the run over", error)
            raise Fenced from error

    def _tried(self, write: Callable[[], Any]) -> Any:
        """As `_fenced`; but where the database is away, what is under way here goes on, and None is given."""
        try:
            return self._fenced(write)
        except StoreError as error:
            _logger.warning("the rollback goes on, and is not recorded: %s", error)
            return None

    # -- ends ----------------------------------------------------------------------------------------------------

    @property
    def is_stopped(self) -> bool:  # type: ignore[override]  # a run may be stopped, what is in memory only may not
        """Whether nothing that the body still does counts."""
        return self._is_stopped()

    def decide_rollback(
        self, txn: Transaction, nodes: Sequence[Transaction], error: BaseException | None
    ) -> BaseException | None:
        """Note that these are rolled back, and why."""
        super().decide_rollback(txn, nodes, error)
        self._note_behind(nodes, Durable.ROLLED_BACK, None if error is None else states.describe(error))
        written = [node.row_key or "" for node in nodes if node.row_key in self._written]
        if written:
            message = "it was not committed" if error is None else states.describe(error)
            data = None if error is None else serializers.encode_exception(error)[0]
            failure = Failure(txn.row_key or "", data, serializers.clean_text(message))
            decided = self._tried(
                lambda: transactions.roll_back(
                    self._database, self._claim, written, failure, window=lambda queue: _WINDOW
                )
            )
            mark_standing(nodes, decided[0] if decided else ())
        return error

    def decide_commit(self, txn: Transaction, nodes: Sequence[Transaction]) -> bool:
        """Note that these are committed, and keep what was staged."""
        own = [(node.key or "", encoded_stage(node.staged)) for node in nodes if node.keeps and node.store is None]
        for node in nodes:
            if node.keeps and node.store is not None:
                node.store.write(node.key or "", node.staged)
        self._note_behind(nodes, Durable.COMMITTED, None)
        written = [node.row_key or "" for node in nodes if node.row_key in self._written]
        if written:
            self._fenced(
                lambda: transactions.commit(self._database, self._claim, written, own, window=lambda queue: _WINDOW)
            )
        else:
            for key, data in own:
                transactions.keep_key(self._database, key, data)
        return bool(written)

    def _note_behind(self, nodes: Sequence[Transaction], state: Durable, message: str | None) -> None:
        """Show, behind the run, what has no hooks."""
        for node in nodes:
            if node.row_key in self._written or node.is_noted:
                continue
            node.is_noted = True
            row = {
                "run_id": self._claim.run_id,
                "run_attempt": self._claim.run_attempt,
                "key": node.row_key,
                "parent_key": None if node.parent is None else node.parent.row_key,
                "name": shown_key(node),
                "state": state.value,
                "message": None if message is None else serializers.clean_text(message),
                "created_at": self._opened[node.row_key or ""],
                "end_time": clock.now(),
            }
            behind().add(tables.transactions, row)

    def run(self, nodes: Sequence[Transaction], kind: HookKind, failed: Transaction | None = None) -> None:
        """Run the hooks of these, each to its recorded end.

        Raises:
            TransactionHookFailed: One failed in all its tries; the others were run.
        """
        try:
            super().run(nodes, kind, failed)
        finally:
            written = [node.row_key or "" for node in nodes if node.row_key in self._written]
            # Interrupted in a hook, by Ctrl-C say, the rest is for the process that finds this run.
            if written and all(live.is_over for node in nodes for live in node.hooks if live.kind is kind):
                self._tried(lambda: transactions.settle(self._database, self._claim, written))

    def _shown(self, nodes: Sequence[Transaction]) -> str | None:
        return nodes[0].row_key if nodes else None

    def _run(self, live: Live) -> State[Any]:
        row: Any = live
        self._tried(functools.partial(self._start, row))
        failpoint("in_transaction_hook")
        state = super()._run(live)
        ended = HookState.COMPLETED if state.is_completed() else HookState.FAILED
        message = None if state.message is None else serializers.clean_text(state.message)
        self._tried(lambda: transactions.end_hook(self._database, self._claim, row, ended, message))
        return state

    def _start(self, live: Any) -> None:
        live.starts = transactions.start_hook(self._database, self._claim, live)

    def close(self, state: State[Any]) -> State[Any]:
        """Roll back what a body left open that has ended so; gives how its run ends then.

        A block that is left by a signal, such as of a cancel or a timeout, does nothing by itself.
        """
        for root in self._open:
            error = state.data if isinstance(state.data, BaseException) else None
            nodes = list(subtree(root))
            if root.state is TransactionState.COMMITTED or (root.is_rolled_back() and not _owes_rollback(nodes)):
                continue
            self.decide_rollback(root, nodes, error)
            for node in nodes:
                if node.state is not TransactionState.COMMITTED:
                    node.state = TransactionState.ROLLED_BACK
            left = [node for node in nodes if node.state is TransactionState.ROLLED_BACK]
            # What fails is in `self.failed`.
            with contextlib.suppress(RollbackFailed):
                self.run(left, HookKind.ROLLBACK)
        return rollback_failed(self.failed, state) if self.failed else state


def _owes_rollback(nodes: Sequence[Transaction]) -> bool:
    return any(live.kind is HookKind.ROLLBACK and not live.is_over for node in nodes for live in node.hooks)
