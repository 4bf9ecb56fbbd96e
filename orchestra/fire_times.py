"""When a schedule fires, as pure functions: its times after an instant, and which of them are to be fired now.

Times are found in the wall clock of the schedule's zone and then placed on the line of instants. Where that clock jumps
ahead, a time that does not exist fires once, at the first instant after the jump. Where it is set back, a time that
comes twice fires the first time only. Not so what goes by the hour or less (a cron expression whose minute or hour
begins with `*`, a rule by HOURLY or less): that fires in both hours, and not for times that do not exist; these are
Debian cron's rules. An interval goes by elapsed time, one of whole days by the wall clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import count, islice
from typing import Any
from zoneinfo import ZoneInfo

from orchestra import clock, lazy
from orchestra.schedules import ANCHOR, Schedule, parse_rrule

#: A time that is older than this when it is looked at was missed, in seconds.
MISSED_AFTER = 15.0
#: Most of the times that are given in one go.
MOST = 500
_DAY, _SECOND = timedelta(days=1), timedelta(seconds=1)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # local times are kept without a zone here
#: How far before `now` the last times of a schedule are looked for at first, in seconds.
_NEAR = 60.0


@dataclass(frozen=True, slots=True)
class Due:
    """What a schedule owes at an instant."""

    #: To be fired, in order; instants.
    times: list[float]
    #: Up to here all times are dealt with then.
    through: float


def fire_times(schedule: Schedule, after: float) -> Iterator[float]:
    """The instants at which a schedule fires, after one: strictly increasing, one at a time, without end or until the
    rule ends."""
    last = after
    for instant in _raw(schedule, after):
        if instant > last:
            last = instant
            yield instant


def next_time(schedule: Schedule, after: float) -> float | None:
    """The first instant after one at which a schedule fires; None where there is none any more."""
    return next(fire_times(schedule, after), None)


def upcoming(schedule: Schedule, number: int, after: float) -> list[datetime]:
    """The next so many times of a schedule after an instant, in its own zone."""
    zone = _zone(schedule)
    return [datetime.fromtimestamp(instant, zone) for instant in islice(fire_times(schedule, after), number)]


def due(schedule: Schedule, after: float, now: float) -> Due:
    """Which times are to be fired at `now`, where those up to `after` are dealt with.

    Those that are on time are. Where the oldest was missed, somebody was away, and `catchup` decides: "latest" fires
    the last one, "none" the last one if it is on time, "all" every one, at most the last `catchup_max`. What is older
    than `max_late` is never fired. At most `MOST` are given at once; then `through` is the last of them, and asking
    again from there gives the rest.
    """
    first = next_time(schedule, after)
    if first is None or first > now:
        return Due([], now)
    was_away = now - first > MISSED_AFTER
    # One that is exactly `max_late` old is still fired.
    begin = after if schedule.max_late is None else max(after, now - schedule.max_late - 1e-6)
    if was_away and schedule.catchup != "all":
        latest = _last(schedule, begin, now, 1)
        if schedule.catchup == "none":
            latest = [instant for instant in latest if now - instant <= MISSED_AFTER]
        return Due(latest, now)
    if was_away and schedule.catchup_max is not None:
        times: Iterable[float] = _last(schedule, begin, now, schedule.catchup_max)
    else:
        times = _until(schedule, begin, now)
    found = list(islice(times, MOST))
    return Due(found, found[-1] if len(found) == MOST else now)


def _until(schedule: Schedule, after: float, now: float) -> Iterator[float]:
    for instant in fire_times(schedule, after):
        if instant > now:
            return
        yield instant


def _last(schedule: Schedule, after: float, now: float, number: int) -> list[float]:
    """The last so many times after `after`, up to `now`; looked for from near to far, as most of a long outage is not
    wanted."""
    if number <= 0:
        return []
    span = _NEAR
    while True:
        begin = max(now - span, after)
        found = deque(_until(schedule, begin, now), maxlen=number)
        if len(found) == number or begin == after:
            return list(found)
        span *= 4


# -- by kind -----------------------------------------------------------------------------------------------------


def _zone(schedule: Schedule) -> ZoneInfo:
    return ZoneInfo(schedule.timezone or "UTC")


def _raw(schedule: Schedule, after: float) -> Iterator[float]:
    """Times of a schedule from shortly before `after` on; one may come twice."""
    if schedule.cron is not None:
        return _by_cron(schedule.cron, schedule.day_or, _zone(schedule), after)
    if schedule.interval is not None:
        return _by_interval(schedule.interval, schedule.anchor_date, _zone(schedule), after)
    assert schedule.rrule is not None, "a schedule has one of the three"
    return _by_rrule(schedule.rrule, _zone(schedule), after)


def _by_cron(expression: str, day_or: bool, zone: tzinfo, after: float) -> Iterator[float]:
    minute, hour = expression.split()[:2] if not expression.startswith("@") else _ALIASES[expression.lower()]
    start = _local_start(zone, after).replace(microsecond=0) - _SECOND
    return _place(_cron_times(expression, day_or, start), zone, hourly=minute.startswith("*") or hour.startswith("*"))


#: Minute and hour of the names for expressions.
_ALIASES = dict.fromkeys(("@midnight", "@daily", "@weekly", "@monthly", "@yearly", "@annually"), ("0", "0"))
_ALIASES["@hourly"] = ("0", "*")


def _cron_times(expression: str, day_or: bool, start: datetime) -> Iterator[datetime]:
    # Without a zone croniter knows of no daylight saving time, which is dealt with here.
    times = lazy.resolve("croniter:croniter")(expression, start, day_or=day_or)
    never = lazy.resolve("croniter:CroniterBadDateError")
    while True:
        try:
            yield times.get_next(datetime)
        except (never, OverflowError, ValueError):
            # None within 50 years, or none before the year 10,000.
            return


def _by_interval(interval: timedelta, anchor: datetime | None, zone: ZoneInfo, after: float) -> Iterator[float]:
    if anchor is None:
        begin = ANCHOR.replace(tzinfo=zone)
    else:
        begin = (anchor if anchor.tzinfo else anchor.replace(tzinfo=zone)).astimezone(zone)
    if interval % _DAY == timedelta():
        return _place(_day_times(begin.replace(tzinfo=None), interval, _local_start(zone, after)), zone, hourly=False)
    return _elapsed(clock.to_instant(begin), interval.total_seconds(), after)


def _elapsed(begin: float, seconds: float, after: float) -> Iterator[float]:
    first = max(int((after - begin) // seconds), 0)
    return (begin + number * seconds for number in count(first))


def _day_times(begin: datetime, interval: timedelta, start: datetime) -> Iterator[datetime]:
    first = max((start - begin) // interval, 0)
    try:
        for number in count(first):
            yield begin + number * interval
    except OverflowError:
        return


def _by_rrule(text: str, zone: ZoneInfo, after: float) -> Iterator[float]:
    rule = parse_rrule(text, zone)
    begins = [each._dtstart for each in _parts(rule)]
    own = next((begin.tzinfo for begin in begins if begin.tzinfo), None)
    start = _local_start(own or zone, after)
    found = _forward(rule, start).xafter(start.replace(tzinfo=own), inc=True)
    hourly = any(each._freq >= lazy.resolve("dateutil.rrule:HOURLY") for each in _parts(rule))
    return _place((time.replace(tzinfo=None) for time in found), own or zone, hourly=hourly)


def _parts(rule: Any) -> list[Any]:
    return list(rule._rrule) if hasattr(rule, "_rrule") else [rule]


def _forward(rule: Any, start: datetime) -> Any:
    """The same rule, begun shortly before `start`: dateutil walks from the beginning each time."""
    if not hasattr(rule, "_rrule"):
        return _forward_one(rule, start)
    made = type(rule)()
    for each in rule._rrule:
        made.rrule(_forward_one(each, start))
    for each in rule._exrule:
        made.exrule(_forward_one(each, start))
    for each in rule._rdate:
        made.rdate(each)
    for each in rule._exdate:
        made.exdate(each)
    return made


def _forward_one(rule: Any, start: datetime) -> Any:
    unit = _UNITS.get(rule._freq)
    if unit is None or rule._count is not None:
        return rule
    step = unit * rule._interval
    skipped = (start - rule._dtstart.replace(tzinfo=None)) // step - 1
    return rule.replace(dtstart=rule._dtstart + skipped * step) if skipped > 0 else rule


#: By dateutil's number of a frequency: what may be skipped without a change of the rule. Months and years are few.
_UNITS = {
    2: timedelta(weeks=1),
    3: _DAY,
    4: timedelta(hours=1),
    5: timedelta(minutes=1),
    6: _SECOND,
}


# -- from wall clocks to instants --------------------------------------------------------------------------------


def _local_start(zone: tzinfo, after: float) -> datetime:
    """A local time from which on all those are found whose instants are after `after`."""
    moment = datetime.fromtimestamp(after, zone)
    local = moment.replace(tzinfo=None, fold=0)
    first, second = _offsets(local, zone)
    # What was before in the hour that comes twice comes again.
    return local - (first - second) if first > second and not moment.fold else local


def _place(times: Iterable[datetime], zone: tzinfo, *, hourly: bool) -> Iterator[float]:
    """Local times as instants. They are held back where they come a second time, until the first time is over."""
    again: deque[float] = deque()
    for local in times:
        first, second = _offsets(local, zone)
        if first < second:
            if not hourly:
                yield _end_of_gap(local, zone)
            continue
        if first == second:
            yield from again
            again.clear()
        elif hourly:
            again.append(_instant(local, second))
        yield _instant(local, first)
    yield from again


def _offsets(local: datetime, zone: tzinfo) -> tuple[timedelta, timedelta]:
    """From UTC at a local time, the first and the second time: the first is less where that time does not exist."""
    first = local.replace(tzinfo=zone, fold=0).utcoffset()
    second = local.replace(tzinfo=zone, fold=1).utcoffset()
    assert first is not None, f"{zone} gives no offset"
    assert second is not None, f"{zone} gives no offset"
    return first, second


def _instant(local: datetime, offset: timedelta) -> float:
    return (local - offset - _EPOCH).total_seconds()


def _end_of_gap(local: datetime, zone: tzinfo) -> float:
    """The first instant after the jump that leaves a local time out, to the second."""
    before, after = _offsets(local, zone)
    low, high = int(_instant(local, after)), int(_instant(local, before)) + 1
    while high - low > 1:
        middle = (low + high) // 2
        jumped = datetime.fromtimestamp(middle, UTC).astimezone(zone).utcoffset() == after
        low, high = (low, middle) if jumped else (middle, high)
    return float(high)
