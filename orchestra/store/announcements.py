"""Announcements: the messages that are owed for READY rows. The row is the debt; the message only a hint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from orchestra.store.tables import flow_runs, steps


@dataclass(frozen=True, slots=True)
class Announcement:
    """A row that may be claimed from `due_at` on (seconds since the epoch), and where to say so."""

    kind: Literal["flow", "step", "hooks", "pass_on"]
    run_id: str
    run_attempt: int
    #: Of a step; of a `pass_on`, Celery's id of the task.
    step_key: str | None
    name: str
    queue: str
    priority: int | None
    due_at: float
    #: A flow run that was started before: its message travels on the queue for wake-ups.
    wake: bool = False
    #: Seconds from the transaction that made it until `due_at`, by the database's clock: 0 where it is due.
    delay: float = 0.0
    #: It is for workers that have the flow in this version; None: for any.
    version: str | None = None
    #: Of a `pass_on`: the encoded options of the message.
    message: bytes | None = None


#: What a queue's name gets for the queue of its wake-ups.
WAKE_SUFFIX = ".wake"
#: What must be selected or returned of a step to announce it.
STEP_COLUMNS = (
    steps.c.run_id,
    steps.c.run_attempt,
    steps.c.step_key,
    steps.c.name,
    steps.c.queue,
    steps.c.priority,
    steps.c.due_at,
    steps.c.version,
)
#: Likewise of a flow run.
RUN_COLUMNS = (
    flow_runs.c.id,
    flow_runs.c.run_attempt,
    flow_runs.c.flow_name,
    flow_runs.c.queue,
    flow_runs.c.priority,
    flow_runs.c.due_at,
    flow_runs.c.claim_number,
    flow_runs.c.version,
)
#: Of a step: nothing of a run that is held is started. As a value, not EXISTS: never planned as a scan of all runs.
RUN_IS_FREE = (
    sa.select(flow_runs.c.held).where(flow_runs.c.id == steps.c.run_id).correlate(steps).scalar_subquery().is_(None)
)


def of_step(row: Any) -> Announcement:
    """The announcement of a step, from a row of `STEP_COLUMNS`."""
    return Announcement(
        "step", row.run_id, row.run_attempt, row.step_key, row.name, row.queue or "", row.priority, row.due_at or 0.0,
        version=row.version,
    )  # fmt: skip


def of_run(row: Any) -> Announcement:
    """The announcement of a flow run, from a row of `RUN_COLUMNS`."""
    return Announcement(
        "flow",
        row.id,
        row.run_attempt,
        None,
        row.flow_name,
        row.queue or "",
        row.priority,
        row.due_at or 0.0,
        wake=row.claim_number > 0,
        version=row.version,
    )


def of_hooks(row: Any) -> Announcement:
    """The announcement of owed hooks, from a row of theirs; on the queue for wake-ups, as their run has ended."""
    return Announcement(
        "hooks", row.run_id, row.run_attempt, row.step_key, row.name, row.queue or "", row.priority, 0.0, wake=True
    )


def of_steps(rows: Iterable[Any]) -> list[Announcement]:
    """The announcements of steps."""
    return [of_step(row) for row in rows]


def step_is(run_id: str, run_attempt: int, step_key: str) -> tuple[sa.ColumnElement[bool], ...]:
    """The condition that picks one step."""
    return steps.c.run_id == run_id, steps.c.run_attempt == run_attempt, steps.c.step_key == step_key
