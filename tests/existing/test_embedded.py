"""A worker inside another program, as Celery's fixtures for tests (`celery_worker`) start it."""

from __future__ import annotations

import threading

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from orchestra.celery import apps
from orchestra.celery.dispatch import carrier
from orchestra.store import workers
from orchestra.store.database import Database, database
from tests.existing import project

pytestmark = pytest.mark.slow


def test_flows_run_on_an_embedded_worker_and_nothing_of_it_stays(sqlite_database: Database, app: Celery) -> None:
    """Not a thread, not a row of a worker that lives, no thought that this process is one."""
    before = set(threading.enumerate())

    with start_worker(app, loglevel=0, perform_ping_check=False, shutdown_timeout=30):
        assert project.direct.delay("third_time", []).result(timeout=30) == 2
        assert len(workers.live(database())) == 1

    assert [thread.name for thread in set(threading.enumerate()) - before if "orchestra-sweeper" in thread.name] == []
    assert workers.live(database()) == []
    assert not apps.in_pool_child()
    assert carrier().queues == frozenset()


def test_the_end_of_one_worker_leaves_another_one_of_its_process_at_work(
    sqlite_database: Database, app: Celery
) -> None:
    """It goes on to be looked after."""
    with start_worker(app, loglevel=0, perform_ping_check=False, shutdown_timeout=30) as worker:
        app.WorkController(pool="solo", hostname="other@here").stop()

        assert [each.name for each in workers.live(database())] == [worker.hostname]
