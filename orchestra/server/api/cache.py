"""`/api/cache`: results that later calls of a task are answered with."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from orchestra.accounts import Scope
from orchestra.server.acts import perform
from orchestra.server.api.shapes import After, Body, Deleted, Key, Limit, Name, Page, Seconds
from orchestra.server.dependencies import Asker, Db
from orchestra.store import cache, cache_records, queries
from orchestra.store.cache_records import CacheEntry

router = APIRouter(prefix="/cache", tags=["cache"])


class Meant(Body):
    """Which entries are meant; all of what is given must be so."""

    task: Name | None = None
    key: Key | None = None
    older_than: Seconds | None = None
    expired: bool = False


@router.get("", response_model=Page[CacheEntry])
def list_cache_entries(
    db: Db,
    limit: Limit = 50,
    after: After = None,
    task: Annotated[Name | None, Query(description="Name or path of their task.")] = None,
    key: Annotated[Key | None, Query(description="Their key or its beginning, or what the policy says.")] = None,
    older_than: Annotated[Seconds | None, Query(description="Seconds since they were written.")] = None,
    expired: Annotated[bool, Query(description="Only those that are no longer used.")] = False,
) -> queries.Page[CacheEntry]:
    """Cached results, the newest first."""
    return cache_records.list_entries(db, cache.Query(task, key, older_than, expired), limit=limit, after=after)


@router.post("/clear")
def clear_cache(db: Db, who: Asker, meant: Meant) -> Deleted:
    """Delete cached results; calls that ask for them compute anew. Results in the history of runs stay."""
    query = cache.Query(meant.task, meant.key, meant.older_than, meant.expired)
    what = f"cached results ({meant.model_dump_json(exclude_defaults=True)})"
    return Deleted(deleted=perform(who, "clear", what, lambda: cache.clear(db, query), needs=Scope.ADMIN))
