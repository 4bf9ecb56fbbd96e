"""Outcomes of runs that are owed to canvases of users' own, and who passes them on.

The debt is a row, `pass_ons`: owed while its run is DONE and `passed_at` is null. The message `orchestra.pass_on` is a
hint, as ever; whoever gets it claims the row for a lease, hands Celery the outcome, and notes that Celery has gone on.
A crash between leaves the row owed, so that it is passed on again when the lease is over: at least once, and twice only
where a process died between Celery's going on and the note of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import settings
from orchestra.errors import FlowRunNotFound
from orchestra.failpoints import failpoint
from orchestra.store.announcements import RUN_COLUMNS, Announcement
from orchestra.store.database import Database, insert, now
from orchestra.store.tables import Phase, flow_runs, pass_ons, phase_is

#: The longest time from one message of a row to the next, in seconds, where the lease is no longer.
_LONGEST_AHEAD = 600.0


@dataclass(frozen=True, slots=True)
class PassOn:
    """A Celery task that a run stands for."""

    #: Celery's id of it.
    task_id: str
    #: The encoded options of its signature.
    message: bytes


def keep(connection: Connection, run_id: str, pass_on: PassOn) -> None:
    """Owe a run's outcome to a Celery task. Repeating it changes nothing, also where it was passed on already."""
    values = {"run_id": run_id, "task_id": pass_on.task_id, "message": pass_on.message, "created_at": now()}
    connection.execute(insert(connection, pass_ons).values(**values).on_conflict_do_nothing())


def due(connection: Connection, run_id: str) -> list[Announcement]:
    """What is to be sent now that a run ends, in the transaction that ends it; asked where `passes_on` says so.

    A crash before it is sent costs a lease.
    """
    connection.execute(sa.update(pass_ons).where(pass_ons.c.run_id == run_id, _OPEN).values(announce_at=_lease_ahead()))
    return [_announcement(row) for row in connection.execute(_OWED.where(pass_ons.c.run_id == run_id))]


def take_owed(database: Database, *, limit: int = 500) -> list[Announcement]:
    """Take up to `limit` messages that are owed and were not sent, or seem lost; they are owed again a lease ahead.

    The time from one to the next grows, so that they do not pile up where nobody consumes their queue.
    """
    query = _OWED.where(phase_is(flow_runs, Phase.DONE), *_NOT_UNDER_WAY).order_by(pass_ons.c.created_at).limit(limit)
    if not database.read(lambda connection: connection.execute(query).all()):
        return []

    def work(connection: Connection) -> list[Announcement]:
        rows = connection.execute(query).all()
        for row in rows:
            ahead = max(settings.current().lease_seconds, min(row.waited or 0.0, _LONGEST_AHEAD))
            connection.execute(_this(row.id, row.task_id).values(announce_at=now() + ahead))
        return [_announcement(row) for row in rows]

    return database.write(work)


def owe_again(connection: Connection, announcement: Announcement) -> None:
    """The broker did not take it: the sweeper sends it after a sweep."""
    assert announcement.step_key is not None
    ahead = now() + settings.current().sweep_seconds
    connection.execute(_this(announcement.run_id, announcement.step_key).where(_OPEN).values(announce_at=ahead))


def begin(database: Database, run_id: str, pass_on: PassOn) -> bool:
    """Claim a debt, for a lease; false where the run has not ended, somebody else is at it, or it is paid.

    A task that comes before the end of its run is kept, and told of that. Where a commit's answer was lost, the claim
    looks like somebody else's, and the debt waits for a lease.

    Raises:
        FlowRunNotFound: The run was deleted.
    """
    failpoint("before_begin_pass_on")
    begun = database.write(lambda connection: _begin(connection, run_id, pass_on))
    failpoint("after_begin_pass_on")
    return begun


def _begin(connection: Connection, run_id: str, pass_on: PassOn) -> bool:
    # Locked: an end of the run either was committed before, or finds what is kept here.
    query = sa.select(flow_runs.c.phase, flow_runs.c.passes_on).where(flow_runs.c.id == run_id).with_for_update()
    run = connection.execute(query).first()
    if run is None:
        raise FlowRunNotFound(run_id)
    keep(connection, run_id, pass_on)
    if run.phase != Phase.DONE:
        if not run.passes_on:
            connection.execute(sa.update(flow_runs).where(flow_runs.c.id == run_id).values(passes_on=True))
        return False
    claim = _this(run_id, pass_on.task_id).where(_OPEN, _FREE).values(lease_until=_lease_ahead())
    return connection.execute(claim.returning(pass_ons.c.task_id)).first() is not None


def end(database: Database, run_id: str, task_id: str) -> None:
    """Note that Celery has gone on: nothing is owed any more. Safe to repeat.

    A crash just before it: Celery is told again, a lease later.
    """
    failpoint("before_end_pass_on")
    values = {"passed_at": now(), "message": None, "announce_at": None, "lease_until": None}
    database.write(lambda connection: connection.execute(_this(run_id, task_id).values(**values)).rowcount)
    failpoint("after_end_pass_on")


def _this(run_id: str, task_id: str) -> Any:
    return sa.update(pass_ons).where(pass_ons.c.run_id == run_id, pass_ons.c.task_id == task_id)


def _lease_ahead() -> Any:
    return now() + settings.current().lease_seconds


def _announcement(row: Any) -> Announcement:
    # On the queue of wake-ups, which overtakes what waits to be started.
    return Announcement(
        "pass_on", row.id, row.run_attempt, row.task_id, row.flow_name, row.queue or "", row.priority, 0.0,
        wake=True, message=row.message,
    )  # fmt: skip


_OPEN = pass_ons.c.passed_at.is_(None)
_FREE = sa.or_(pass_ons.c.lease_until.is_(None), pass_ons.c.lease_until <= now())
_NOT_UNDER_WAY: Sequence[Any] = (sa.or_(pass_ons.c.announce_at.is_(None), pass_ons.c.announce_at <= now()), _FREE)
_OWED = (
    sa.select(*RUN_COLUMNS, pass_ons.c.task_id, pass_ons.c.message, (now() - flow_runs.c.end_time).label("waited"))
    .select_from(pass_ons)
    .join(flow_runs, flow_runs.c.id == pass_ons.c.run_id)
    .where(_OPEN)
)
