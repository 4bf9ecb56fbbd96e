"""What people do to runs, wherever those run: cancel, retry, pause, suspend, resume, send to, delete.

One place for handles, the command line and the API.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from orchestra import lazy
from orchestra.engine.answers import answers_for
from orchestra.engine.heartbeat import heart
from orchestra.engine.owed import run_hooks
from orchestra.errors import IllegalTransition, NoBroker
from orchestra.questions import Message
from orchestra.states import FINAL, StateType
from orchestra.store import inputs, interventions, removal, runs, transactions, unsent
from orchestra.store.announcements import Announcement
from orchestra.store.database import Database
from orchestra.store.transactions import TransactionRow
from orchestra.transaction_rules import Durable

logger = logging.getLogger("orchestra.engine")

_NOT_ON_A_WORKER = (
    "retried on a worker: it ran in a process of its own; use `orchestra flow-run retry` where its code and its "
    "database are (without ORCHESTRA_API_URL), or call the flow again"
)
_NOT_FROM_A_TASK = (
    "retried from a task: it ran in a process of its own; retry it as a whole (`orchestra flow-run retry`), or call "
    "the flow again"
)

#: Tells workers of rows that are due; the default goes through the configured app.
Announce = Callable[[Sequence[Announcement]], None]


def cancel(database: Database, flow_run_id: str, announce: Announce | None = None) -> str:
    """Cancel a run and its children; returns the state it is in then (`Cancelling`, or `Cancelled` at once).

    Safe to repeat.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It has ended already.
    """
    tell(database, interventions.cancel(database, flow_run_id), announce)
    return str(runs.read(database, flow_run_id)["state_name"])


def retry(
    database: Database, flow_run_id: str, announce: Announce | None = None, *, from_task_run_id: str | None = None
) -> None:
    """Run an ended run again from where it failed, or replay one that is held as NonDeterministic.

    Args:
        announce: Tells the workers.
        from_task_run_id: The task run, or the step of a subflow, from which it is run again though that completed.

    Raises:
        FlowRunNotFound: There is no such run.
        TaskRunNotFound: There is no such task run.
        IllegalTransition: It has not ended, or cannot be retried from there.
    """
    _refuse_local(database, flow_run_id, _NOT_ON_A_WORKER if from_task_run_id is None else _NOT_FROM_A_TASK)
    tell(database, interventions.retry(database, flow_run_id, from_step=from_task_run_id), announce)


def pause(database: Database, flow_run_id: str) -> None:
    """Start no more of a run until it is resumed; what runs now ends.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It has ended, or is being cancelled.
    """
    _refuse_local(database, flow_run_id, "paused from outside: it runs in a process of its own")
    interventions.hold(database, flow_run_id)


def suspend(database: Database, flow_run_id: str) -> None:
    """As `pause`, shown as Suspended.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It has ended, or is being cancelled, or runs in a process of its own.
    """
    _refuse_local(database, flow_run_id, "suspended from outside: it runs in a process of its own")
    interventions.hold(database, flow_run_id, state_name="Suspended")


def resume(
    database: Database,
    flow_run_id: str,
    announce: Announce | None = None,
    *,
    run_input: Any = None,
    key: str | None = None,
    token: str | None = None,
) -> None:
    """Let a paused run go on.

    Args:
        announce: Tells the workers.
        run_input: What it waits for, as JSON has it; None: nothing, which is enough where nothing is required.
        key: The pause that is meant, where its body waits at more than one.
        token: Of the step of a flow's body that does it: a second time it changes nothing.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It is not paused.
        InvalidRunInput: What was given does not fit the schema of what it waits for; it waits on.
    """
    if token is not None and inputs.is_noted(database, token):
        return
    row, pauses = interventions.open_pauses(database, flow_run_id)
    answers = answers_for(row, pauses, run_input, key)
    tell(database, interventions.resume(database, flow_run_id, answers, token=token), announce)


def set_state(
    database: Database,
    flow_run_id: str,
    type: StateType,
    name: str,
    announce: Announce | None = None,
    *,
    force: bool = False,
) -> None:
    """Bring a run into a state, by the verb that does so.

    Cancelling or Cancelled cancels it; Paused pauses it, or suspends it where it is named Suspended; Scheduled retries
    one that has ended; Scheduled or Running resumes one that is paused. No other state can be set: how a run ends is
    written by who carries it out.

    Args:
        type: Of the state that is wanted.
        name: Its name.
        force: Must be false: a state is never written over the run's own.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It cannot be brought into that state.
    """
    row = runs.read(database, flow_run_id)
    now, state_name = StateType(row["state_type"]), str(row["state_name"])
    if force:
        raise IllegalTransition(flow_run_id, state_name, f"forced to be {name}: a state is never written over")
    if type in (StateType.CANCELLING, StateType.CANCELLED):
        cancel(database, flow_run_id, announce)
    elif type is StateType.PAUSED:
        (suspend if name == "Suspended" else pause)(database, flow_run_id)
    elif type is StateType.SCHEDULED and (now in FINAL or state_name == "NonDeterministic"):
        retry(database, flow_run_id, announce)
    elif type in (StateType.SCHEDULED, StateType.RUNNING) and now is StateType.PAUSED:
        resume(database, flow_run_id, announce)
    else:
        refused = (
            f"set {name} by hand: it may be cancelled, paused, resumed where it is paused, and retried (Scheduled) "
            "where it has ended"
        )
        raise IllegalTransition(flow_run_id, state_name, refused)


def send(database: Database, message: Message, announce: Announce | None = None) -> None:
    """Send a message to a run. Safe to repeat.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It has ended.
    """
    tell(database, inputs.send(database, message), announce)


def retry_rollback(
    database: Database,
    flow_run_id: str,
    key: str | None = None,
    announce: Announce | None = None,
    *,
    on_workers_only: bool = False,
) -> TransactionRow:
    """Run the rollback hooks of a transaction that failed, once more: on the run's workers, else in this process.

    Args:
        database: Where the run is.
        flow_run_id: Its id.
        key: Of the transaction; None: the one whose rollback failed, or the only one.
        announce: Tells the workers.
        on_workers_only: Refuse what would run in this process.

    Returns:
        The transaction as it stands then; on workers its rollback goes on.

    Raises:
        FlowRunNotFound: There is no such run.
        TransactionNotFound: It has no such transaction, or several that could be meant.
        IllegalTransition: Its rollback has not failed, or its run has not ended.
    """
    run = runs.read(database, flow_run_id)
    if on_workers_only and run["runner"] == "local":
        wanted = (
            "rolled back by the server, which runs no code of flows: it ran in a process of its own; use "
            f"`orchestra transaction retry {flow_run_id}` where that code is"
        )
        raise IllegalTransition(flow_run_id, f"{run['state_name']}, and local", wanted)
    failed = (
        ()
        if key is not None
        else transactions.page(database, run_id=flow_run_id, states=[Durable.ROLLBACK_FAILED.value])
    )
    # One of several that failed: they are run together.
    row = failed[0] if failed else transactions.find(database, flow_run_id, key)
    due = transactions.retry(database, flow_run_id, row.key, row.run_attempt)
    if run["runner"] == "local":
        nobody_to_tell: Any = None
        run_hooks(database, flow_run_id, row.run_attempt, row.key, nobody_to_tell, heart())
    else:
        tell(database, due, announce)
    return transactions.find(database, flow_run_id, row.key, row.run_attempt)


def delete(database: Database, flow_run_id: str) -> None:
    """Delete an ended run with all that belongs to it.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It has not ended; cancel it first.
    """
    removal.delete(database, flow_run_id)


def _refuse_local(database: Database, flow_run_id: str, wanted: str) -> None:
    row = runs.read(database, flow_run_id)
    if row["runner"] == "local":
        raise IllegalTransition(flow_run_id, f"{row['state_name']}, and local", wanted)


def tell(database: Database, announcements: Sequence[Announcement], announce: Announce | None = None) -> None:
    """Tell workers of rows that are due; where there is no broker, their sweeper finds them."""
    if not announcements:
        return
    try:
        (announce or lazy.load("carrier")().announce)(announcements)
    except NoBroker:
        logger.info("no broker is configured here; the sweeper of a worker announces the run")
        # They were written down as announced.
        unsent.owe_again(database, announcements, at_once=True)
