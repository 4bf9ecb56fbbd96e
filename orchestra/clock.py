"""Time: the one place that reads the clocks. Instants are seconds since the epoch, in UTC."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import overload


def now() -> float:
    """This host's wall clock, as seconds since the epoch."""
    return time.time()


def monotonic() -> float:
    """Seconds on a clock that never goes back and goes on while the process is stopped."""
    return time.monotonic()


@overload
def to_datetime(instant: float) -> datetime: ...
@overload
def to_datetime(instant: float | None) -> datetime | None: ...
def to_datetime(instant: float | None) -> datetime | None:
    """An instant as an aware UTC datetime; None stays None."""
    return None if instant is None else datetime.fromtimestamp(instant, UTC)


def to_instant(moment: datetime) -> float:
    """A datetime as seconds since the epoch; a naive one is read as UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def seconds(duration: float | timedelta) -> float:
    """A duration given as seconds or as a timedelta, in seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
