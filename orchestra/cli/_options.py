"""Options that several commands have: durations, ages, instants, job variables."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import rich_click as click

from orchestra import clock
from orchestra.cli import _support

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)[a-z]*\s*(?:and\s+|,\s*)?", re.IGNORECASE)
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", re.IGNORECASE)


def duration(ctx: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """Seconds, from `90`, `15m`, `2h 30m` or `2 hours`."""
    if value is None:
        return None
    total, place, text = 0.0, 0, value.strip()
    while place < len(text):
        part = _PART.match(text, place)
        if part is None:
            raise click.BadParameter(f"{value!r} is no time: write 90 (seconds), 15m, or '2h 30m'", ctx, option)
        total += float(part[1]) * _UNITS[part[2].lower() or "s"]
        place = part.end()
    if not total:
        raise click.BadParameter(f"{value!r} is no time", ctx, option)
    return total


def age_in(unit: str) -> Callable[[click.Context, click.Parameter, str | None], float | None]:
    """Reads an age: seconds, from a number and a unit, as `7d`; from a number alone of this unit, where one is given.

    One unit of one letter: what is older goes, so that nothing may be taken for less than was meant (as 3mo).
    """

    def read(ctx: click.Context, option: click.Parameter, text: str | None) -> float | None:
        if text is None:
            return None
        found = _AGE.fullmatch(text.strip())
        if found is None or not (found[2] or unit):
            raise click.BadParameter(
                f"{text!r} is no length of time: give a number and s, m, h, d or w, as in 7d", ctx, option
            )
        return float(found[1]) * _UNITS[found[2].lower() or unit]

    return read


def durations(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[float, ...]:
    """Seconds, from several."""
    return tuple(duration(ctx, option, value) or 0.0 for value in values)


def instant(ctx: click.Context, option: click.Parameter, value: str | None) -> datetime | None:
    """A date and time in ISO 8601; without a zone it is UTC."""
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no time: write 2026-11-22T09:00+01:00", ctx, option) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def from_now(seconds: float) -> datetime:
    """The instant so many seconds ahead."""
    return datetime.fromtimestamp(clock.now(), UTC) + timedelta(seconds=seconds)


def job_variables(command: F) -> F:
    """`--job-variable name=value`."""
    return click.option(
        "-jv",
        "--job-variable",
        "job_variables",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_pairs,
        help="A job variable; the value as JSON, else as text; repeatable.",
    )(command)


def _pairs(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    return _support.parameters(values, None)
