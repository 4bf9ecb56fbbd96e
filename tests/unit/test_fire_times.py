"""When schedules fire: by the clock on the wall, also where it jumps; and what is made up for after an outage."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from dateutil.rrule import rrulestr

from orchestra.fire_times import MOST, Due, due, fire_times, next_time, upcoming
from orchestra.schedules import ANCHOR, Cron, Interval, RRule, Schedule

pytestmark = pytest.mark.slow

FROM, TO = datetime(2022, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
#: Jumps of an hour in both halves of the world, of half an hour, at midnight, and of none.
ZONES = (
    "America/New_York Europe/Berlin Australia/Sydney Australia/Lord_Howe America/Havana Africa/Cairo America/Asuncion "
    "Asia/Beirut America/Nuuk Pacific/Chatham Africa/Casablanca Asia/Kolkata UTC"
).split()
EXPRESSIONS = (
    "*/30 * * * *",
    "0 * * * *",
    "15,45 * * * *",
    "30 1 * * *",
    "30 2 * * *",
    "0 3 * * *",
    "0 0 * * *",
    "15 23,0,1,2,3 * * *",
    "*/20 1-3 * * *",
    "*/15 1 * * *",
    "5,35 0-4 * * sun",
    "59 1-2 * * *",
    "0 9 1 * *",
    "0 9 1,15 * mon",
)


def transitions(zone: ZoneInfo) -> Iterator[datetime]:
    """The instants, to the hour before, at which the zone's clock jumps in these five years."""
    hours = int((TO - FROM).total_seconds() // 3600)
    offsets = (((FROM + timedelta(hours=hour)), zone) for hour in range(0, hours, 6))
    for (before, _), (after, _) in pairwise(offsets):
        if before.astimezone(zone).utcoffset() != after.astimezone(zone).utcoffset():
            yield before


def from_(schedule: Schedule, after: datetime, until: datetime) -> list[datetime]:
    """The times in between, in UTC."""
    found = []
    for instant in fire_times(schedule, after.timestamp()):
        if instant > until.timestamp():
            break
        found.append(datetime.fromtimestamp(instant, UTC))
    return found


@pytest.mark.parametrize("zone", ZONES)
def test_cron_agrees_with_an_oracle_around_every_transition_of_five_years(zone: str) -> None:
    """Two days before to two days after each jump of the clock: the same instants as cronsim's."""
    named = ZoneInfo(zone)
    around = list(transitions(named)) or [FROM]
    for expression in EXPRESSIONS:
        for jump in around:
            begin, end = jump - timedelta(days=2), jump + timedelta(days=2)
            expected = []
            for moment in CronSim(expression.upper(), begin.astimezone(named)):
                if moment.astimezone(UTC) > end:
                    break
                expected.append(moment.astimezone(UTC))
            # cronsim gives one instant twice, where times that do not exist are moved onto one that does.
            assert from_(Cron(expression, timezone=zone), begin, end) == list(dict.fromkeys(expected)), expression


@pytest.mark.parametrize("zone", ZONES)
def test_a_time_is_found_from_wherever_one_begins(zone: str) -> None:
    """From any instant on, the rest of the times is the same: none is missed, none comes again, and they increase."""
    chance = random.Random(zone)
    kinds: list[Schedule] = [Cron(expression, timezone=zone) for expression in EXPRESSIONS[:12]]
    kinds += [Interval(timedelta(days=1), timezone=zone), RRule("FREQ=HOURLY;BYMINUTE=0,20,40", timezone=zone)]
    for jump in list(transitions(ZoneInfo(zone)))[:4] or [FROM]:
        begin, end = jump - timedelta(days=1), jump + timedelta(days=1, hours=12)
        for schedule in kinds:
            whole = from_(schedule, begin, end)
            assert whole == sorted(set(whole))
            for _ in range(12):
                start = begin + (end - begin) * chance.random()
                assert from_(schedule, start, end) == [moment for moment in whole if moment > start], schedule
            for moment in whole[:60:7]:
                assert from_(schedule, moment, end) == [each for each in whole if each > moment], schedule


@pytest.mark.parametrize(
    ("schedule", "day", "expected"),
    [
        (Cron("30 2 * * *", timezone="America/New_York"), "2026-03-08", ["03:00 EDT"]),
        (Cron("30 1 * * *", timezone="America/New_York"), "2026-11-01", ["01:30 EDT"]),
        (Cron("0,30 1 * * *", timezone="America/New_York"), "2026-11-01", ["01:00 EDT", "01:30 EDT"]),
        (
            Cron("*/30 1 * * *", timezone="America/New_York"),
            "2026-11-01",
            ["01:00 EDT", "01:30 EDT", "01:00 EST", "01:30 EST"],
        ),
        (Cron("0 9 * * *", timezone="America/New_York"), "2026-11-01", ["09:00 EST"]),
        (Cron("0 1-3 * * *", timezone="America/New_York"), "2026-03-08", ["01:00 EST", "03:00 EDT"]),
        (Interval(timedelta(days=1), timezone="America/New_York"), "2026-11-01", ["00:00 EDT"]),
        (RRule("FREQ=DAILY;BYHOUR=2;BYMINUTE=30", timezone="America/New_York"), "2026-03-08", ["03:00 EDT"]),
        (RRule("FREQ=DAILY;BYHOUR=1;BYMINUTE=30", timezone="America/New_York"), "2026-11-01", ["01:30 EDT"]),
    ],
)
def test_daylight_saving_time(schedule: Schedule, day: str, expected: list[str]) -> None:
    """What does not exist fires once, at the next instant; what is daily fires once in an hour that comes twice."""
    zone = ZoneInfo("America/New_York")
    begin = datetime.fromisoformat(day).replace(tzinfo=zone)
    found = from_(schedule, begin - timedelta(seconds=1), begin + timedelta(hours=23, minutes=59))
    assert [f"{moment.astimezone(zone):%H:%M %Z}" for moment in found] == expected


def test_a_clock_that_is_set_back_to_within_an_hour_leaves_nothing_out() -> None:
    """By half an hour at two on Lord Howe, from 3:45 to 2:45 on the Chathams: there cronsim is no oracle."""
    for zone, expected in (
        ("Australia/Lord_Howe", ["02:00+1030", "02:15+1030", "02:30+1030", "02:45+1030"]),
        ("Pacific/Chatham", ["02:00+1345", "02:15+1345", "02:30+1345", "02:45+1345", "02:45+1245"]),
    ):
        begin = datetime(2022, 4, 3, tzinfo=ZoneInfo(zone))
        found = from_(Cron("*/15 2 * * *", timezone=zone), begin, begin + timedelta(hours=20))
        assert [f"{moment.astimezone(begin.tzinfo):%H:%M%z}" for moment in found] == expected


@pytest.mark.parametrize(
    "schedule",
    [
        Cron("*/30 * * * *", timezone="America/New_York"),
        Interval(1800, timezone="America/New_York"),
        RRule("FREQ=MINUTELY;INTERVAL=30", timezone="America/New_York"),
    ],
)
def test_what_goes_by_the_hour_or_less_goes_on_through_an_hour_that_comes_twice(schedule: Schedule) -> None:
    """Every half hour of elapsed time, 50 in the long day and 46 in the short one."""
    zone = ZoneInfo("America/New_York")
    for day, halves in (("2026-11-01", 50), ("2026-03-08", 46)):
        begin = datetime.fromisoformat(day).replace(tzinfo=zone)
        end = (begin.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=zone)
        found = from_(schedule, begin - timedelta(seconds=1), end - timedelta(seconds=1))
        assert len(found) == halves
        assert {after - before for before, after in pairwise(found)} == {timedelta(minutes=30)}


RULES = (
    "FREQ=MINUTELY;INTERVAL=7",
    "FREQ=HOURLY;INTERVAL=5;BYMINUTE=0,30",
    "FREQ=DAILY;INTERVAL=3;BYHOUR=8,20",
    "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,FR;BYHOUR=6",
    "FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17",
    "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29",
    "FREQ=DAILY;COUNT=2500",
    "FREQ=DAILY;UNTIL=20260301T000000",
    "FREQ=DAILY;UNTIL=20260301T000000Z",
    "DTSTART:20250107T101500\nRRULE:FREQ=WEEKLY;BYDAY=TU\nEXDATE:20260303T101500\nRDATE:20260304T111500",
    "DTSTART:20250107T101500Z\nRRULE:FREQ=DAILY;INTERVAL=2",
)


@pytest.mark.parametrize("text", RULES)
def test_a_rule_gives_what_dateutil_gives(text: str) -> None:
    """Also where we begin late in a long rule, which is not walked from its start."""
    begin = datetime(2026, 2, 10, 3, 4, 5, tzinfo=UTC)
    aware = "Z" in text
    rule = rrulestr(text, dtstart=ANCHOR.replace(tzinfo=UTC) if aware else ANCHOR)
    plain = islice(rule.xafter(begin if aware else begin.replace(tzinfo=None)), 50)
    expected = [moment.replace(tzinfo=UTC) for moment in plain]
    found = islice(fire_times(RRule(text), begin.timestamp()), 50)
    assert [datetime.fromtimestamp(instant, UTC) for instant in found] == expected


def test_an_until_in_utc_leaves_the_hours_to_the_zone() -> None:
    """`BYHOUR` is the schedule's wall clock, whatever the end is written in."""
    schedule = RRule("FREQ=DAILY;BYHOUR=9;UNTIL=20260701T120000Z", timezone="Europe/Berlin")
    last = from_(schedule, datetime(2026, 6, 29, 12, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    assert [f"{moment:%d %H}" for moment in last] == ["30 07", "01 07"]


def test_an_interval_goes_from_its_anchor() -> None:
    """It fires first at the anchor itself, and in whole intervals after it, however far."""
    anchor = datetime(2026, 1, 1, 0, 7, tzinfo=UTC)
    schedule = Interval(600, anchor_date=anchor)
    assert next_time(schedule, anchor.timestamp() - 86_400) == anchor.timestamp()
    assert next_time(schedule, anchor.timestamp()) == anchor.timestamp() + 600
    assert next_time(schedule, anchor.timestamp() + 3e9 + 1) == anchor.timestamp() + 3e9 + 600


def test_upcoming_times_are_told_in_the_schedules_zone() -> None:
    """As people read them."""
    times = upcoming(Cron("0 9 * * *", timezone="Asia/Tokyo"), 2, datetime(2026, 5, 1, tzinfo=UTC).timestamp())
    assert [f"{each:%Y-%m-%d %H:%M %Z}" for each in times] == ["2026-05-02 09:00 JST", "2026-05-03 09:00 JST"]


@pytest.mark.parametrize("never", [Cron("0 0 30 2 *"), RRule("FREQ=DAILY;UNTIL=20210101T000000")])
def test_what_never_fires_again_has_no_next_time(never: Schedule) -> None:
    """Instead of an error, or a search without end."""
    assert next_time(never, FROM.timestamp()) is None


@pytest.mark.parametrize("alias", "@hourly @daily @weekly @monthly @yearly @midnight @annually".split())
def test_names_for_expressions_fire(alias: str) -> None:
    """As croniter knows them."""
    assert next_time(Cron(alias, timezone="Europe/Berlin"), FROM.timestamp()) is not None


# -- after an outage ---------------------------------------------------------------------------------------------

NOW = datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC).timestamp()
HOUR = NOW - 3600
MINUTELY: dict[str, Any] = {"interval": timedelta(minutes=1)}


@pytest.mark.parametrize(
    ("more", "number"),
    [
        ({}, 1),
        ({"catchup": "none"}, 0),
        ({"catchup": "all"}, 60),
        ({"catchup": "all", "catchup_max": 7}, 7),
        ({"catchup": "all", "catchup_max": 100}, 60),
        ({"catchup": "all", "max_late": 600}, 10),
        ({"catchup": "all", "max_late": 600, "catchup_max": 3}, 3),
        ({"max_late": 10}, 0),
        ({"max_late": 30}, 1),
    ],
)
def test_an_hour_away(more: dict[str, Any], number: int) -> None:
    """Of 60 missed minutes, those that the policy says; always the last ones, and all dealt with."""
    every_minute = [HOUR + 30 + 60 * minute for minute in range(60)]
    assert due(Schedule(**MINUTELY, **more), HOUR, NOW) == Due(every_minute[60 - number :], NOW)


@pytest.mark.parametrize("catchup", ["latest", "none", "all"])
def test_what_is_on_time_is_fired_by_every_policy(catchup: str) -> None:
    """A beat that is some seconds behind has missed nothing."""
    schedule = Interval(1, catchup=catchup, catchup_max=2)
    assert due(schedule, NOW - 5, NOW).times == [NOW - 4, NOW - 3, NOW - 2, NOW - 1, NOW]
    assert due(Interval(3600, catchup=catchup), NOW - 3000, NOW - 28).times == [NOW - 30]


def test_with_none_the_time_that_has_just_come_is_fired_also_after_an_outage() -> None:
    """It was not missed."""
    assert due(Cron("* * * * *", catchup="none"), HOUR, NOW - 25).times == [NOW - 30]


def test_all_of_a_long_outage_come_in_pages() -> None:
    """However many there are, each once, in order."""
    schedule, after, found = Interval(1, catchup="all"), HOUR, list[float]()
    while (owed := due(schedule, after, NOW)).times:
        assert len(owed.times) <= MOST
        found += owed.times
        after = owed.through
    assert found == [HOUR + second for second in range(1, 3601)]


@pytest.mark.parametrize(
    "make", [lambda: Cron("* * * * *"), lambda: Interval(1), lambda: RRule("FREQ=SECONDLY;INTERVAL=5")]
)
def test_ten_years_away_cost_no_more_than_an_hour(make: Callable[[], Schedule]) -> None:
    """The last times are looked for near the end: not millions of times are walked through."""
    after = NOW - 10 * 365 * 86_400
    assert len(due(make(), after, NOW).times) == 1
