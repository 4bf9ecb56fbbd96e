"""Celery's beat in real processes: schedules beside the app's own, several beats, kill -9, a database that is away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from celery import Celery

import orchestra.celery
from orchestra.celery import apps
from orchestra.schedules import Interval
from orchestra.store import deployments
from orchestra.store.database import Database
from orchestra.store.tables import flow_runs
from tests import servers
from tests.conftest import WorkerFactory
from tests.helpers import ROOT, wait_until
from tests.proxy import LossyProxy
from tests.store.test_deployments import keep

pytestmark = pytest.mark.services
Beats = Callable[..., servers.Process]


@pytest.fixture
def start_beat(broker: servers.Broker, database_url: str, tmp_path: Path) -> Iterator[Beats]:
    """Starts beats of an app, killed at the end."""
    started: list[servers.Process] = []

    def start(app: str = "celery_app", **env: str) -> servers.Process:
        name = str(tmp_path / f"beat{len(started)}")
        command = [sys.executable, "-m", "celery", "-A", app, "beat", "-l", "INFO", "--pidfile", "", "-s", name]
        beat = servers.Process(command, tmp_path / f"{name}.log", env={**os.environ, **env})
        started.append(beat)
        wait_until(lambda: "beat: Starting" in beat.log(), "beat to start", 30)
        return beat

    yield start
    for beat in started:
        if beat.running:
            beat.kill_group()


def fired(database: Database) -> list[float]:
    """The times for which there are runs, one entry for each run."""
    query = sa.select(flow_runs.c.scheduled_at).order_by(flow_runs.c.scheduled_at)
    return database.read(lambda connection: list(connection.scalars(query)))


def without_gap(times: list[float]) -> bool:
    """Whether there is one for each second."""
    return times == [times[0] + second for second in range(len(times))]


@pytest.mark.slow
def test_any_number_of_beats_fire_each_time_once_though_some_are_killed(database: Database, start_beat: Beats) -> None:
    """Three beats, a tick each second (60 of them on PostgreSQL), two killed one after the other: none is lost, none
    comes twice."""
    ticks = 60 if database.dialect == "postgresql" else 15
    keep(database, Interval(1, catchup="all"))
    beats = [start_beat() for _ in range(3)]
    for number in (ticks // 3, 2 * ticks // 3):
        wait_until(lambda wanted=number: len(fired(database)) >= wanted, "ticks", 60)  # type: ignore[misc]
        beats.pop().kill_group()
        assert without_gap(fired(database))
    wait_until(lambda: len(fired(database)) >= ticks, "ticks by the last beat", 60)
    assert without_gap(fired(database))
    assert beats[0].terminate() == 0


def test_the_apps_own_beat_schedule_goes_on_beside_ours_and_changes_are_seen(
    database: Database, broker: servers.Broker, start_beat: Beats
) -> None:
    """Ours are added, paused, resumed and changed without a restart, within five seconds."""
    start_beat("tests.integration.beat_app")
    client: Any = broker.client()
    wait_until(lambda: client.llen("theirs") >= 2, "the app's own entry to be sent", 20)
    keep(database, Interval(1))
    wait_until(lambda: len(fired(database)) >= 2, "ours to be fired", 5)

    deployments.set_paused(database, "etl/nightly", True)
    paused, theirs = len(fired(database)), client.llen("theirs")
    wait_until(lambda: client.llen("theirs") >= theirs + 3, "the app's own entry to go on", 10)
    assert len(fired(database)) == paused

    deployments.set_paused(database, "etl/nightly", False)
    wait_until(lambda: len(fired(database)) > paused, "ours to go on", 5)


def test_beat_says_where_no_worker_listens(database: Database, start_beat: Beats) -> None:
    """Once a run is late, with what to do."""
    keep(database, Interval(1), queue="lonely")
    beat = start_beat()
    wait_until(lambda: "no worker listens on queue 'lonely'" in beat.log(), "the warning", 40)
    assert beat.log().count("no worker listens") == 1


def test_ours_are_on_time(database: Database, start_beat: Beats) -> None:
    """A run is written within a second of its time."""
    start_beat()
    keep(database, Interval(1))
    wait_until(lambda: len(fired(database)) >= 5, "ticks", 20)
    query = sa.select(flow_runs.c.created_at - flow_runs.c.scheduled_at)
    assert all(late < 1.0 for late in database.read(lambda connection: connection.scalars(query).all()))


def test_under_another_scheduler_the_workers_fire_ours(
    database: Database, start_beat: Beats, worker_factory: WorkerFactory
) -> None:
    """Beat sends the app's own entries by the scheduler that the app has chosen; ours need no beat then."""
    env = {"ORCHESTRA_TEST_SCHEDULER": "celery.beat:Scheduler"}
    beat = start_beat("tests.integration.beat_app", **env)
    keep(database, Interval(1), queue="nobody")
    worker_factory("tests.integration.flows", app="tests.integration.beat_app", pool="threads", env=env)
    wait_until(lambda: len(fired(database)) >= 3, "ticks by the worker's sweeper", 30)
    assert without_gap(fired(database))
    assert beat.running


def test_a_beat_that_is_stopped_for_a_while_goes_on(database: Database, start_beat: Beats) -> None:
    """By SIGSTOP, as on a suspended machine; with `all` it makes up for what it slept through."""
    beat = start_beat()
    keep(database, Interval(1, catchup="all"))
    wait_until(lambda: len(fired(database)) >= 2, "ticks", 20)
    beat.signal_group(signal.SIGSTOP)
    moment = database.now()
    wait_until(lambda: database.now() > moment + 3, "some seconds to pass", 10)
    beat.signal_group(signal.SIGCONT)
    wait_until(lambda: fired(database)[-1] > moment + 4, "beat to go on", 15)
    assert without_gap(fired(database))


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_beat_goes_on_when_its_database_is_back(
    database: Database, start_beat: Beats, postgres: servers.Postgres
) -> None:
    """While it is away beat says so and tries on; with `all` it makes up for what it missed."""
    proxy = LossyProxy(postgres.port)
    beat = start_beat(ORCHESTRA_DATABASE_URL=database.url.replace(f":{postgres.port}/", f":{proxy.port}/"))
    keep(database, Interval(1, catchup="all"))
    wait_until(lambda: len(fired(database)) >= 2, "ticks", 20)
    proxy.cut()
    moment = database.now()
    wait_until(lambda: database.now() > moment + 6 and "does not answer" in beat.log(), "word of it", 40)
    assert fired(database)[-1] < moment + 1

    proxy.mend()
    wait_until(lambda: fired(database)[-1] > moment + 7, "beat to go on", 30)
    assert without_gap(fired(database))
    assert beat.running
    proxy.close()


def test_a_scheduler_of_the_apps_own_choice_stays(broker: servers.Broker) -> None:
    """Chosen before or after `install`; only Celery's default is replaced."""
    before = Celery("before", broker=broker.url, set_as_current=False)
    before.conf.beat_scheduler = "their.own:Scheduler"
    orchestra.celery.install(before)
    after = orchestra.celery.install(Celery("after", broker=broker.url, set_as_current=False))
    after.conf.beat_scheduler = "their.own:Scheduler"
    source = Celery("source", broker=broker.url, set_as_current=False)
    orchestra.celery.install(source)
    source.config_from_object({"beat_scheduler": "their.own:Scheduler"})
    assert {each.conf.beat_scheduler for each in (before, after, source)} == {"their.own:Scheduler"}
    plain = orchestra.celery.install(Celery("plain", broker=broker.url, set_as_current=False))
    assert plain.conf.beat_scheduler == apps.SCHEDULER


def test_the_example_runs_by_the_clock(
    database: Database, start_beat: Beats, worker_factory: WorkerFactory, tmp_path: Path
) -> None:
    """As a new user would: write the deployment, and beat and a worker do the rest."""
    start_beat()
    worker_factory("tests.integration.flows", pool="threads")
    program = [sys.executable, str(ROOT / "examples/scheduled/reports.py")]
    subprocess.run(program, check=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)})

    def done() -> list[Any]:
        query = sa.select(flow_runs).where(flow_runs.c.state_name == "Completed")
        return database.read(lambda connection: list(connection.execute(query)))

    wait_until(lambda: len(done()) >= 2, "two runs to end well", 30)
    assert {row.flow_name for row in done()} == {"report"}
