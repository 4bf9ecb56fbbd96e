"""The runs of schedules, on both databases: one for each fire time, whoever fires, dies, edits or turns the clock."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra import failpoints
from orchestra.engine import firing
from orchestra.fire_times import due
from orchestra.schedules import Cron, Interval, RRule, Schedule
from orchestra.serializers import decode
from orchestra.store import deployments, ticks
from orchestra.store.announcements import Announcement
from orchestra.store.database import Database
from orchestra.store.tables import flow_runs, schedules
from orchestra.store.tables import ticks as ticks_table
from tests.store.test_deployments import keep, new


def route(entrypoint: str) -> tuple[str, int | None]:
    """As Celery's routes."""
    return "routed", 3


def fire(database: Database) -> list[Announcement]:
    """One turn of a beat."""
    return firing.fire_due(database, route)[1]


def fire_all(database: Database) -> int:
    """Turns until nothing is due; how many runs there are then."""
    while fire(database):
        pass
    return len(rows(database))


def rows(database: Database) -> list[Any]:
    """All runs, by the times they were scheduled for."""
    query = sa.select(flow_runs).order_by(flow_runs.c.scheduled_at)
    return database.read(lambda connection: list(connection.execute(query)))


def away(database: Database, seconds: float) -> None:
    """Let it be so long ago that anybody looked at the schedules."""
    then = database.now() - seconds
    statement = sa.update(schedules).values(fired_at=then, next_at=then)
    database.write(lambda connection: connection.execute(statement))


def state(database: Database) -> Any:
    """Of the one schedule."""
    return database.read(lambda connection: connection.execute(sa.select(schedules)).one())


def test_a_fire_time_becomes_a_run_as_delay_makes_it(database: Database) -> None:
    """READY, announced, scheduled at the fire time, with the schedule's parameters over those of the deployment."""
    schedule = Interval(3600, parameters={"day": 2})
    deployment = keep(database, schedule, parameters={"day": 1, "full": True}, tags=["b", "a"])
    away(database, 3600)

    (announced,) = fire(database)

    (row,) = rows(database)
    assert (announced.run_id, announced.queue, announced.kind) == (row.id, "default", "flow")
    assert (row.phase, row.state_name, row.deployment_id, row.tags) == ("READY", "Pending", deployment, '["a", "b"]')
    assert row.scheduled_at % 3600 == 0
    assert row.announce_at > database.now()
    assert decode(row.parameters) == {"day": 2, "full": True}
    assert fire(database) == []
    assert state(database).next_at == row.scheduled_at + 3600


def test_a_deployment_without_a_queue_goes_as_celery_routes_the_flow(database: Database) -> None:
    """As does a run by hand."""
    keep(database, Interval(60), queue="")
    away(database, 60)
    assert [(each.queue, each.priority) for each in fire(database)] == [("routed", 3)]


def test_a_new_schedule_owes_nothing_of_the_time_before_it(database: Database) -> None:
    """It is looked at at once, and counts from now on."""
    keep(database, Cron("* * * * *"))
    assert fire(database) == []
    assert state(database).next_at % 60 == 0


@pytest.mark.parametrize(
    ("more", "number"),
    [
        ({}, 1),
        ({"catchup": "none"}, 0),
        ({"catchup": "all"}, 720),
        ({"catchup": "all", "catchup_max": 9}, 9),
        ({"catchup": "all", "max_late": 100.0}, 20),
    ],
)
def test_an_hour_away_gives_as_many_runs_as_the_policy_says(
    database: Database, more: dict[str, Any], number: int
) -> None:
    """Of 720 fire times, over as many turns as it takes."""
    schedule = replace(Interval(5), **more)
    keep(database, schedule)
    away(database, 3600)
    before = state(database).fired_at
    moment = database.now()
    made = fire_all(database)
    # One of them may have come, or have become too old, just now.
    assert abs(made - number) <= 1
    assert moment - before >= 3600


def test_many_at_once_make_one_run_each(database: Database) -> None:
    """Six beats over the same fire times, all at the same moment."""
    for name in range(8):
        keep(database, Interval(1, catchup="all"), name=f"d{name}")
    away(database, 20)
    barrier = threading.Barrier(6)

    def beat() -> None:
        barrier.wait(10)
        fire_all(database)

    beats = [threading.Thread(target=beat) for _ in range(6)]
    for each in beats:
        each.start()
    for each in beats:
        each.join(60)
    fire_all(database)

    made = rows(database)
    assert len({(row.deployment_id, row.scheduled_at) for row in made}) == len(made)
    assert len(made) >= 8 * 20
    times = sorted({row.scheduled_at for row in made})
    assert times == [times[0] + second for second in range(len(times))]


def test_what_a_dead_process_left_is_fired_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the commit: nothing was done. Killed after it: the run is there, and owed to the sweeper."""
    keep(database, Interval(3600))
    away(database, 3600)
    for point, expected in (("before_fire", 0), ("after_fire", 1)):
        monkeypatch.setattr(failpoints, "_TEXT", f"{point}=raise")
        monkeypatch.setattr(failpoints, "_POINTS", failpoints.parse(f"{point}=raise"))
        with pytest.raises(failpoints.FailpointHit):
            fire(database)
        assert len(rows(database)) == expected
    monkeypatch.setattr(failpoints, "_TEXT", "")
    assert fire(database) == []


def test_a_change_in_between_leaves_no_ghost(database: Database) -> None:
    """What was seen before a pause, an edit or a deletion is not fired after it."""
    for change in (
        lambda: deployments.set_paused(database, "etl/nightly", True),
        lambda: deployments.set_active(database, "etl/nightly", "often", False),
        lambda: keep(database, Interval(7, slug="often")),
        lambda: keep(database, Interval(60, slug="often"), parameters={"other": 1}),
        lambda: deployments.delete(database, "etl/nightly"),
    ):
        keep(database, Interval(60, slug="often"), paused=False)
        away(database, 60)
        moment, (row,) = ticks.find_due(database, 10)
        seen = firing.firing_of(row, moment, route)
        assert seen.new
        change()
        assert ticks.fire(database, [seen]) == []
        assert rows(database) == []


def test_what_is_paused_owes_nothing_when_it_is_resumed(database: Database) -> None:
    """The times in between were not wanted; beat does not look at it meanwhile."""
    keep(database, Interval(1, catchup="all", slug="often"))
    resume = [
        (
            lambda: deployments.set_paused(database, "etl/nightly", True),
            lambda: deployments.set_paused(database, "etl/nightly", False),
        ),
        (
            lambda: deployments.set_paused(database, "etl/nightly", True),
            lambda: deployments.keep(database, new(paused=False)),
        ),
        (
            lambda: deployments.set_active(database, "etl/nightly", "often", False),
            lambda: deployments.set_active(database, "etl/nightly", "often", True),
        ),
    ]
    for pause, go_on in resume:
        pause()
        away(database, 100)
        assert fire_all(database) == 0
        assert ticks.earliest(database) is None
        go_on()
        moment = database.now()
        assert state(database).fired_at == pytest.approx(moment, abs=5)


def test_a_serve_that_starts_again_makes_up_for_what_it_missed(database: Database) -> None:
    """Written again with the same schedules and not paused before, it goes on where it was."""
    keep(database, Interval(60, catchup="all"), paused=False)
    away(database, 600)
    keep(database, Interval(60, catchup="all"), paused=False)
    assert fire_all(database) == 10


def test_a_clock_that_was_ahead_and_is_right_again(database: Database) -> None:
    """Schedules do not stay silent until the time that was wrong, and no fire time comes twice."""
    keep(database, Interval(1, catchup="all"))
    away(database, 10)
    made = fire_all(database)
    ahead = database.now() + 86_400
    database.write(lambda connection: connection.execute(sa.update(schedules).values(fired_at=ahead, next_at=ahead)))
    assert fire(database) == []

    assert ticks.turn_back(database) == 1
    away(database, 5)
    again = fire_all(database)
    assert made <= again <= made + 5
    assert len({row.scheduled_at for row in rows(database)}) == again


def test_one_that_cannot_be_fired_holds_up_no_other(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """It is named, and tried again later."""
    keep(database, Interval(60), name="good")
    keep(database, Interval(60), name="bad")
    broken = sa.update(schedules).values(timezone="Mars/Olympus")
    bad = deployments.read(database, "etl/bad").schedules[0].id
    database.write(lambda connection: connection.execute(broken.where(schedules.c.id == bad)))
    away(database, 60)

    assert len(fire(database)) == 1
    assert "'etl/bad' cannot be fired" in caplog.text
    earliest = ticks.earliest(database)
    assert earliest is not None
    assert earliest > database.now()


@pytest.mark.parametrize("schedule", [RRule("FREQ=DAILY;COUNT=3"), Cron("0 0 30 2 *")])
def test_a_schedule_that_has_ended_is_not_looked_at_any_more(database: Database, schedule: Schedule) -> None:
    """Until it is changed."""
    keep(database, schedule)
    assert fire_all(database) == 0
    assert ticks.earliest(database) is None
    assert due(schedule, 0.0, 1e9).times == []


def test_a_run_that_nobody_takes_up_shows_as_late(database: Database) -> None:
    """After 15 seconds; and it is told, once, where no worker listens."""
    keep(database, Interval(3600))
    away(database, 3600)
    fire(database)
    lately = sa.update(flow_runs).values(due_at=database.now() - 14)
    database.write(lambda connection: connection.execute(lately))
    assert not firing.mark_late(database)
    assert [row.state_name for row in rows(database)] == ["Pending"]

    database.write(lambda connection: connection.execute(lately.values(due_at=database.now() - 16)))
    assert firing.mark_late(database) == {"default": 1}
    assert not firing.mark_late(database)
    assert [(row.state_type, row.state_name) for row in rows(database)] == [("SCHEDULED", "Late")]


def test_old_ticks_are_dropped(database: Database) -> None:
    """They are kept as long as a clock may be set back without harm."""
    keep(database, Interval(60))
    away(database, 60)
    fire(database)
    long_ago = sa.update(ticks_table).values(fire_at=1e9)
    database.write(lambda connection: connection.execute(long_ago))
    away(database, 60)
    fire(database)
    kept = database.read(lambda connection: connection.scalars(sa.select(ticks_table.c.fire_at)).all())
    assert all(fire_at > 1e9 for fire_at in kept)
