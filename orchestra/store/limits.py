"""Concurrency limits as people manage them, by name: made, changed and deleted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import identifiers
from orchestra.errors import Conflict, LimitNotFound
from orchestra.store import slots
from orchestra.store.announcements import Announcement
from orchestra.store.database import Database, insert, now
from orchestra.store.tables import concurrency_limits


def create(
    database: Database, name: str, limit: int, *, active: bool = True, slot_decay_per_second: float = 0.0
) -> None:
    """Make a limit.

    Raises:
        Conflict: There is one of this name.
    """
    limit_id = identifiers.new_run_id()
    values = {
        "id": limit_id,
        "name": name,
        "slot_limit": limit,
        "active": active,
        "slot_decay_per_second": slot_decay_per_second,
        "created_at": now(),
        "updated_at": now(),
    }

    def work(connection: Connection) -> str:
        connection.execute(insert(connection, concurrency_limits).values(values).on_conflict_do_nothing())
        # The answer to an earlier try may have been lost: then it is ours that is there.
        return str(connection.scalar(sa.select(concurrency_limits.c.id).where(concurrency_limits.c.name == name)))

    if database.write(work) != limit_id:
        raise Conflict(f"there is a concurrency limit {name!r} already: update it, or choose another name")


def update(database: Database, name: str, changes: Mapping[str, Any]) -> list[Announcement]:
    """Change columns of a limit, and hand on what became free; who has slots keeps them. Returns what to announce.

    Raises:
        LimitNotFound: There is none of this name.
    """
    statement = sa.update(concurrency_limits).where(concurrency_limits.c.name == name)
    if not database.write(
        lambda connection: connection.execute(statement.values(**changes, updated_at=now())).rowcount
    ):
        raise LimitNotFound(name)
    return slots.serve(database, [name])


def delete(database: Database, name: str) -> list[Announcement]:
    """Delete a limit: who waits for it goes on. Returns what to announce.

    Raises:
        LimitNotFound: There is none of this name.
    """
    statement = sa.delete(concurrency_limits).where(concurrency_limits.c.name == name)
    if not database.write(lambda connection: connection.execute(statement).rowcount):
        raise LimitNotFound(name)
    return slots.serve(database, [name])
