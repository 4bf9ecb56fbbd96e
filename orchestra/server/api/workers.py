"""`/api/workers`: the workers, what they consume, and what they are at work on."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from orchestra.server.api.shapes import After, Id, Limit, Name, Page
from orchestra.server.dependencies import Db
from orchestra.store import queries, worker_records
from orchestra.store.worker_records import WorkerRecord

router = APIRouter(prefix="/workers", tags=["workers"])


@router.get("", response_model=Page[WorkerRecord])
def list_workers(
    db: Db,
    limit: Limit = 50,
    after: After = None,
    work_pool_name: Annotated[Name | None, Query(description="Only those that consume a queue of this pool.")] = None,
) -> queries.Page[WorkerRecord]:
    """Workers by name: those that live, and those that died lately."""
    return worker_records.list_workers(db, limit=limit, after=after, pool=work_pool_name)


@router.get("/{name}")
def read_worker(db: Db, name: Id) -> WorkerRecord:
    """A worker by its name, or by the part of it before the `@`."""
    return worker_records.read(db, name)
