"""`/api/cache`: results that later calls of a task are answered with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from orchestra import clock
from orchestra.accounts import Scope
from orchestra.errors import ParameterError
from orchestra.server.acts import perform
from orchestra.server.api.shapes import After, Body, Key, Limit, Name, Page, Seconds
from orchestra.server.dependencies import Asker, Db
from orchestra.store import cache
from orchestra.store.cache import Entry

router = APIRouter(prefix="/cache", tags=["cache"])


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """A cached result, without its value."""

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


class Meant(Body):
    """Which entries are meant; all of what is given must be so."""

    task: Name | None = None
    key: Key | None = None
    older_than: Seconds | None = None
    expired: bool = False


class Cleared(Body):
    """How many entries were deleted."""

    deleted: int


@router.get("")
def list_cache_entries(
    db: Db,
    limit: Limit = 50,
    after: After = None,
    task: Annotated[Name | None, Query(description="Name or path of their task.")] = None,
    key: Annotated[Key | None, Query(description="Their key or its beginning, or what the policy says.")] = None,
    older_than: Annotated[Seconds | None, Query(description="Seconds since they were written.")] = None,
    expired: Annotated[bool, Query(description="Only those that are no longer used.")] = False,
) -> Page[CacheEntry]:
    """Cached results, the newest first."""
    query = cache.Query(task, key, older_than, expired)
    found = cache.entries(db, query, limit=limit + 1, after=_place(after))
    last = f"{found[limit - 1].created_at!r}/{found[limit - 1].key}" if len(found) > limit else None
    return Page(items=[_entry(each) for each in found[:limit]], next=last)


@router.post("/clear")
def clear_cache(db: Db, who: Asker, meant: Meant) -> Cleared:
    """Delete cached results; calls that ask for them compute anew. Results in the history of runs stay."""
    query = cache.Query(meant.task, meant.key, meant.older_than, meant.expired)
    what = f"cached results ({meant.model_dump_json(exclude_defaults=True)})"
    return Cleared(deleted=perform(who, "clear", what, lambda: cache.clear(db, query), needs=Scope.ADMIN))


def _place(after: str | None) -> tuple[float, str] | None:
    if after is None:
        return None
    created, _, key = after.partition("/")
    try:
        return float(created), key
    except ValueError as error:
        raise ParameterError(f"after={after!r} is not the `next` of a page") from error


def _entry(row: Entry) -> CacheEntry:
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
