"""Transactions: what a block of tasks did is undone, newest first, where the block fails.

In a flow on a worker all of it is in the journal: a block may park in the middle, and whatever process dies, the hooks
are driven to their ends by another one. `docs/howto/transactions.md` says what is promised.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import Any, Protocol

from orchestra import identifiers, lazy, transaction_rules
from orchestra.concurrency import blocks
from orchestra.context import (
    FlowRunContext,
    TaskRunContext,
    flow_run_context,
    task_run_context,
    transaction_context,
    transaction_here,
)
from orchestra.db_transactions import db_transaction
from orchestra.errors import ConfigurationError, DefinitionError, RollbackFailed, SerializationError, Signal
from orchestra.questions import LOCK, Slots
from orchestra.transaction_rules import CommitMode as CommitMode
from orchestra.transaction_rules import End, HookKind
from orchestra.transaction_rules import IsolationLevel as IsolationLevel
from orchestra.transaction_rules import TransactionState as TransactionState

__all__ = [
    "AsyncTransaction",
    "CommitMode",
    "IsolationLevel",
    "Transaction",
    "TransactionState",
    "atransaction",
    "db_transaction",
    "get_transaction",
    "transaction",
]

#: Stands for "no default".
_UNSET: Any = object()

#: Waits, where it yields, for what was submitted inside of a block; gives the error that leaves the block.
Ending = Generator[None, None, BaseException | None]


class Store(Protocol):
    """Where the values of committed transactions are kept, by their keys. None given: the database."""

    def exists(self, key: str) -> bool:
        """Whether something is kept under `key`."""
        ...

    def read(self, key: str) -> Any:
        """What is kept under `key`."""
        ...

    def write(self, key: str, value: Any) -> object:
        """Keep `value` under `key`; may be called again with the same."""
        ...


class Keeper(Protocol):
    """Keeps the transactions of one body: in memory, beside a local run, or in a run's journal."""

    @property
    def is_stopped(self) -> bool:
        """Whether nothing that the body still does counts: a block that is left now neither commits nor rolls back."""
        ...

    def open(self, txn: Transaction) -> None:
        """Begin a block."""
        ...

    def keep_stored(self, txn: Transaction) -> None:
        """Something was set."""
        ...

    def register(
        self, txn: Transaction, kind: HookKind, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, told: bool
    ) -> None:
        """Register a hook of the block; with `told` it is called with the transaction."""
        ...

    def task_ended(self, txn: Transaction, context: TaskRunContext) -> None:
        """A task run that was called inside, and is carried out here, has ended well."""
        ...

    def failure_before(self, txn: Transaction) -> BaseException | None:
        """What the block raised when it was run before; None where it did not, or was not."""
        ...

    def wait(self, txn: Transaction) -> None:
        """Wait for the ends of what was submitted inside."""
        ...

    async def wait_async(self, txn: Transaction) -> None:
        """As `wait`, holding up the calling branch only."""
        ...

    def decide_rollback(
        self, txn: Transaction, nodes: Sequence[Transaction], error: BaseException | None
    ) -> BaseException | None:
        """Note that these are rolled back, and why; gives the error that leaves the block.

        Those whose commit was decided before are marked as committed instead.
        """
        ...

    def decide_commit(self, txn: Transaction, nodes: Sequence[Transaction]) -> bool:
        """Note that these are committed; gives whether commit hooks are to be run, or have failed."""
        ...

    def run(self, nodes: Sequence[Transaction], kind: HookKind, failed: Transaction | None = None) -> None:
        """Run the hooks of these, each to its end.

        Args:
            failed: The block that an error leaves.

        Raises:
            TransactionHookFailed: One failed in all its tries; the others were run.
        """
        ...


class Transaction:
    """One block. Its methods are for the body that opened it, and for hooks that are called with it."""

    def __init__(
        self,
        key: str | None = None,
        *,
        parent: Transaction | None = None,
        keeper: Keeper | None = None,
        store: Store | None = None,
        commit_mode: CommitMode | None = None,
        isolation_level: IsolationLevel | None = None,
        overwrite: bool = False,
        write_on_commit: bool = True,
        logger: Any = None,
    ) -> None:
        """For orchestra itself: `transaction()` makes one."""
        self.key, self.store, self.parent = key, store, parent
        self.overwrite, self.write_on_commit, self.logger = overwrite, write_on_commit, logger
        around = None if parent is None else parent.commit_mode
        self.commit_mode: CommitMode = transaction_rules.mode_of(commit_mode, around)
        self.isolation_level = isolation_level or IsolationLevel.READ_COMMITTED
        self.state = TransactionState.PENDING
        self.children: list[Transaction] = []
        #: Its step key, where it is one of a flow run.
        self.row_key: str | None = None
        #: What was submitted inside, and the hooks that are kept in memory.
        self.submitted: list[Any] = []
        self.hooks: list[Any] = []
        self.is_noted = False
        #: Called where it is committed.
        self.when_committed: list[Callable[[], object]] = []
        self.stored: dict[str, Any] = {}
        #: What its key stands for once it is committed.
        self.staged: Any = None
        self._was_staged = self._was_committed_before = False
        self.flow_run: FlowRunContext | None = flow_run_context.get()
        self.task_run: TaskRunContext | None = task_run_context.get()
        self._keeper = keeper
        self._has_ended = False

    def __repr__(self) -> str:
        return f"<{' '.join(filter(None, ('transaction', self.key or self.row_key, self.state.value)))}>"

    # -- where it stands -----------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nothing new belongs to it: it was committed, or its block has ended."""
        return self.state is TransactionState.COMMITTED or self._has_ended

    def is_pending(self) -> bool:
        """Whether it has not begun."""
        return self.state is TransactionState.PENDING

    def is_active(self) -> bool:
        """Whether its block is under way, and nothing was staged."""
        return self.state is TransactionState.ACTIVE

    def is_staged(self) -> bool:
        """Whether it was given a value by `stage`."""
        return self.state is TransactionState.STAGED

    def is_committed(self) -> bool:
        """Whether it was committed; also where one with the same key was, before this began."""
        return self.state is TransactionState.COMMITTED

    def is_rolled_back(self) -> bool:
        """Whether it was rolled back."""
        return self.state is TransactionState.ROLLED_BACK

    # -- values --------------------------------------------------------------------------------------------------

    def set(self, name: str, value: Any) -> None:
        """Keep a value under a name, for the hooks and the blocks inside.

        Raises:
            SerializationError: It cannot be copied; or, on a worker, not be written.
        """
        try:
            self.stored[name] = copy.deepcopy(value)
        except Exception as error:
            raise SerializationError(
                f"what is set under {name!r} in a transaction cannot be copied ({type(error).__name__}: {error}), and "
                "hooks are given copies: set plain data, or the .result() of a future"
            ) from error
        if self._keeper is not None:
            self._keeper.keep_stored(self)

    def get(self, name: str, default: Any = _UNSET) -> Any:
        """A copy of what was set under a name, here or in a block around.

        Raises:
            ValueError: Nothing was, and there is no default.
        """
        node: Transaction | None = self
        while node is not None:
            if name in node.stored:
                return copy.deepcopy(node.stored[name])
            node = node.parent
        if default is _UNSET:
            raise ValueError(f"no value was set under the name {name!r} in this transaction, nor around it")
        return default

    # -- hooks ---------------------------------------------------------------------------------------------------

    def on_rollback(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Have `fn(*args, **kwargs)` called if this is rolled back: a task, by its retries, or a function, once.

        On a worker it is in the journal when this returns. What was done before this was called is not undone by it
        where the process dies in between and the run never goes on: register first, or use `@task.on_rollback`.
        """
        self._register(HookKind.ROLLBACK, fn, args, kwargs)

    def on_commit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Have `fn(*args, **kwargs)` called when this is committed, in the order of registration."""
        self._register(HookKind.COMMIT, fn, args, kwargs)

    def _register(
        self, kind: HookKind, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], told: bool = False
    ) -> None:
        if not callable(fn):
            raise DefinitionError(
                f"txn.on_{kind.value} takes a task or a function, and then its arguments, not {fn!r}: write "
                f"txn.on_{kind.value}(undo, x), without calling it"
            )
        if self._keeper is None or self.is_over:
            raise DefinitionError(f"{self!r} takes no hooks any more: register them inside of its block")
        self._keeper.register(self, kind, fn, args, kwargs, told=told)

    def task_ended(self, context: TaskRunContext) -> None:
        """For orchestra itself: a task run inside of the block has ended well."""
        assert self._keeper is not None
        self._keeper.task_ended(self, context)

    # -- the key -------------------------------------------------------------------------------------------------

    def stage(
        self,
        value: Any,
        on_rollback_hooks: Sequence[Callable[[Transaction], Any]] = (),
        on_commit_hooks: Sequence[Callable[[Transaction], Any]] = (),
    ) -> None:
        """Say what this transaction's key stands for from its commit on: None, where nothing is staged.

        In one whose key was committed before it began this does nothing.

        Args:
            value: Given by `read()` next time.
            on_rollback_hooks: Called with this transaction.
            on_commit_hooks: Likewise.
        """
        if self._was_committed_before:
            return
        if self.is_over:
            raise DefinitionError(f"{self!r} is over: nothing can be staged in it")
        for kind, hooks in ((HookKind.ROLLBACK, on_rollback_hooks), (HookKind.COMMIT, on_commit_hooks)):
            for hook in hooks:
                self._register(kind, hook, (), {}, told=True)
        self.staged, self._was_staged = value, True
        if self.state is not TransactionState.ROLLED_BACK:
            self.state = TransactionState.STAGED

    def read(self) -> Any:
        """What is kept under its key; None where nothing is."""
        if self._was_staged:
            return self.staged
        if self.key is None:
            return None
        return (self.store or lazy.load("transacting").DATABASE).read(self.key)

    @property
    def keeps(self) -> bool:
        """Whether a commit is kept under its key."""
        return self.key is not None and self.write_on_commit

    # -- ends ----------------------------------------------------------------------------------------------------

    def commit(self) -> Any:
        """Commit now what was done so far. Gives whether there was something to commit.

        Raises:
            CommitHookFailed: A hook failed in all its tries; it is committed all the same.
        """
        return self._now(self._committing())

    def rollback(self) -> Any:
        """Undo now what was done so far, here and in the blocks around. Gives whether there was something to undo.

        Raises:
            RollbackFailed: A hook failed in all its tries.
        """
        return self._now(self._failing(None))

    def _now(self, ending: Ending) -> Any:
        before = self.state
        if self._keeper is not None and not self._has_ended:
            _drive(self, ending)
        return self.state is not before

    def _begin(self) -> None:
        assert self._keeper is not None
        if self.parent is not None:
            self.parent.children.append(self)
        self.state = TransactionState.ACTIVE
        self._keeper.open(self)
        self._was_committed_before = self.state is TransactionState.COMMITTED

    def _ended(self) -> Ending:
        """The block has ended well."""
        assert self._keeper is not None
        before = self._keeper.failure_before(self)
        if before is not None:
            return (yield from self._failing(before))
        end = transaction_rules.end_of(self)
        if end is End.COMMIT:
            yield from self._committing()
        elif end is End.ROLL_BACK:
            yield from self._failing(None)
        return None

    def _failing(self, error: BaseException | None) -> Ending:
        """Roll back, for this error; gives what leaves the block."""
        assert self._keeper is not None
        if self.state is TransactionState.COMMITTED:
            return error
        nodes = transaction_rules.rolled_back_with(self)
        error = self._keeper.decide_rollback(self, nodes, error)
        # What failed behind the decision to commit undoes nothing.
        self._be_committed([node for node in nodes if node.state is TransactionState.COMMITTED])
        yield
        nodes = transaction_rules.rolled_back_with(self)
        for node in nodes:
            node.state = TransactionState.ROLLED_BACK
        try:
            self._keeper.run(nodes, HookKind.ROLLBACK, None if error is None else self)
        except RollbackFailed as failed:
            raise failed from error
        return error

    def _committing(self) -> Ending:
        assert self._keeper is not None
        if self.state in transaction_rules.OVER:
            return None
        yield
        nodes = transaction_rules.committed_with(self)
        owes = self._keeper.decide_commit(self, nodes)
        self._be_committed(nodes, owes=owes)
        return None

    def _be_committed(self, nodes: Sequence[Transaction], *, owes: bool = True) -> None:
        assert self._keeper is not None
        for node in nodes:
            node.state = TransactionState.COMMITTED
        for done in [done for node in nodes for done in node.when_committed]:
            done()
        if owes and nodes:
            self._keeper.run(nodes, HookKind.COMMIT)


class AsyncTransaction(Transaction):
    """As `Transaction`; what may wait is awaited."""

    async def commit(self) -> bool:
        """As `Transaction.commit`."""
        return await self._now_async(self._committing())

    async def rollback(self) -> bool:
        """As `Transaction.rollback`."""
        return await self._now_async(self._failing(None))

    async def _now_async(self, ending: Ending) -> bool:
        before = self.state
        if self._keeper is not None and not self._has_ended:
            await _drive_async(self, ending)
        return self.state is not before


@contextmanager
def transaction(
    key: str | None = None,
    store: Store | None = None,
    commit_mode: CommitMode | None = None,
    isolation_level: IsolationLevel | None = None,
    overwrite: bool = False,
    write_on_commit: bool = True,
    logger: logging.Logger | logging.LoggerAdapter[Any] | None = None,
) -> Iterator[Transaction]:
    """Take the tasks of a block together: where an exception leaves it, their rollback hooks undo what they did.

    Those of tasks that ended well run, newest first; the failing task's own do not. Blocks nest: an inner one is
    committed with the outermost, and where it fails, those around it are rolled back with it, even if its exception is
    caught.

    Args:
        key: Of what the block makes: once one was committed, the next with this key `is_committed()` at once, and
            reads what that one has staged.
        store: Where that is kept; None: in the database.
        commit_mode: When a block that ended well is committed; None: as the block around it, else LAZY.
        isolation_level: SERIALIZABLE lets only one at a time work for a key; others wait, on a worker in no slot. None:
            READ_COMMITTED, by which two may do so at once.
        overwrite: Do it anew, though the key was committed before.
        write_on_commit: Keep that the key was committed.
        logger: Where it is told what became of it; None: the run's.

    Raises:
        RollbackFailed: A rollback hook failed in all its tries. The others were run; the error of the block is its
            cause.
        CommitHookFailed: Likewise of a commit hook. The transaction stays committed.
    """
    made = _made(
        Transaction, key, store, commit_mode, isolation_level, overwrite, write_on_commit=write_on_commit, logger=logger
    )
    with _locked(made):
        around = transaction_context.get()
        made._begin()
        transaction_context.set(made)
        try:
            yield made
        except BaseException as error:
            if _is_left(made, error):
                raise
            _leave(error, _drive(made, made._failing(error)))
            raise
        finally:
            made._has_ended = True
            transaction_context.set(around)
        leaving = _drive(made, _ended_safely(made))
        if leaving is not None:
            raise leaving


@asynccontextmanager
async def atransaction(
    key: str | None = None,
    store: Store | None = None,
    commit_mode: CommitMode | None = None,
    isolation_level: IsolationLevel | None = None,
    overwrite: bool = False,
    write_on_commit: bool = True,
    logger: logging.Logger | logging.LoggerAdapter[Any] | None = None,
) -> AsyncIterator[AsyncTransaction]:
    """As `transaction`, for coroutine functions: `async with atransaction() as txn`. Its hooks hold the loop up."""
    made = _made(
        AsyncTransaction,
        key,
        store,
        commit_mode,
        isolation_level,
        overwrite,
        write_on_commit=write_on_commit,
        logger=logger,
    )
    async with _locked_async(made):
        around = transaction_context.get()
        made._begin()
        transaction_context.set(made)
        try:
            yield made
        except BaseException as error:
            if _is_left(made, error):
                raise
            _leave(error, await _drive_async(made, made._failing(error)))
            raise
        finally:
            made._has_ended = True
            transaction_context.set(around)
        leaving = await _drive_async(made, _ended_safely(made))
        if leaving is not None:
            raise leaving


def get_transaction() -> Transaction | None:
    """The transaction of the calling code: the innermost block of its body, else the task's own; None: there is none.

    A task's own holds what its body sets, for its hooks, and inherits from the block in which the task was called.
    """
    found: Transaction | None = transaction_here()
    task_run = task_run_context.get()
    if found is not None or task_run is None:
        return found
    if task_run.transaction is None:
        task_run.transaction = lazy.load("task_transaction")(task_run)
    own: Any = task_run.transaction
    return own  # type: ignore[no-any-return]  # it is a Transaction


# -- the parts of a block ----------------------------------------------------------------------------------------


def _made(
    kind: type[Any],
    key: str | None,
    store: Store | None,
    commit_mode: CommitMode | None,
    isolation_level: IsolationLevel | None,
    overwrite: bool,
    **options: Any,
) -> Any:
    if store is not None and not all(callable(getattr(store, name, None)) for name in ("exists", "read", "write")):
        raise DefinitionError(
            f"store= of a transaction has exists(key), read(key) and write(key, value); {store!r} has not"
        )
    if key is not None and not (isinstance(key, str) and key):
        raise DefinitionError(f"key={key!r} of a transaction is a text that is not empty, or None: write it as a text")
    parent = transaction_here()
    made = kind(
        key,
        parent=parent,
        keeper=_keeper() if parent is None else parent._keeper,
        store=store,
        commit_mode=None if commit_mode is None else CommitMode(commit_mode),
        isolation_level=None if isolation_level is None else IsolationLevel(isolation_level),
        overwrite=overwrite,
        **options,
    )
    _check_isolation(made)
    return made


def _check_isolation(made: Transaction) -> None:
    if made.isolation_level is not IsolationLevel.SERIALIZABLE:
        return
    if made.key is None:
        raise ConfigurationError("isolation_level=SERIALIZABLE is about a key: give the transaction one, by key=")
    if made.parent is not None and made.commit_mode is not CommitMode.EAGER:
        raise ConfigurationError(
            f"isolation_level=SERIALIZABLE of {made!r} would end with its block, but it is committed with the block "
            "around it: give it to that one, or commit_mode=CommitMode.EAGER to this one"
        )


def _locked(made: Transaction) -> AbstractContextManager[None]:
    """The lock of its key, where only one at a time may work for it; held until its block is over, rolled back or not.

    In a flow on a worker the wait is a step, and the run parks.
    """
    if made.isolation_level is not IsolationLevel.SERIALIZABLE:
        return nullcontext()
    asked, runner = _lock_of(made), blocks.body_runner()
    held: AbstractContextManager[None] = lazy.load("slots").held(asked) if runner is None else runner.slots(asked)
    return held


def _locked_async(made: Transaction) -> AbstractAsyncContextManager[None]:
    if made.isolation_level is not IsolationLevel.SERIALIZABLE:
        return nullcontext()
    asked, runner = _lock_of(made), blocks.body_runner()
    if runner is not None:
        return runner.slots_async(asked)
    held: AbstractAsyncContextManager[None] = lazy.load("slots").held_async(asked)
    return held


def _lock_of(made: Transaction) -> Slots:
    digest = identifiers.fingerprint((made.key or "").encode("utf-8", "surrogatepass"))
    return Slots((f"{LOCK}transaction/{digest}",), label=json.dumps({"type": "transaction", "key": made.key}))


def _keeper() -> Keeper:
    flow_run = flow_run_context.get()
    if flow_run is None or task_run_context.get() is not None or flow_run.runner is None:
        made: Keeper = lazy.load("memory_keeper")()
        return made
    kept: Keeper = flow_run.runner.keeper
    return kept


def _is_left(made: Transaction, error: BaseException) -> bool:
    """Whether the block is only left for now, to be gone on with elsewhere, or by whoever ends the run."""
    assert made._keeper is not None
    return isinstance(error, Signal) or made._keeper.is_stopped


def _leave(error: BaseException, leaving: BaseException | None) -> None:
    if leaving is not None and leaving is not error:
        raise leaving from error


def _ended_safely(made: Transaction) -> Ending:
    """The block has ended well; what then keeps it from being committed rolls it back."""
    try:
        return (yield from made._ended())
    except Exception as error:
        if made.state in transaction_rules.OVER:
            raise
        failure = error
    return (yield from made._failing(failure))


def _drive(made: Transaction, ending: Ending) -> BaseException | None:
    """Carry an ending through; what is asked for meanwhile does not belong to the block."""
    keeper = made._keeper
    assert keeper is not None
    inside, failure = transaction_context.get(), None
    transaction_context.set(None)
    try:
        while True:
            try:
                next(ending) if failure is None else ending.throw(failure)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]  # as `Ending` says
            try:
                keeper.wait(made)
            except Exception as error:
                failure = error
            else:
                failure = None
    finally:
        transaction_context.set(inside)


async def _drive_async(made: Transaction, ending: Ending) -> BaseException | None:
    keeper = made._keeper
    assert keeper is not None
    inside, failure = transaction_context.get(), None
    transaction_context.set(None)
    try:
        while True:
            try:
                next(ending) if failure is None else ending.throw(failure)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]  # as `Ending` says
            try:
                await keeper.wait_async(made)
            except Exception as error:
                failure = error
            else:
                failure = None
    finally:
        transaction_context.set(inside)
