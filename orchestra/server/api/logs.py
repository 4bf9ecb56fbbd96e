"""`/api/logs`: the log lines of runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query

from orchestra.server.api.shapes import LogSearch, Page
from orchestra.server.dependencies import Db
from orchestra.store import logs, search
from orchestra.store.database import Database
from orchestra.store.logs import LogLine

router = APIRouter(prefix="/logs", tags=["logs"])

Level = Annotated[int | None, Query(ge=0, le=1000, description="Only of at least this level: 30 is WARNING.")]
AfterLine = Annotated[int, Query(ge=0, lt=2**63, description="Only behind the line of this id.")]


@dataclass(frozen=True, slots=True)
class Line:
    """A log line of a run."""

    id: int
    flow_run_id: str
    task_run_id: str | None
    #: Of the logger.
    name: str
    level: int
    timestamp: datetime | None
    message: str


@router.post("/filter")
def filter_logs(db: Db, wanted: LogSearch) -> list[Line]:
    """Log lines that fit."""
    found = search.find_logs(db, wanted.tests(), sort=wanted.sort.value, limit=wanted.limit, offset=wanted.offset)
    return [line_of(each) for each in found]


def page_of_lines(
    db: Database,
    flow_run_id: str,
    task_run_id: str | None,
    *,
    limit: int,
    after: int,
    level: int | None,
    tail: bool,
) -> Page[Line]:
    """Lines of a flow run, or of one of its task runs, in the order in which they were written."""
    if tail:
        found = logs.read(db, flow_run_id, step_id=task_run_id, level=level, tail=limit)
        return Page(items=[line_of(each) for each in found], next=None)
    found = logs.read(db, flow_run_id, step_id=task_run_id, level=level, after_id=after, limit=limit + 1)
    more = str(found[limit - 1].id) if len(found) > limit else None
    return Page(items=[line_of(each) for each in found[:limit]], next=more)


def line_of(line: LogLine) -> Line:
    """A line with Prefect's field names."""
    return Line(**line.record())
