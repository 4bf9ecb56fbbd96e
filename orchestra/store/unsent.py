"""Announcements that the broker did not take: their rows are owed again, soon."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import settings
from orchestra.store import pass_ons
from orchestra.store.announcements import Announcement, step_is
from orchestra.store.database import Database, now
from orchestra.store.tables import Phase, flow_runs, owed_hooks, phase_is, steps


def owe_again(database: Database, announcements: Sequence[Announcement], *, at_once: bool = False) -> None:
    """Have the sweeper announce these rows again after a sweep, if nobody has claimed them. Safe to repeat.

    A crash before it costs a lease instead.

    Args:
        at_once: Not after a sweep: nobody could send them here, and no broker has refused them.
    """
    values = {"announce_at": now() + (0.0 if at_once else settings.current().sweep_seconds), "announced_at": None}

    def work(connection: Connection) -> None:
        for announcement in announcements:
            if announcement.kind == "pass_on":
                pass_ons.owe_again(connection, announcement)
                continue
            table, this = _row(announcement)
            owed = phase_is(table, Phase.READY), table.c.due_at <= now()
            connection.execute(sa.update(table).where(*this, *owed).values(**values))

    database.write(work)


def _row(announcement: Announcement) -> tuple[sa.Table, tuple[sa.ColumnElement[bool], ...]]:
    if announcement.kind == "hooks":
        column = owed_hooks.c
        of_run = column.run_id == announcement.run_id, column.run_attempt == announcement.run_attempt
        return owed_hooks, (*of_run, column.step_key == announcement.step_key)
    if announcement.step_key is None:
        return flow_runs, (flow_runs.c.id == announcement.run_id,)
    return steps, step_is(announcement.run_id, announcement.run_attempt, announcement.step_key)
