"""Cached results as people see them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from orchestra import clock
from orchestra.store import places
from orchestra.store.cache import Query, conditions
from orchestra.store.database import Database, now
from orchestra.store.places import Place
from orchestra.store.queries import Page
from orchestra.store.tables import cache_entries


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A cached result as people see it, without its value."""

    key: str
    policy_key: str
    task: str
    task_name: str
    #: Encoded, in bytes.
    size: int
    flow_run_id: str | None
    task_run_id: str | None
    created: datetime | None
    expires: datetime | None
    expired: bool


def list_entries(database: Database, query: Query, *, limit: int, after: str | None = None) -> Page[CacheEntry]:
    """Cached results, the newest first.

    Args:
        limit: Most of them on the page.
        after: `next` of the page before.

    Raises:
        ParameterError: `after` is no such thing.
    """
    column = cache_entries.c
    expired = sa.and_(column.expires_at.is_not(None), column.expires_at <= now())
    shown = (
        column.key, column.policy_key, column.task, column.task_name, column.size, column.run_id, column.step_id,
        column.created_at, column.expires_at,
    )  # fmt: skip
    statement = sa.select(*shown, expired.label("expired")).where(*conditions(query))
    place = places.read(after)
    if place is not None:
        statement = statement.where(sa.tuple_(column.created_at, column.key) < sa.tuple_(*place))
    newest = statement.order_by(column.created_at.desc(), column.key.desc()).limit(limit + 1)
    found = database.read(lambda connection: connection.execute(newest).all())
    last = str(Place(found[limit - 1].created_at, found[limit - 1].key)) if len(found) > limit else None
    return Page(tuple(_entry(row) for row in found[:limit]), last)


def _entry(row: Any) -> CacheEntry:
    return CacheEntry(
        key=row.key,
        policy_key=row.policy_key,
        task=row.task,
        task_name=row.task_name,
        size=row.size,
        flow_run_id=row.run_id,
        task_run_id=row.step_id,
        created=clock.to_datetime(row.created_at),
        expires=clock.to_datetime(row.expires_at),
        expired=row.expired,
    )
