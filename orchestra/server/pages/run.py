"""The page of one run: timeline, graph, tasks, logs, values, history; each part can be asked for alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from starlette.responses import StreamingResponse

from orchestra import clock
from orchestra.names import visible
from orchestra.server.dependencies import Db, Reader
from orchestra.server.pages import timeline
from orchestra.server.pages.artifacts import table_of
from orchestra.server.rendering import PageRoute, query, render
from orchestra.states import StateType
from orchestra.store import artifacts, events, logs, queries, reruns, run_views, workers
from orchestra.store.database import Database

router = APIRouter(route_class=PageRoute)

#: Levels a log is filtered by.
LEVELS = (("", "All levels"), ("20", "Info and above"), ("30", "Warnings and above"), ("40", "Errors"))
#: For so long after the end of a run its page follows it: log lines are written behind, in seconds.
_WRITTEN_BEHIND = 5.0
#: Lines that are read at once for a download.
_CHUNK = 2000


@router.get("/runs/{run_id}")
def show(request: Request, db: Db, who: Reader, run_id: str) -> Response:
    """The whole page."""
    details = queries.read_flow_run(db, run_id)
    run = details.run
    parts = {name: value for each in _PARTS.values() for name, value in each(request, db, run_id).items()}
    return render(
        request,
        "run.html",
        **parts,
        parent=None if run.parent_flow_run_id is None else queries.find_flow_run(db, run.parent_flow_run_id),
        is_live=run.end_time is None or clock.now() - clock.to_instant(run.end_time) < _WRITTEN_BEHIND,
    )


@router.get("/runs/{run_id}/parts/{part}")
def show_part(request: Request, db: Db, who: Reader, run_id: str, part: str) -> Response:
    """One part of it, as it is now."""
    if part not in _PARTS:
        raise HTTPException(404, f"the page of a run has no part {part!r}")
    return render(request, f"run/{part}.html", **_PARTS[part](request, db, run_id))


@router.get("/runs/{run_id}/graph.json")
def graph(db: Db, who: Reader, run_id: str) -> dict[str, Any]:
    """The graph of its present attempt, to be laid out in the browser."""
    found, total = run_views.graph(db, run_id)
    nodes = [
        {
            "key": each.key,
            "name": each.name,
            "count": each.count,
            "states": each.states,
            "href": _place_of(run_id, each),
            "upstream": each.upstream,
            "ordered": each.ordered,
        }
        for each in found
    ]
    return {"nodes": nodes, "total": total, "grouped": any(each.count > 1 for each in found)}


@router.get("/runs/{run_id}/logs.txt")
def download(db: Db, who: Reader, run_id: str, level: str = "", task: str = "") -> Response:
    """All its lines of a level, as a file."""
    queries.flow_run_state(db, run_id)
    headers = {"Content-Disposition": f'attachment; filename="run-{run_id}.log"'}
    return StreamingResponse(
        _log_text(db, run_id, _level(level), task or None), media_type="text/plain", headers=headers
    )


def _log_text(db: Database, run_id: str, level: int, step_id: str | None) -> Iterator[str]:
    last = 0
    while lines := logs.read(db, run_id, step_id=step_id, level=level or None, after_id=last, limit=_CHUNK):
        last = lines[-1].id
        for line in lines:
            when = datetime.fromtimestamp(line.timestamp, UTC).isoformat(timespec="milliseconds")
            # Lines of one message stay; what a terminal would obey does not.
            said = "\n".join(map(visible, line.message.split("\n")))
            yield f"{when} {line.level_name:<8} {visible(line.logger)}: {said}\n"


def _place_of(run_id: str, vertex: run_views.Vertex) -> str:
    if vertex.child_run_id is not None:
        return f"/runs/{vertex.child_run_id}"
    if vertex.id is not None:
        return f"/task-runs/{vertex.id}"
    return f"/runs/{run_id}{query(task=vertex.task)}#steps"


# -- parts -------------------------------------------------------------------------------------------------------


def _head(request: Request, db: Database, run_id: str) -> dict[str, Any]:
    """State, times, what it waits for, and what can be done."""
    details = queries.read_flow_run(db, run_id)
    waiting = run_views.Waiting() if details.run.is_final else run_views.why_waiting(db, run_id)
    served = workers.slots_by_queue(db) if waiting.queues else {}
    return {
        "details": details,
        "run": details.run,
        "waiting": waiting,
        "unserved": sorted(set(waiting.queues) - set(served)),
        "counts": _counts(db, run_id),
        "is_paused": details.run.state_type == StateType.PAUSED,
    }


def _result(request: Request, db: Database, run_id: str) -> dict[str, Any]:
    details = queries.read_flow_run(db, run_id)
    return {"details": details, "run": details.run}


def _counts(db: Database, run_id: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in queries.step_counts(db, run_id):
        if each.kind in run_views.SHOWN_KINDS:
            found[each.state_type] = found.get(each.state_type, 0) + each.count
    return found


def _timeline(request: Request, db: Database, run_id: str) -> dict[str, Any]:
    attempts = run_views.attempts(db, run_id)
    attempt = _attempt(request, attempts)
    found = run_views.timeline(db, run_id, attempt)
    drawing = timeline.draw(run_id, attempt, found, clock.now())
    return {
        "run_id": run_id,
        "timeline": found,
        "drawing": drawing,
        "attempt": attempt,
        "attempts": attempts,
        "layout": timeline,
    }


def _steps(request: Request, db: Database, run_id: str) -> dict[str, Any]:
    attempts = run_views.attempts(db, run_id)
    attempt = _attempt(request, attempts)
    run = queries.find_flow_run(db, run_id)
    asked = request.query_params
    after = asked.get("after") or None
    states = asked.getlist("step_state")
    page = run_views.list_steps(
        db,
        run_id,
        attempt=attempt,
        task=asked.get("task", ""),
        states=[each for each in states if each],
        text=asked.get("step_text", ""),
        after=after,
    )
    return {
        "run_id": run_id,
        "steps": page,
        "steps_after": after,
        "task": asked.get("task", ""),
        "task_name": run_views.short_name(asked.get("task", "")),
        "step_states": states,
        "step_text": asked.get("step_text", ""),
        "attempt": attempt,
        "attempts": attempts,
        "kinds": [kind.value for kind in StateType],
        "is_retryable": run is not None and run.is_final and run.runner != "local",
        "chosen_kinds": reruns.CHOSEN_KINDS,
    }


def _logs(request: Request, db: Database, run_id: str) -> dict[str, Any]:
    asked = request.query_params
    level, text = asked.get("level", ""), asked.get("log_text", "")
    page = run_views.log_page(db, run_id, level=_level(level), text=text, before=_number(asked.get("before")))
    return {
        "run_id": run_id,
        "log": page,
        "level": level,
        "levels": LEVELS,
        "log_text": text,
        "before": asked.get("before", ""),
    }


def _history(request: Request, db: Database, run_id: str) -> dict[str, Any]:
    children = queries.list_flow_runs(db, parent_flow_run_id=run_id, limit=20)
    return {"run_id": run_id, "states": queries.state_history(db, run_id), "children": children}


def _artifacts(request: Request, db: Database, run_id: str) -> dict[str, Any]:
    found = artifacts.page(db, artifacts.Query(flow_run_id=run_id), limit=10)
    return {"run_id": run_id, "artifacts": [(each, table_of(each)) for each in found]}


def _events(request: Request, db: Database, run_id: str) -> dict[str, Any]:
    found, _ = events.page(db, events.EventFilter(flow_run_id=run_id), limit=12)
    return {"run_id": run_id, "events": found}


def _attempt(request: Request, newest: int) -> int:
    wanted = _number(request.query_params.get("attempt"))
    return newest if wanted is None else min(max(wanted, 1), newest)


def _level(text: str) -> int:
    return _number(text) or 0


def _number(text: str | None) -> int | None:
    """A number of an address; None where it is none."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 16 else None


_PARTS: dict[str, Callable[[Request, Database, str], dict[str, Any]]] = {
    "head": _head,
    "timeline": _timeline,
    "steps": _steps,
    "logs": _logs,
    "result": _result,
    "artifacts": _artifacts,
    "events": _events,
    "history": _history,
}
