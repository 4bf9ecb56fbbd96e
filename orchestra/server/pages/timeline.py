"""Where the bars of a run's timeline stand: from instants to places in a drawing, as pure functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestra.server.rendering import duration, query
from orchestra.store.run_views import Bar, Timeline

#: The drawing's width, where its axis begins and ends, and the height of a row, in its own units.
WIDTH, LEFT, RIGHT, ROW, TOP = 1200, 210, 1180, 26, 24
#: Steps between two ticks of the axis, in seconds.
_STEPS = (
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800,
    3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800,
)  # fmt: skip
_MOST_TICKS = 9
#: Longest name beside a bar, in characters.
_NAME = 26
_TIMES = "\u00d7"


@dataclass(frozen=True, slots=True)
class Piece:
    """One coloured part of a bar."""

    x: float
    width: float
    state: str


@dataclass(frozen=True, slots=True)
class Row:
    """One bar with its name; places are in the drawing's units."""

    y: float
    name: str
    full_name: str
    href: str
    tries: str
    pieces: tuple[Piece, ...]
    #: Beside or in the bar.
    text: str
    text_x: float
    inside: bool
    title: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """A timeline as it is drawn."""

    height: float
    ticks: tuple[tuple[float, str], ...]
    rows: tuple[Row, ...]


def draw(run_id: str, attempt: int, found: Timeline, now: float) -> Drawing:
    """Lay out the bars of a timeline; what has not ended goes on to `now` (seconds since the epoch)."""
    starts = [bar.start for bar in found.bars if bar.start is not None]
    begin = min(starts, default=now)
    end = max((bar.end or now for bar in found.bars if bar.start is not None), default=begin)
    span = max(end - begin, 0.001)
    scale = (RIGHT - LEFT) / span
    rows = tuple(_row(run_id, attempt, bar, number, begin, now, scale) for number, bar in enumerate(found.bars))
    return Drawing(TOP + ROW * len(rows) + 8, tuple(_ticks(span, scale)) if starts else (), rows)


def _row(run_id: str, attempt: int, bar: Bar, number: int, begin: float, now: float, scale: float) -> Row:
    counts = ", ".join(f"{count:,} {kind.capitalize()}" for kind, count in bar.states.items())
    said = counts if bar.id is None else bar.state_name
    if bar.child_run_id is not None:
        href = f"/runs/{bar.child_run_id}"
    elif bar.id is not None:
        href = f"/task-runs/{bar.id}"
    else:
        href = f"/runs/{run_id}{query(task=bar.task, attempt=attempt)}#steps"
    y = TOP + ROW * number
    count = f" {_TIMES}{bar.count:,}" if bar.id is None else ""
    name = bar.name if len(bar.name) <= _NAME else f"{bar.name[: _NAME - 1]}…"
    tries = f"{_TIMES}{bar.attempt}" if bar.attempt > 1 else count.strip()
    if bar.start is None:
        # It never began: cancelled, failed with what it waited for, or still waiting.
        text = bar.message or said
        return Row(y, name, bar.name, href, tries, (), text[:90], LEFT + 4, False, f"{bar.name}: {said}")
    seconds = max((bar.end or now) - bar.start, 0.0)
    x, width = LEFT + (bar.start - begin) * scale, max(seconds * scale, 3.0)
    text = duration(seconds)
    inside = width > 8 * len(text) + 8
    beyond = x + width + 6 > RIGHT - 40
    text_x = x + 6 if inside else (max(x - 6 - 7 * len(text), LEFT) if beyond else x + width + 6)
    title = f"{bar.name}: {said}, {text}"
    return Row(y, name, bar.name, href, tries, tuple(_pieces(bar, x, width)), text, text_x, inside, title)


def _pieces(bar: Bar, x: float, width: float) -> Iterator[Piece]:
    """A bar of several steps is parted as their states are."""
    for kind, count in bar.states.items():
        part = width * count / bar.count
        yield Piece(round(x, 1), round(max(part, 1.0), 1), kind.lower())
        x += part


def _ticks(span: float, scale: float) -> Iterator[tuple[float, str]]:
    step = next((each for each in _STEPS if span / each <= _MOST_TICKS), span / _MOST_TICKS)
    at = 0.0
    while at <= span * 1.0001:
        yield round(LEFT + at * scale, 1), _label(at, step)
        at += step


def _label(seconds: float, step: float) -> str:
    if step < 1:
        return f"{seconds:.2f}".rstrip("0").rstrip(".") + "s"
    if step < 60:
        return f"{seconds:.0f}s"
    if step < 3600:
        return f"{seconds / 60:.0f}m"
    return f"{seconds / 3600:.0f}h" if step < 86400 else f"{seconds / 86400:.0f}d"
