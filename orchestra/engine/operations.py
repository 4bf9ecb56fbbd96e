"""What people do to runs, wherever those run: cancel, retry, pause, suspend, resume, send to, delete.

One place for handles, the command line and the API.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from orchestra import lazy
from orchestra.engine.answers import answers_for
from orchestra.errors import IllegalTransition, NoBroker
from orchestra.questions import Message
from orchestra.store import inputs, interventions, runs, unsent
from orchestra.store.announcements import Announcement
from orchestra.store.database import Database

logger = logging.getLogger("orchestra.engine")

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


def retry(database: Database, flow_run_id: str, announce: Announce | None = None) -> None:
    """Run an ended run again from where it failed, or replay one that is held as NonDeterministic.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It has not ended.
    """
    _refuse_local(database, flow_run_id, "retried on a worker: it ran in a process of its own; call the flow again")
    tell(database, interventions.retry(database, flow_run_id), announce)


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


def send(database: Database, message: Message, announce: Announce | None = None) -> None:
    """Send a message to a run. Safe to repeat.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It has ended.
    """
    tell(database, inputs.send(database, message), announce)


def delete(database: Database, flow_run_id: str) -> None:
    """Delete an ended run with all that belongs to it.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It has not ended; cancel it first.
    """
    interventions.delete(database, flow_run_id)


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
