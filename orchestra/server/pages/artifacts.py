"""Artifacts: the newest of each key, the versions of one key, and one by itself, rendered so that it can do no harm."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse

from orchestra import artifacts as kept
from orchestra.server import acts
from orchestra.server.dependencies import Db, Reader, Runner
from orchestra.server.rendering import PageRoute, render
from orchestra.store import artifacts, queries
from orchestra.store.queries import page_of

router = APIRouter(route_class=PageRoute)

_LIMIT = 50
TYPES = ("markdown", "table", "image", "progress")
#: Rows of a table that are shown.
ROWS = 1000


@router.get("/artifacts")
def show_all(
    request: Request, db: Db, who: Reader, type: str = "", key: str = "", run: str = "", after: str | None = None
) -> Response:
    """The newest of each key; of one key, or of one run, all."""
    after = after or None
    if key or run:
        wanted = artifacts.Query(key=key or None, flow_run_id=run or None, type=type or None)
        found = artifacts.page(db, wanted, limit=_LIMIT + 1, after=after, with_data=False)
    else:
        found = artifacts.page_latest(db, type=type or None, limit=_LIMIT + 1, after=after, with_data=False)
    page = page_of(found, _LIMIT, lambda each: each.id)
    return render(request, "artifacts.html", page=page, after=after, type=type, types=TYPES, key=key, run_id=run)


@router.get("/artifacts/{artifact_id}")
def show(request: Request, db: Db, who: Reader, artifact_id: str) -> Response:
    """One, as its type is shown."""
    found = artifacts.read(db, artifact_id)
    run = None if found.flow_run_id is None else queries.find_flow_run(db, found.flow_run_id)
    return render(request, "artifact.html", artifact=found, run=run, table=kept.table_of(found, ROWS))


@router.post("/artifacts/{artifact_id}/delete")
def delete(who: Runner, artifact_id: str) -> Response:
    """Delete it; the version before it is the newest of its key then."""
    acts.perform(who, "delete", f"artifact {artifact_id}", lambda: kept.delete(artifact_id))
    return RedirectResponse("/artifacts?done=deleted", 303)
