"""What code does to the database beside its steps: it makes an artifact, sets a variable.

In a flow's body on a worker that is a step, done once whatever dies. In a task's body it is done each time that the
body runs, under its claim; elsewhere at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.engine import Connection

from orchestra import identifiers
from orchestra.context import flow_run_context, task_run_context, transaction_context
from orchestra.engine import interrupts
from orchestra.engine.journaled import Journaled
from orchestra.engine.slots import step_claim
from orchestra.errors import ClaimLost, Fenced, NotFound
from orchestra.handles import durable_body
from orchestra.runners.base import Runner
from orchestra.runners.local import LocalRunner
from orchestra.runners.steps import Recorded
from orchestra.store import claims
from orchestra.store.claims import Claim
from orchestra.store.database import database, instant
from orchestra.store.journal import Effect

T = TypeVar("T")


def act(name: str, effect: Effect, value: T, inputs: bytes) -> T:
    """Do something to the database, and give `value`. Within `db_transaction()` it is done when that is committed.

    Args:
        name: Of the step that it is in a flow's body on a worker.
        effect: What is done; repeated where the answer to a commit was lost.
        value: What a replay is given.
        inputs: By which a retry of the flow tells whether it is to be done anew.

    Raises:
        OrchestraError: What `effect` raises; nothing was done then.
    """
    runner = _body()
    if isinstance(runner, Journaled):
        return runner.act(name, effect, value, inputs)
    task_run = task_run_context.get()
    if task_run is not None and task_run.atomic is not None:
        task_run.atomic.also(effect)
    elif runner is not None:
        # A body that is only traced, for a canvas, refuses.
        runner.observe(name, lambda: alone(effect))
    else:
        alone(effect, _claim_here())
    return value


def seen(name: str, look: Callable[[], T]) -> T:
    """What `look` gives; in a flow's body on a worker a replay sees the same."""
    runner = _body()
    return look() if runner is None else runner.observe(name, look)


def _body() -> Runner | None:
    """What carries out the calls of the flow's body that asks; None in a task's body and outside of runs."""
    here = flow_run_context.get()
    if here is None or task_run_context.get() is not None:
        return None
    return None if isinstance(here.runner, Journaled) and durable_body() is None else here.runner


def removal(effect: Effect) -> Effect:
    """An effect that removes something: repeated, as the answer to a commit was lost, it may find nothing any more."""
    done: list[bool] = []

    def remove(connection: Connection, moment: float) -> None:
        try:
            effect(connection, moment)
        except NotFound:
            if not done:
                raise
        done.append(True)

    return remove


def may_write_behind() -> bool:
    """Whether the calling code is of a run in this process, whose records are written behind it."""
    flow_run, task_run = flow_run_context.get(), task_run_context.get()
    runner = None if flow_run is None else flow_run.runner
    # Hooks have a runner that records nothing, on workers too.
    if not isinstance(runner, LocalRunner) or not isinstance(runner.book, Recorded):
        return False
    return transaction_context.get() is None and (task_run is None or task_run.atomic is None)


def id_of_made(name: str) -> str:
    """The id of the next thing of this name that the calling code makes.

    In a task's body it is the same when a try is run again after a crash: what that had made is made over.
    """
    task_run = task_run_context.get()
    if task_run is None:
        return identifiers.new_run_id()
    place = (task_run.attempt, name)
    # Both calls are atomic: threads of one body may make things at once.
    count = next(task_run.made.setdefault(place, itertools.count()))
    run_attempt = 1 if task_run.flow_run is None else task_run.flow_run.run_attempt
    return identifiers.made_id(task_run.idempotency_key, run_attempt, task_run.attempt, f"{name}-{count}")


def _claim_here() -> Claim | None:
    """The claim that the task's body runs under, on a worker."""
    if (claim := step_claim.get()) is not None:
        return claim
    flow_run = flow_run_context.get()
    runner = None if flow_run is None or task_run_context.get() is None else flow_run.runner
    return runner.claim if isinstance(runner, Journaled) else None


def alone(effect: Effect, claim: Claim | None = None) -> None:
    """Do something to the database now, in a transaction of its own.

    Args:
        effect: As in `act`.
        claim: Under which the calling code works.

    Raises:
        Fenced: The claim is lost; nothing was done.
    """

    def work(connection: Connection) -> None:
        # Who has lost its claim must not write over what its successor has made.
        if claim is not None:
            claims.check(connection, claim)
        effect(connection, instant(connection))

    try:
        with interrupts.shielded():
            database().write(work)
    except ClaimLost as error:
        raise Fenced(str(error)) from error
