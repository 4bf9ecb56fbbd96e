"""The counts of ends: each half hour is counted once, none is wrong, and what changed later is found."""

from __future__ import annotations

import itertools
import random

import pytest
import sqlalchemy as sa

from orchestra import clock
from orchestra.server import throughput
from orchestra.server.throughput import STRETCH, Throughput
from orchestra.store import run_lists
from orchestra.store.database import Database
from orchestra.store.run_lists import Ended
from orchestra.store.tables import flow_runs
from tests.store.test_queries import add_run

HOUR, DAY = 3600.0, 86400.0
STATES = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Ended]]:
    """The stretches that are counted, one after another."""
    count, found = run_lists.ended_since, list[tuple[int, Ended]]()

    def noted(db: Database, since: float, until: float, *, parts: int) -> list[Ended]:
        ended = count(db, since, until, parts=parts)
        if until - since == parts * STRETCH:
            found.extend((round(each.begin / STRETCH), each) for each in ended)
        return ended

    monkeypatch.setattr(run_lists, "ended_since", noted)
    return found


def end_some(database: Database, begin: float, seconds: float, count: int) -> None:
    """Runs that ended within a time."""
    chance = random.Random(count)
    for _ in range(count):
        end = begin + chance.random() * seconds
        add_run(database, at=end - 2, end_time=end, state_type=chance.choice(STATES))


def there(database: Database) -> dict[str, int]:
    """How many runs there are in each state."""
    query = sa.select(flow_runs.c.state_type, sa.func.count()).group_by(flow_runs.c.state_type)
    rows = database.read(lambda connection: connection.execute(query).all())
    return {state: count for state, count in rows}


def told(ended: Ended) -> dict[str, int]:
    """The counts that are not 0, by state."""
    counts = {state: getattr(ended, state.lower()) for state in STATES}
    return {state: count for state, count in counts.items() if count}


@pytest.mark.parametrize("hours", [0.25, 1, 6, 24, 24 * 7, 24 * 30], ids="15m 1h 6h 24h 7d 30d".split())
def test_each_part_of_a_time_holds_what_ended_in_it(database: Database, hours: float) -> None:
    """Of each range of the dashboard, whether its counts were kept or not, and as the time goes on."""
    begin = 1_800_000 * HOUR
    end_some(database, begin - hours * HOUR, hours * HOUR + 7200, 60)
    kept, width = Throughput(), hours * HOUR / 48

    for until in (begin, begin + 50, begin + 100, begin + 1900, begin + 5400):
        parts = kept.ended(database, until, hours * HOUR, parts=48)

        assert parts[-1].begin <= until < parts[-1].begin + width
        exactly = run_lists.ended_since(database, parts[0].begin, parts[0].begin + 48 * width, parts=48)
        # In the last part more will end.
        assert parts[:-1] == exactly[:-1]


def test_what_is_over_is_counted_once(database: Database, counted: list[tuple[int, Ended]]) -> None:
    """A day, a week and a month share what they count."""
    until = 1_800_000 * HOUR + 100
    end_some(database, until - 30 * DAY, 30 * DAY, 40)
    kept = Throughput()

    months = [
        kept.ended(database, until + after, days * DAY, parts=48)
        for after, days in itertools.product((0, 30, 1800), (1, 7, 30))
    ]

    places = [place for place, _ in counted]
    over = {place for place in places if (place + 1) * STRETCH <= until - 60}
    assert len(over) > 30 * 48 - 60
    assert all(places.count(place) == 1 for place in over)
    assert sum(part.total for part in months[2]) == 40


def test_all_that_ended_is_told_by_state(database: Database) -> None:
    """What ended just now, and what did years ago, with nothing between."""
    for begin in (1.0, clock.now() - 900 * DAY, clock.now() - 3 * HOUR):
        end_some(database, begin, HOUR, 9)
    add_run(database, at=clock.now(), end_time=clock.now(), state_type="COMPLETED")
    kept = Throughput()

    assert told(kept.all(database)) == there(database)
    add_run(database, at=clock.now(), end_time=clock.now() + 5, state_type="FAILED")
    assert told(kept.all(database)) == there(database)


def test_what_was_deleted_or_retried_is_found_in_turn(
    database: Database, counted: list[tuple[int, Ended]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bounded number of ends is counted again each time, and all of them some times later."""
    monkeypatch.setattr(throughput, "_AGAIN", 10)
    end_some(database, clock.now() - 9 * DAY, 8 * DAY, 50)
    kept = Throughput()
    assert told(kept.all(database)) == there(database)

    column = flow_runs.c
    some = sa.select(column.id).order_by(column.end_time)
    database.write(lambda connection: connection.execute(sa.delete(flow_runs).where(column.id.in_(some.limit(7)))))
    again = sa.update(flow_runs).where(column.id.in_(some.limit(5).offset(20)))
    database.write(lambda connection: connection.execute(again.values(state_type="SCHEDULED", end_time=None)))
    works = []
    for _ in range(20):
        counted.clear()
        last = kept.all(database)
        works.append(sum(each.total for _, each in counted))

    assert told(last) == {state: count for state, count in there(database).items() if state in STATES}
    assert max(works) <= 10


def test_a_database_that_is_no_more_is_forgotten(database: Database) -> None:
    """Each has counts of its own, and they end with it."""
    other = Database(database.url)

    assert throughput.throughput_of(database) is throughput.throughput_of(database)
    assert throughput.throughput_of(database) is not throughput.throughput_of(other)

    other.close()
    del other
    assert len([db for db in throughput._of if db.url == database.url]) == 1
