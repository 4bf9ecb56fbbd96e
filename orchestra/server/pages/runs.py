"""The list of runs: filters in the address, pages by key, and acts on all that match."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request, Response

from orchestra import clock
from orchestra.server import acts
from orchestra.server.bulk import Verb, act_of
from orchestra.server.dependencies import Db, Reader, Runner
from orchestra.server.rendering import PageRoute, render
from orchestra.store import deployments, queries, run_lists
from orchestra.store.run_lists import RunFilter

router = APIRouter(route_class=PageRoute)

#: Runs that one act is done to at most.
MOST = 1000
#: Tags, and states, of one filter at most.
_MOST_NAMES = 20
#: The chips: a type of state, or the name of one.
KINDS = (
    ("RUNNING", "Running"),
    ("PENDING", "Pending"),
    ("SCHEDULED", "Scheduled"),
    ("PAUSED", "Paused"),
    ("COMPLETED", "Completed"),
    ("FAILED", "Failed"),
    ("CRASHED", "Crashed"),
    ("CANCELLED", "Cancelled"),
)
#: How far back a list goes: its name in the address, what people read, seconds.
RANGES = (
    ("", "All time", None),
    ("15m", "Last 15 minutes", 900.0),
    ("1h", "Last hour", 3600.0),
    ("6h", "Last 6 hours", 6 * 3600.0),
    ("24h", "Last 24 hours", 24 * 3600.0),
    ("7d", "Last 7 days", 7 * 86400.0),
    ("30d", "Last 30 days", 30 * 86400.0),
)
_SECONDS = {name: seconds for name, _, seconds in RANGES}
#: What an act does, for its confirmation.
MEANINGS = {
    "cancel": "Nothing more of them is started, running bodies are interrupted, and their child runs are cancelled "
    "too. A run that has ended stays as it is.",
    "retry": "Each goes on in a new attempt: what completed is kept, what did not is run again. "
    "A run that has not ended stays as it is.",
    "delete": "With their child runs, steps, results and logs. This cannot be undone. A run that has not ended stays.",
}

States = Annotated[list[str], Query()]
Ids = Annotated[list[str], Query()]


def filter_of(
    state: States = [],  # noqa: B006  # FastAPI copies it
    flow: str = "",
    deployment: str = "",
    tags: str = "",
    text: str = "",
    range: str = "",
    by: str = "created",
    top: bool = False,
    parent: str = "",
) -> RunFilter:
    """The filter that an address tells.

    Raises:
        HTTPException: No such range of time, or too many names.
    """
    if range not in _SECONDS:
        raise HTTPException(422, f"range={range} is none of {', '.join(name for name in _SECONDS if name)}")
    seconds = _SECONDS[range]
    names = tuple(tag.strip() for tag in tags.split(",") if tag.strip())
    if max(len(names), len(state)) > _MOST_NAMES:
        raise HTTPException(422, f"at most {_MOST_NAMES} tags and {_MOST_NAMES} states can be asked for")
    return RunFilter(
        states=tuple(dict.fromkeys(state)),
        flow_name=flow.strip(),
        deployment_id=deployment,
        tags=names,
        text=text.strip(),
        since=None if seconds is None else clock.now() - seconds,
        by_end=by == "end",
        parent_run_id=parent,
        top_only=top,
    )


Wanted = Annotated[RunFilter, Depends(filter_of)]


@router.get("/runs")
def show(request: Request, db: Db, who: Reader, wanted: Wanted, range: str = "", after: str | None = None) -> Response:
    """The runs that match, the newest first."""
    return render(
        request,
        "runs.html",
        wanted=wanted,
        page=run_lists.list_runs(db, wanted, after=after or None),
        after=after,
        kinds=KINDS,
        range=range,
        ranges=[(name, label) for name, label, _ in RANGES],
        flow_names=queries.flow_names(db, limit=100),
        deployments=deployments.names(db, limit=200),
    )


@router.get("/runs/acts")
def confirm(
    request: Request,
    db: Db,
    who: Runner,
    act: str,
    wanted: Wanted,
    run: Ids = [],  # noqa: B006  # FastAPI copies it
) -> Response:
    """Ask whether to do something to the chosen runs, or to all that match where none is chosen; says how many."""
    _known(act)
    found = run_lists.named(db, run[:MOST]) if run else run_lists.matching(db, wanted, limit=MOST + 1)
    return render(
        request,
        "confirm.html",
        act=act,
        meaning=MEANINGS[act],
        runs=found[:MOST],
        ids=" ".join(each.id for each in found[:MOST]),
        more=len(found) > MOST,
        one=run[0] if len(run) == 1 else None,
    )


@router.post("/runs/acts")
def do(request: Request, db: Db, who: Runner, act: Annotated[str, Form()], ids: Annotated[str, Form()]) -> Response:
    """Do it to each of them, and tell of each what became of it."""
    done = acts.perform_each(who, act, "flow run", ids.split()[:MOST], act_of(db, _known(act)))
    finished = [each for each in done if each.done]
    refused = [each for each in done if not each.done]
    return render(
        request,
        "outcomes.html",
        verb=act.capitalize(),
        done=len(finished),
        finished=[] if act == "delete" else finished,
        refused=refused,
    )


def _known(act: str) -> Verb:
    if act not in MEANINGS:
        raise HTTPException(422, f"act={act} is none of {', '.join(MEANINGS)}")
    return cast("Verb", act)
