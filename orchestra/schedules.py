"""Schedules as values: when runs are to start, checked when they are written down. `fire_times` has their times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from orchestra import lazy
from orchestra.errors import ConfigurationError

#: What may become of times that were missed.
CATCHUPS = ("latest", "none", "all")
#: Where an interval or a recurrence rule begins that does not say it, in the schedule's zone: a midnight.
ANCHOR = datetime(2020, 1, 1)  # noqa: DTZ001  # without a zone: each schedule has its own


@dataclass(frozen=True, slots=True)
class Schedule:
    """One schedule; made by `Cron`, `Interval` or `RRule`.

    Raises:
        ConfigurationError: Not exactly one of cron, interval and rrule is given, or one cannot be read.
    """

    #: A cron expression of five fields, or six with seconds last.
    cron: str | None = None
    #: Elapsed time, from `anchor_date` on; whole days go by the wall clock of the timezone.
    interval: timedelta | None = None
    #: An iCalendar recurrence rule (RFC 5545). Where it has no DTSTART, it begins as an interval does.
    rrule: str | None = None
    #: IANA name, as "Europe/Berlin"; None: UTC.
    timezone: str | None = None
    #: An instant at which an interval begins; None: midnight of 1 January 2020 in the timezone.
    anchor_date: datetime | None = None
    #: In a cron expression with both a day of the month and a weekday: either of them, as cron does; else both.
    day_or: bool = True
    #: Whether it fires.
    active: bool = True
    #: Over those of the deployment.
    parameters: Mapping[str, Any] = field(default_factory=dict)
    #: A name that is its own within the deployment.
    slug: str | None = None
    #: Which of the times missed in an outage are made up for: the "latest", "none", or "all", of these at most
    #: `catchup_max`.
    catchup: str = "latest"
    catchup_max: int | None = None
    #: A time missed by more than that many seconds is not made up for; None: however late.
    max_late: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("cron", "interval", "rrule") if getattr(self, name) is not None]
        if len(given) != 1:
            told = " and ".join(given) or "none"
            raise ConfigurationError(f"a schedule has one of cron, interval and rrule; given: {told}")
        _check_timezone(self.timezone)
        if self.cron is not None and not lazy.resolve("croniter:croniter").is_valid(self.cron):
            raise ConfigurationError(f"{self.cron!r} is no cron expression: five fields, as in '0 9 * * mon-fri'")
        if self.interval is not None and self.interval <= timedelta():
            raise ConfigurationError(f"an interval is longer than nothing, not {self.interval}")
        if self.rrule is not None:
            _check_rrule(self.rrule)
        if self.catchup not in CATCHUPS:
            raise ConfigurationError(f"catchup= is one of {', '.join(CATCHUPS)}, not {self.catchup!r}")
        if self.catchup_max is not None and self.catchup_max < 1:
            raise ConfigurationError(f"catchup_max= is at least 1, not {self.catchup_max}; or say catchup='none'")
        if self.max_late is not None and self.max_late <= 0:
            raise ConfigurationError(f"max_late= is a number of seconds above 0, not {self.max_late}")


def Cron(
    cron: str,
    /,
    timezone: str | None = None,
    day_or: bool = True,
    active: bool = True,
    parameters: Mapping[str, Any] | None = None,
    slug: str | None = None,
    catchup: str = "latest",
    catchup_max: int | None = None,
    max_late: float | None = None,
) -> Schedule:
    """A schedule by a cron expression, as "0 9 * * mon-fri"; the options are fields of `Schedule`.

    Raises:
        ConfigurationError: It, or the timezone, cannot be read.
    """
    return Schedule(
        cron=cron,
        timezone=timezone,
        day_or=day_or,
        active=active,
        parameters=dict(parameters or {}),
        slug=slug,
        catchup=catchup,
        catchup_max=catchup_max,
        max_late=max_late,
    )


def Interval(
    interval: timedelta | float,
    /,
    anchor_date: datetime | None = None,
    timezone: str | None = None,
    active: bool = True,
    parameters: Mapping[str, Any] | None = None,
    slug: str | None = None,
    catchup: str = "latest",
    catchup_max: int | None = None,
    max_late: float | None = None,
) -> Schedule:
    """A schedule of one run each `interval` (seconds, or a timedelta); the options are fields of `Schedule`.

    Raises:
        ConfigurationError: The interval is nothing or less, or the timezone cannot be read.
    """
    return Schedule(
        interval=interval if isinstance(interval, timedelta) else timedelta(seconds=interval),
        anchor_date=anchor_date,
        timezone=timezone,
        active=active,
        parameters=dict(parameters or {}),
        slug=slug,
        catchup=catchup,
        catchup_max=catchup_max,
        max_late=max_late,
    )


def RRule(
    rrule: str,
    /,
    timezone: str | None = None,
    active: bool = True,
    parameters: Mapping[str, Any] | None = None,
    slug: str | None = None,
    catchup: str = "latest",
    catchup_max: int | None = None,
    max_late: float | None = None,
) -> Schedule:
    """A schedule by a recurrence rule, as "FREQ=WEEKLY;BYDAY=MO"; the options are fields of `Schedule`.

    Raises:
        ConfigurationError: It, or the timezone, cannot be read.
    """
    return Schedule(
        rrule=rrule,
        timezone=timezone,
        active=active,
        parameters=dict(parameters or {}),
        slug=slug,
        catchup=catchup,
        catchup_max=catchup_max,
        max_late=max_late,
    )


def _check_timezone(name: str | None) -> None:
    try:
        ZoneInfo(name or "UTC")
    except (OSError, ValueError, LookupError) as error:
        raise ConfigurationError(f"there is no timezone {name!r}: use an IANA name, as 'Europe/Berlin'") from error


def parse_rrule(text: str, zone: tzinfo) -> Any:
    """dateutil's rule for a text, begun at `ANCHOR` in this zone where it does not say it.

    Raises:
        ValueError: It cannot be read.
    """
    read = lazy.resolve("dateutil.rrule:rrulestr")
    try:
        return read(text, dtstart=ANCHOR)
    except ValueError:
        # With an UNTIL in UTC, the beginning must have a zone, too.
        return read(text, dtstart=ANCHOR.replace(tzinfo=zone))


def _check_rrule(text: str) -> None:
    try:
        parse_rrule(text, UTC)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{text!r} is no recurrence rule ({error}): as in 'FREQ=WEEKLY;BYDAY=MO'") from error
