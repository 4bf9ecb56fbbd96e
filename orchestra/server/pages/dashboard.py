"""The dashboard: what runs now, what is late, what failed, how much ends, and who works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request, Response

from orchestra import clock
from orchestra.server.dependencies import Db, Reader
from orchestra.server.pages.runs import RANGES
from orchestra.server.rendering import PageRoute, render
from orchestra.server.throughput import throughput_of
from orchestra.store import queries, run_lists, workers
from orchestra.store.run_lists import Ended, RunFilter

router = APIRouter(route_class=PageRoute)

#: After how many seconds a run that waits to start is late.
LATE_AFTER = 15.0
#: The ranges of time that it is asked for.
_RANGES = {name: (label, seconds) for name, label, seconds in RANGES if name and seconds}
#: Bars of the throughput, and the drawing's size in its own units.
_PARTS, _WIDTH, _HEIGHT = 48, 960, 80


@dataclass(frozen=True, slots=True)
class Column:
    """One bar of the throughput: runs that ended well below, others above."""

    x: float
    width: float
    good: float
    bad: float
    ended: int
    failed: int


@router.get("/")
def show(request: Request, db: Db, who: Reader, range: Annotated[str, Query()] = "24h") -> Response:
    """All of it, for a range of time."""
    if range not in _RANGES:
        raise HTTPException(422, f"range={range} is none of {', '.join(_RANGES)}")
    label, seconds = _RANGES[range]
    until = clock.now()
    since = until - seconds
    ended = throughput_of(db).ended(db, until, seconds, parts=_PARTS)
    live, waiting = workers.live(db), queries.waiting_by_queue(db)
    slots = workers.slots_of(live)
    return render(
        request,
        "dashboard.html",
        range=range,
        ranges=[(name, text) for name, (text, _) in _RANGES.items()],
        label=label,
        open=run_lists.count_open(db),
        running=run_lists.list_runs(db, RunFilter(states=("RUNNING",)), limit=10).items,
        paused=run_lists.list_runs(db, RunFilter(states=("PAUSED",)), limit=10).items,
        late=run_lists.late(db, seconds=LATE_AFTER, limit=10),
        failed=run_lists.ended_badly(db, since, limit=10),
        columns=_columns(ended),
        completed=sum(part.completed for part in ended),
        bad=sum(part.badly for part in ended),
        total=sum(part.total for part in ended),
        width=_WIDTH,
        height=_HEIGHT,
        queues=[(name, waiting.get(name, 0), slots.get(name, 0)) for name in sorted(set(slots) | set(waiting))],
        workers=live,
    )


def _columns(ended: list[Ended]) -> list[Column]:
    scale = (_HEIGHT - 4) / max([part.total for part in ended] + [1])
    width = _WIDTH / len(ended)
    return [
        Column(
            x=round(number * width + 1, 1),
            width=round(width - 2, 1),
            good=round((part.total - part.badly) * scale, 1),
            bad=round(part.badly * scale, 1),
            ended=part.total,
            failed=part.badly,
        )
        for number, part in enumerate(ended)
    ]
