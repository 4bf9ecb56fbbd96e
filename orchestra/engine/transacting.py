"""What transactions have in common wherever their bodies run: how hooks are kept and called, and what a key may be.

A hook is called in a context of its own, as a task run that nothing records.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestra import callables, identifiers, lazy, serializers, states
from orchestra.context import FlowRunContext, TaskRunContext, flow_run_context, transaction_context
from orchestra.engine import definitions, interrupts
from orchestra.engine.arguments import find_futures
from orchestra.engine.branches import current_line
from orchestra.engine.hooks import HERE
from orchestra.engine.task_run import Ended, RetryLater, run_attempts
from orchestra.engine.values import encode_inputs
from orchestra.errors import CommitHookFailed, DefinitionError, NotImportable, RollbackFailed
from orchestra.logging import engine_logger
from orchestra.specs import TaskSpec, require_importable
from orchestra.specs import path_of as function_path
from orchestra.states import State
from orchestra.store import database as databases
from orchestra.store import tables, transactions
from orchestra.store.claims import Claim
from orchestra.store.journal import Effect
from orchestra.store.transactions import NewHook
from orchestra.transaction_rules import HookKind, TransactionState, root_of, subtree
from orchestra.transactions import Transaction

# -- calling a hook ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class HookCall:
    """One hook, ready to be called."""

    name: str
    spec: TaskSpec
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


def spec_of(fn: Any) -> TaskSpec:
    """What is called for a hook: a task by its own policy, a plain function once."""
    spec = getattr(fn, "spec", None)
    if isinstance(spec, TaskSpec):
        return spec
    return TaskSpec(fn=callables.engine_form(fn), name=callables.name_of(fn), path="", retries=0)


def bound_to(fn: Any) -> tuple[Any, ...]:
    """What a task that is a method is bound to."""
    bound: tuple[Any, ...] = getattr(fn, "_bound", ()) if isinstance(getattr(fn, "spec", None), TaskSpec) else ()
    return bound


def call_hook(
    call: HookCall,
    flow_run: FlowRunContext | None,
    key: str,
    *,
    run_attempt: int = 1,
    attempt: int = 1,
    longest_sleep: float = math.inf,
    contain: tuple[type[BaseException], ...] = HERE,
) -> Ended | RetryLater:
    """Call a hook by its own policy; what it raises is its state.

    Args:
        flow_run: The run whose transaction it is.
        key: Its own; with the run it makes its idempotency key.
        longest_sleep: Retry delays below this many seconds are slept through.
        contain: What it may raise to fail its try.
    """
    run_id = "" if flow_run is None else flow_run.run_id
    # Beside the body: what it calls runs plainly, and its log lines are not those that a replay counts.
    beside = None if flow_run is None else replace(flow_run, runner=lazy.load("local_runner")(), lines=None)
    context = TaskRunContext(
        task=call.spec,
        task_run_id=identifiers.step_id(run_id, run_attempt, key),
        task_run_name=call.name,
        flow_run=beside,
        step_key=key,
        attempt=attempt,
        idempotency_key=identifiers.idempotency_key(run_id, key, run_attempt) if run_id else key,
        log_prints=bool(flow_run and flow_run.log_prints) if call.spec.log_prints is None else call.spec.log_prints,
    )
    tokens = flow_run_context.set(beside), current_line.set(None), transaction_context.set(None)
    try:
        engine_logger(context).info("hook %r of a transaction is called", call.name)
        return run_attempts(call.spec, call.args, call.kwargs, context, longest_sleep=longest_sleep, contain=contain)
    finally:
        transaction_context.reset(tokens[2])
        current_line.reset(tokens[1])
        flow_run_context.reset(tokens[0])


def commit_alone(context: TaskRunContext, state: State[Any]) -> State[Any]:
    """Commit a task run that ended well outside of any transaction: its commit hooks run, as the last part of it.

    One that raises fails the task run. If the process dies meanwhile, the task's body is run again, and they are.
    """
    failed = []
    own = task_transaction(context)
    for number, hook in enumerate(context.task.on_commit):
        call = HookCall(callables.name_of(hook), spec_of(hook), (*bound_to(hook), own))
        key = f"{context.step_key or context.task_run_id}/on_commit-{number}"
        with interrupts.shielded():
            outcome = call_hook(call, context.flow_run, key)
        if not outcome.state.is_completed():
            failed.append(f"{call.name!r}: {outcome.state.message}")
    return states.from_exception(CommitHookFailed(failed)) if failed else state


def task_transaction(context: TaskRunContext) -> Transaction:
    """A task run's own transaction: what its body sets for its hooks."""
    own = context.transaction
    if not isinstance(own, Transaction):
        around: Any = transaction_context.get()
        if around is None and context.called_in is not None:
            assert context.flow_run is not None
            around = lazy.load("restored_transaction")(context.flow_run.run_id, *context.called_in)
        own = Transaction(parent=around)
        context.transaction = own
    return own


# -- what is registered ------------------------------------------------------------------------------------------


def encoded_hook(
    key: str,
    transaction_key: str,
    kind: HookKind,
    fn: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    sequence: int,
    *,
    told: bool,
) -> NewHook:
    """A hook of a block, so that another process can call it.

    Raises:
        SerializationError: It cannot be handed its arguments, or is no importable function and cannot be pickled.
    """
    path, options, function = _how_to_find(fn)
    name = callables.name_of(getattr(fn, "fn", fn))
    arguments = None if told else encode_inputs((*bound_to(fn), *args), kwargs)
    return NewHook(
        key,
        transaction_key,
        kind,
        serializers.clean_text(name)[: tables.LONGEST_NAME],
        sequence,
        path=path,
        options=options,
        function=function,
        arguments=arguments,
    )


def _how_to_find(fn: Any) -> tuple[str | None, bytes | None, bytes | None]:
    """Path and options, or a pickle."""
    spec = getattr(fn, "spec", None)
    if isinstance(spec, TaskSpec):
        try:
            require_importable(spec.path, "task")
        except NotImportable:
            return None, None, serializers.encode(fn, what=f"task {spec.name!r}")
        return spec.path, definitions.encoded_options(spec), None
    path = function_path(fn) if hasattr(fn, "__qualname__") and getattr(fn, "__self__", None) is None else None
    if path is not None and not path.startswith("__main__:") and lazy.loaded(path) is fn:
        return path, None, None
    return None, None, serializers.encode(fn, what=f"the function {callables.name_of(fn)!r}")


def hooks_of_step(task: TaskSpec, transaction_key: str, step_key: str, own: Any, sequence: int) -> list[NewHook]:
    """What the end of a step in a transaction registers: the hooks of its task.

    Args:
        own: The task run's own transaction, where its body has asked for it.
    """
    stored = serializers.encode(own.stored, what=f"what task {task.name!r} has set") if own and own.stored else None
    found = []
    for kind, hooks in ((HookKind.ROLLBACK, task.on_rollback), (HookKind.COMMIT, task.on_commit)):
        for number, hook in enumerate(hooks):
            found.append(
                NewHook(
                    f"{step_key}/on_{kind.value}-{number}",
                    transaction_key,
                    kind,
                    serializers.clean_text(callables.name_of(getattr(hook, "fn", hook)))[: tables.LONGEST_NAME],
                    sequence,
                    number,
                    step_key,
                    task.path,
                    definitions.encoded_options(task),
                    stored=stored,
                )
            )
    return found


def step_effects(claim: Claim, task: TaskSpec, transaction_key: str, own: Any, sequence: int) -> tuple[Effect, ...]:
    """What the end of a claimed step in a transaction writes besides."""
    hooks = hooks_of_step(task, transaction_key, claim.step_key or "", own, sequence)
    return (transactions.registering(claim.run_id, claim.run_attempt, hooks),)


# -- what is kept ------------------------------------------------------------------------------------------------


class Database:
    """The database as the place of what was staged."""

    def exists(self, key: str) -> bool:
        """Whether something is kept under `key`."""
        return transactions.has_key(databases.database(), key)

    def read(self, key: str) -> Any:
        """What is kept under `key`; None where nothing is."""
        data = transactions.read_key(databases.database(), key)
        return None if data is None else serializers.decode(data)

    def write(self, key: str, value: Any) -> None:
        """Keep `value` under `key`."""
        transactions.keep_key(databases.database(), key, encoded_stage(value))


DATABASE = Database()


def encoded_stage(value: Any) -> bytes:
    """A staged value as it is kept."""
    return serializers.encode(value, what="what was staged in a transaction")


def check_key(txn: Transaction) -> None:
    """See that the database can keep a transaction's key.

    Raises:
        DefinitionError: It cannot.
    """
    if txn.key is None or txn.store is not None:
        return
    if len(txn.key) > tables.LONGEST_KEY or serializers.clean_text(txn.key) != txn.key:
        raise DefinitionError(
            f"key={txn.key[:40]!r}… of a transaction, {len(txn.key)} characters long, cannot be kept: it has at most "
            f"{tables.LONGEST_KEY}, and neither NUL nor surrogates. Take a digest of it"
        )


def is_committed_before(txn: Transaction) -> bool:
    """Whether a transaction with the same key was committed before."""
    if txn.key is None or txn.overwrite:
        return False
    return bool((txn.store or DATABASE).exists(txn.key))


def shown_key(txn: Transaction) -> str | None:
    """The key of a transaction, for people."""
    return None if txn.key is None else serializers.clean_text(txn.key)[: tables.LONGEST_KEY]


def refuse_futures(kind: HookKind, fn: Any, given: Any) -> None:
    """See that a hook is handed values: a future is none yet, and nobody waits for it when the hook is called.

    Raises:
        DefinitionError: There is a future among its arguments.
    """
    if found := find_futures(given):
        raise DefinitionError(
            f"txn.on_{kind.value}({callables.name_of(getattr(fn, 'fn', fn))}, …) is handed a future, of task run "
            f"{found[0][0].name!r}, which is no value yet: hand on its .result(), or give the task a hook of its own, "
            f"by @task.on_{kind.value}"
        )


def mark_standing(nodes: Sequence[Transaction], keys: Collection[str]) -> None:
    """Mark those as committed of which the database says so: their commit was decided, and failed behind that."""
    for node in nodes:
        if node.row_key in keys:
            node.state = TransactionState.COMMITTED


def submitted_in(txn: Transaction) -> list[Any]:
    """What was submitted in the blocks of a tree."""
    return [each for node in subtree(root_of(txn)) for each in node.submitted]


def rollback_failed(failed: Sequence[str], state: State[Any]) -> State[Any]:
    """How a run ends whose rollback failed, whatever its body made of that."""
    error = RollbackFailed(list(failed))
    error.__cause__ = state.data if isinstance(state.data, BaseException) else None
    return states.from_exception(error)
