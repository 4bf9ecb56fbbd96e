"""Messages that seem lost are sent again: ever more seldom, until a worker comes that consumes their queue."""

from __future__ import annotations

import sqlalchemy as sa

from orchestra import settings
from orchestra.store import claims, due, workers
from orchestra.store.claims import Claim
from orchestra.store.database import Database
from orchestra.store.tables import flow_runs, steps
from orchestra.store.workers import WorkerRow
from tests.store.test_races import announced, claimed, dispatch, key, new_run, task

WORKER = WorkerRow("celery@here", "here", 1, ("q",), 4, "prefork", "1.0")


def let_pass(database: Database, seconds: float) -> None:
    """As if so much time had passed."""
    # All instants go back, rather than the clock forward.
    for table in (steps, flow_runs):
        names = ("due_at", "announce_at", "announced_at", "lease_until")
        values = {name: table.c[name] - seconds for name in names}
        database.write(lambda connection, s=sa.update(table).values(values): connection.execute(s).rowcount)  # type: ignore[misc]


def after(database: Database, seconds: float) -> list[str]:
    """The steps whose messages are sent again when so much time has passed."""
    let_pass(database, seconds)
    return announced([due.take_due(database)])


def waiting(database: Database) -> Claim:
    """A run with a task on a queue that nobody consumes."""
    run = new_run(database)
    dispatch(database, run, task(0))
    return run


def repetitions(database: Database, seconds: float, every: float) -> int:
    """How many messages are sent again in so much time."""
    return sum(len(after(database, every)) for _ in range(int(seconds / every)))


def test_messages_to_a_queue_that_nobody_consumes_do_not_pile_up(database: Database) -> None:
    """The time from one to the next doubles, up to ten minutes: a day's are some hundred and fifty, not thousands."""
    lease = settings.current().lease_seconds
    waiting(database)
    assert repetitions(database, 20 * lease, lease / 2) <= 6
    assert after(database, 86_400) == [key(0)]
    assert after(database, due.LONGEST_AHEAD - 1) == []
    assert after(database, due.LONGEST_AHEAD * 0.25 + 2) == [key(0)]


def test_a_worker_that_comes_has_long_waiting_rows_announced_soon(database: Database) -> None:
    """Those of its own queues only."""
    waiting(database)
    after(database, 3_600)
    assert after(database, 60) == []
    workers.register(database, WorkerRow("celery@there", "there", 1, ("other",), 4, "prefork", "1.0"))
    assert after(database, 0) == []
    workers.register(database, WORKER)
    assert after(database, 0) == [key(0)]


def test_a_worker_that_comes_finds_fresh_messages_in_its_queue(database: Database) -> None:
    """They are not sent twice."""
    waiting(database)
    workers.register(database, WORKER)
    assert after(database, 1) == []


def test_a_long_task_whose_worker_died_is_announced_again_as_soon_as_a_short_one(database: Database) -> None:
    """What counts is since when nobody holds it, not since when it was due."""
    lease = settings.current().lease_seconds
    due.keep_watch(database)
    run = waiting(database)
    (dying,) = claimed(database, run, 0)
    let_pass(database, 36_000)
    claims.renew(database, [dying])
    assert after(database, lease + 1) == [key(0)]
    assert after(database, lease * 1.25 + 1) == [key(0)]
