"""`/api/task_runs`: what the tasks of flow runs did."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from orchestra.server.api.logs import AfterLine, Level, Line, page_of_lines
from orchestra.server.api.results import result_response
from orchestra.server.api.shapes import (
    After,
    Id,
    Limit,
    OfTags,
    Page,
    Selected,
    StateNames,
    StateTypes,
    TaskRunRead,
    TaskRunSearch,
    task_run_read,
)
from orchestra.server.dependencies import Db
from orchestra.store import journal, queries, search
from orchestra.store.queries import TaskRun
from orchestra.store.tables import Kind

router = APIRouter(prefix="/task_runs", tags=["task runs"])


@router.get("", response_model=Page[TaskRun])
def list_task_runs(
    db: Db,
    limit: Limit = 50,
    after: After = None,
    flow_run_id: Annotated[Id | None, Query(description="Only those of this flow run, in order of asking.")] = None,
    every_attempt: Annotated[bool, Query(description="Also those of earlier attempts of that flow run.")] = False,
    every_kind: Annotated[bool, Query(description="Also subflows, sleeps, pauses and observations.")] = False,
    state_type: StateTypes = [],  # noqa: B006  # as FastAPI wants a list's default; never changed
    state_name: StateNames = [],  # noqa: B006  # likewise
    tag: OfTags = [],  # noqa: B006  # likewise
) -> queries.Page[TaskRun]:
    """Task runs, the newest first; those of one flow run in the order in which it asked for them."""
    return queries.list_task_runs(
        db,
        limit=limit,
        after=after,
        flow_run_id=flow_run_id,
        every_attempt=every_attempt,
        kinds=() if every_kind else (Kind.TASK,),
        state_types=state_type,
        state_names=state_name,
        tags=tag,
    )


@router.post("/filter")
def filter_task_runs(db: Db, wanted: TaskRunSearch) -> list[TaskRun]:
    """Task runs that fit, and whose flow run and flow do."""
    return search.find_task_runs(
        db, wanted.selection(), sort=wanted.sort.value, limit=wanted.limit, offset=wanted.offset
    )


@router.post("/count")
def count_task_runs(db: Db, wanted: Selected) -> int:
    """How many task runs fit."""
    return search.count_task_runs(db, wanted.selection())


@router.get("/{task_run_id}")
def read_task_run(db: Db, task_run_id: Id) -> TaskRunRead:
    """A task run: state, inputs, result or error, upstreams, times."""
    return task_run_read(queries.read_task_run(db, task_run_id))


@router.get("/{task_run_id}/logs")
def read_task_run_logs(
    db: Db, task_run_id: Id, limit: Limit = 200, after: AfterLine = 0, level: Level = None, tail: bool = False
) -> Page[Line]:
    """Log lines of a task run in the order in which they were written; with `tail` the last ones."""
    flow_run_id = queries.read_task_run(db, task_run_id).run.flow_run_id
    return page_of_lines(db, flow_run_id, task_run_id, limit=limit, after=after, level=level, tail=tail)


@router.get(
    "/{task_run_id}/result", response_class=Response, responses={200: {"content": {"application/octet-stream": {}}}}
)
def read_task_run_result(db: Db, task_run_id: Id) -> Response:
    """The result as it is stored: encoded, and signed where loading it could run code. For orchestra's own client."""
    row = journal.step_row(db, task_run_id)
    return result_response(journal.result_of(db, row["run_id"], row["run_attempt"], row["step_key"]))
