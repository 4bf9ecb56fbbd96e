"""The page of one run: timeline, graph, tasks, logs, values, history; each part can be asked for alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from starlette.responses import StreamingResponse

from orchestra import clock
from orchestra.artifacts import table_of
from orchestra.names import visible
from orchestra.server.dependencies import Db, Reader
from orchestra.server.pages import timeline
from orchestra.server.pages.artifacts import ROWS
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
    asked = _Asked(request, db, run_id)
    run = asked.details.run
    parts = {name: value for each in _PARTS.values() for name, value in each(asked).items()}
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
    return render(request, f"run/{part}.html", **_PARTS[part](_Asked(request, db, run_id)))


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


class _Asked:
    """A run that is asked for, or a part of it; what several parts show is read once."""

    def __init__(self, request: Request, db: Database, run_id: str) -> None:
        self.request, self.db, self.run_id = request, db, run_id
        self.words = request.query_params

    @cached_property
    def details(self) -> queries.FlowRunDetails:
        """The run."""
        return queries.read_flow_run(self.db, self.run_id)

    @cached_property
    def attempts(self) -> int:
        """How many it has had."""
        return run_views.attempts(self.db, self.run_id)

    @property
    def attempt(self) -> int:
        """The one that is shown."""
        wanted = _number(self.words.get("attempt"))
        return self.attempts if wanted is None else min(max(wanted, 1), self.attempts)


def _head(asked: _Asked) -> dict[str, Any]:
    """State, times, what it waits for, and what can be done."""
    details = asked.details
    waiting = run_views.Waiting() if details.run.is_final else run_views.why_waiting(asked.db, asked.run_id)
    served = workers.slots_by_queue(asked.db) if waiting.queues else {}
    return {
        "details": details,
        "run": details.run,
        "waiting": waiting,
        "unserved": sorted(set(waiting.queues) - set(served)),
        "counts": run_views.counts(asked.db, asked.run_id),
        "is_paused": details.run.state_type == StateType.PAUSED,
    }


def _result(asked: _Asked) -> dict[str, Any]:
    return {"details": asked.details, "run": asked.details.run}


def _timeline(asked: _Asked) -> dict[str, Any]:
    found = run_views.timeline(asked.db, asked.run_id, asked.attempt)
    drawing = timeline.draw(asked.run_id, asked.attempt, found, clock.now())
    return {
        "run_id": asked.run_id,
        "timeline": found,
        "drawing": drawing,
        "attempt": asked.attempt,
        "attempts": asked.attempts,
        "layout": timeline,
    }


def _steps(asked: _Asked) -> dict[str, Any]:
    run, words = asked.details.run, asked.words
    after = words.get("after") or None
    states = words.getlist("step_state")
    page = run_views.list_steps(
        asked.db,
        asked.run_id,
        attempt=asked.attempt,
        task=words.get("task", ""),
        states=[each for each in states if each],
        text=words.get("step_text", ""),
        after=after,
    )
    return {
        "run_id": asked.run_id,
        "steps": page,
        "steps_after": after,
        "task": words.get("task", ""),
        "task_name": run_views.short_name(words.get("task", "")),
        "step_states": states,
        "step_text": words.get("step_text", ""),
        "attempt": asked.attempt,
        "attempts": asked.attempts,
        "kinds": [kind.value for kind in StateType],
        "is_retryable": run.is_final and run.runner != "local",
        "chosen_kinds": reruns.CHOSEN_KINDS,
    }


def _logs(asked: _Asked) -> dict[str, Any]:
    level, text = asked.words.get("level", ""), asked.words.get("log_text", "")
    before = _number(asked.words.get("before"))
    return {
        "run_id": asked.run_id,
        "log": run_views.log_page(asked.db, asked.run_id, level=_level(level), text=text, before=before),
        "level": level,
        "levels": LEVELS,
        "log_text": text,
        "before": asked.words.get("before", ""),
        "span": run_views.LINES,
    }


def _history(asked: _Asked) -> dict[str, Any]:
    children = queries.list_flow_runs(asked.db, parent_flow_run_id=asked.run_id, limit=20)
    return {"run_id": asked.run_id, "states": asked.details.states, "children": children}


def _artifacts(asked: _Asked) -> dict[str, Any]:
    found = artifacts.page(asked.db, artifacts.Query(flow_run_id=asked.run_id), limit=10)
    return {"run_id": asked.run_id, "artifacts": [(each, table_of(each, ROWS)) for each in found]}


def _events(asked: _Asked) -> dict[str, Any]:
    found, _ = events.page(asked.db, events.EventFilter(flow_run_id=asked.run_id), limit=12)
    return {"run_id": asked.run_id, "events": found}


def _level(text: str) -> int:
    return _number(text) or 0


def _number(text: str | None) -> int | None:
    """A number of an address; None where it is none."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 16 else None


_PARTS: dict[str, Callable[[_Asked], dict[str, Any]]] = {
    "head": _head,
    "timeline": _timeline,
    "steps": _steps,
    "logs": _logs,
    "result": _result,
    "artifacts": _artifacts,
    "events": _events,
    "history": _history,
}
