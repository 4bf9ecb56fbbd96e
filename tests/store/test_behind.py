"""Writing behind: rows arrive in order, once each, and never hold up or fail the one who adds them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra import settings
from orchestra.errors import StoreUnavailable
from orchestra.store import behind, tables
from orchestra.store import logs as log_store
from orchestra.store.behind import WriteBehind
from orchestra.store.database import Database
from tests.helpers import ROOT, wait_until
from tests.servers import Postgres
from tests.store.rows import add_run

pytestmark = pytest.mark.slow

Writers = Callable[..., WriteBehind]


@pytest.fixture
def writers() -> Iterator[Writers]:
    """Makes writers behind, and closes them at the end."""
    made: list[WriteBehind] = []

    def make(*args: Any, **options: Any) -> WriteBehind:
        made.append(WriteBehind(*args, **options))
        return made[-1]

    yield make
    for writer in made:
        writer.close(1)


def line(run_id: str, message: str, branch: str | None = None, ordinal: int | None = None) -> dict[str, Any]:
    """A row of the logs table."""
    return {
        "run_id": run_id,
        "step_id": None,
        "logger": "orchestra.flow_runs",
        "level": 20,
        "message": message,
        "timestamp": time.time(),
        "branch": branch,
        "ordinal": ordinal,
    }


def messages(database: Database, run_id: str) -> list[str]:
    """What is stored of a run's log."""
    return [found.message for found in log_store.read(database, run_id, limit=100_000)]


def test_rows_arrive_in_order_once_each(database: Database, writers: Writers) -> None:
    """Thousands of rows are written in batches, as they were added."""
    run_id, writer = add_run(database), writers(database)
    expected = [f"line {number}" for number in range(3000)]

    for message in expected:
        writer.add(tables.logs, line(run_id, message))

    assert writer.flush()
    assert expected == messages(database, run_id)


def test_an_expected_row_is_written_unless_it_was_withdrawn(database: Database, writers: Writers) -> None:
    """In time, before what is added after it; whoever withdraws it is told whether it came too late."""
    run_id, writer = add_run(database), writers(database, interval=0.05)
    writer.expect(tables.logs, "a", line(run_id, "taken back"))
    assert writer.withdraw("a")
    writer.expect(tables.logs, "b", line(run_id, "written"))
    wait_until(lambda: messages(database, run_id) == ["written"], "the row to be written")

    assert not writer.withdraw("b")
    writer.expect(tables.logs, "c", line(run_id, "first"))
    writer.add(tables.logs, line(run_id, "second"))
    assert writer.flush()
    assert messages(database, run_id) == ["written", "first", "second"]


def test_a_writer_lives_on_though_all_was_withdrawn(database: Database, writers: Writers) -> None:
    """It finds nothing to write when the time has come, and writes what comes next."""
    run_id, writer = add_run(database), writers(database, interval=0.01)
    for number in range(20):
        writer.expect(tables.logs, str(number), line(run_id, "taken back"))
        writer.withdraw(str(number))
    writer.add(tables.logs, line(run_id, "kept"))

    assert writer.flush()
    assert messages(database, run_id) == ["kept"]


def test_rows_arrive_without_a_flush(database: Database, writers: Writers) -> None:
    """A lone row waits for company no longer than the interval."""
    run_id, writer = add_run(database), writers(database, interval=0.05)

    writer.add(tables.logs, line(run_id, "alone"))

    wait_until(lambda: messages(database, run_id) == ["alone"], "the row to arrive", 5)


def test_a_row_behind_a_drop_arrives_without_a_flush(database: Database, writers: Writers) -> None:
    """The row and the line that tells of the drop wake the writer together."""
    run_id, writer = add_run(database), writers(database, interval=0.01, max_size=100)
    assert not writer.add(tables.logs, line(run_id, "x" * 200))

    writer.add(tables.logs, line(run_id, "small"))

    wait_until(lambda: messages(database, run_id)[-1:] == ["small"], "the row to arrive", 5)


def test_rows_of_several_threads_keep_the_order_of_each(database: Database, writers: Writers) -> None:
    """Threads interleave, but none of them is reordered, and nothing is lost or doubled."""
    run_id, writer = add_run(database), writers(database)

    def add(name: str) -> None:
        for number in range(300):
            writer.add(tables.logs, line(run_id, f"{name} {number}"))

    threads = [threading.Thread(target=add, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.flush()

    stored = messages(database, run_id)
    for name in "abcd":
        assert [f"{name} {number}" for number in range(300)] == [text for text in stored if text[0] == name]


def test_tables_are_written_in_the_order_of_their_rows(database: Database, writers: Writers) -> None:
    """A row may refer to one of another table that was added before it."""
    run_id, writer = add_run(database), writers(database)
    state = {"run_id": run_id, "step_id": None, "type": "RUNNING", "name": "Running", "message": None, "timestamp": 1.0}

    writer.add(tables.states, state)
    writer.add(tables.logs, line(run_id, "hello"))
    writer.flush()

    assert database.read(lambda connection: connection.scalars(sa.select(tables.states.c.name)).all()) == ["Running"]
    assert messages(database, run_id) == ["hello"]


@pytest.mark.parametrize("bad", ["nul \0 in text", "surrogate \ud800 in text"])
def test_a_row_the_database_refuses_costs_only_itself(database: Database, writers: Writers, bad: str) -> None:
    """Ninety-nine neighbours of a bad row are kept, in order; a line tells of the one that is not."""
    run_id, writer = add_run(database), writers(database)
    orphan = line("no such run", bad)

    for number in range(100):
        writer.add(tables.logs, orphan if number == 50 else line(run_id, f"line {number}"))

    assert writer.flush()
    assert [f"line {number}" for number in range(100) if number != 50] == messages(database, run_id)
    assert writer.dropped == 1


def test_lines_of_a_deleted_run_do_not_stop_the_others(database: Database, writers: Writers) -> None:
    """Hundreds of refused rows are given up, and what comes behind them is written."""
    run_id, writer = add_run(database), writers(database)

    for _ in range(300):
        writer.add(tables.logs, line("deleted", "late"))
    writer.add(tables.logs, line(run_id, "still here"))

    assert writer.flush(20)
    assert messages(database, run_id) == ["still here"]


def test_a_numbered_line_is_written_once(database: Database, writers: Writers) -> None:
    """A line that is there already is skipped, and its neighbours are kept."""
    run_id, writer = add_run(database), writers(database)

    for ordinal in (0, 1, 0, 1, 2):
        writer.add(tables.logs, line(run_id, f"line {ordinal}", "body", ordinal))
    writer.flush()

    assert messages(database, run_id) == ["line 0", "line 1", "line 2"]


def test_a_full_queue_drops_rows_and_says_how_many(database: Database, writers: Writers) -> None:
    """While the database is away rows beyond the bound are dropped at once; a line shows it where they are missing."""
    run_id, gate = add_run(database), threading.Event()

    def open_later() -> Database:
        gate.wait()
        return database

    writer = writers(open_later, max_rows=10, interval=0.01)
    writer.add(tables.logs, line(run_id, "first"))
    wait_until(lambda: writer.add(tables.logs, line(run_id, "fill")) is False, "the queue to be full", 5, every=0)
    assert not writer.add(tables.logs, line(run_id, "too many"))

    gate.set()
    writer.flush()
    writer.add(tables.logs, line(run_id, "after"))
    writer.flush()

    stored = messages(database, run_id)
    assert stored[0] == "first"
    assert stored[-1] == "after"
    assert any("2 lines dropped here" in text for text in stored)


def test_the_queue_is_bounded_by_size_too(writers: Writers) -> None:
    """A few huge rows fill the queue as many small ones do."""
    writer = writers(_away, max_size=1000)

    assert writer.add(tables.logs, line("run", "x" * 900))
    assert not writer.add(tables.logs, line("run", "x" * 900))


def test_rows_to_be_kept_are_queued_beyond_the_bound(database: Database, writers: Writers) -> None:
    """`keep=True` is never dropped for a full queue."""
    run_id, writer = add_run(database), writers(database, max_rows=0)

    assert not writer.add(tables.logs, line(run_id, "plain"))
    assert writer.add(tables.logs, line(run_id, "kept"), keep=True)

    writer.flush()
    assert "kept" in messages(database, run_id)


def test_adding_does_not_wait_for_a_database_that_is_away(writers: Writers) -> None:
    """A thousand rows are taken at once, and a flush gives up when its time is over."""
    writer = writers(_away)
    begin = time.monotonic()

    for number in range(1000):
        assert writer.add(tables.logs, line("run", f"line {number}"))

    assert not writer.flush(0.05)
    assert time.monotonic() - begin < 2


def test_lines_arrive_when_a_locked_database_is_free_again(
    home: Any, sqlite_template: Any, tmp_path: Any, writers: Writers
) -> None:
    """Another process may hold SQLite's write lock for long: nothing is lost and nobody waits."""
    settings.override(lease_seconds=0.2)
    url = f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'locked.db')}"
    database = Database(url, patience=0.05)
    run_id, writer = add_run(database), writers(database, pause=0.05)
    other = Database(url)

    def hold(connection: sa.Connection) -> None:
        for number in range(100):
            writer.add(tables.logs, line(run_id, f"line {number}"))
        assert not writer.flush(0.5)

    other.write(hold)

    assert writer.flush()
    assert [f"line {number}" for number in range(100)] == messages(database, run_id)
    other.close()
    database.close()


@pytest.mark.services
def test_lines_arrive_when_postgresql_was_restarted(
    postgres: Postgres, postgres_template: str, writers: Writers
) -> None:
    """The server goes down at once and comes back in the middle: every line is there, once."""
    if not postgres.may_restart:
        pytest.skip("this PostgreSQL is not ours to restart")
    name = postgres.create(template=postgres_template)
    database = Database(postgres.url(name), patience=0.2)
    run_id, writer = add_run(database), writers(database, interval=0.001, pause=0.05)
    restarted = threading.Event()
    added: list[str] = []

    def add() -> None:
        while not restarted.wait(0.001):
            added.append(f"line {len(added)}")
            writer.add(tables.logs, line(run_id, added[-1]))

    adding = threading.Thread(target=add)
    adding.start()
    # Here and not in a thread: the server ends with the thread that started it.
    postgres.restart()
    restarted.set()
    adding.join()

    assert writer.flush(30)
    assert added == messages(database, run_id)
    writer.close()
    database.close()
    postgres.drop(name)


def test_a_batch_is_written_once_when_the_answer_to_its_commit_is_lost(database: Database, writers: Writers) -> None:
    """The batch is recognised when it is tried again."""
    run_id, writer = add_run(database), writers(_LosesAnswers(database, 3), pause=0.01)

    for number in range(20):
        writer.add(tables.logs, line(run_id, f"line {number}"))

    assert writer.flush()
    assert [f"line {number}" for number in range(20)] == messages(database, run_id)


def test_a_forked_child_writes_its_own_lines_and_none_of_its_parents(database: Database, database_url: str) -> None:
    """What was queued before a fork is written by the parent only; the child begins with an empty queue."""
    run_id = add_run(database)
    environment = {**os.environ, "ORCHESTRA_DATABASE_URL": database_url}

    subprocess.run([sys.executable, "-c", _FORKING, run_id], env=environment, cwd=ROOT, check=True, timeout=60)

    assert sorted(["before", "parent", "child 0", "child 1", "pooled"]) == sorted(messages(database, run_id))


_FORKING = """
import multiprocessing, os, sys, time
from orchestra.store import behind, tables

def line(message):
    row = dict(run_id=sys.argv[1], step_id=None, logger="x", level=20, message=message, timestamp=time.time())
    behind.behind().add(tables.logs, row)

writer = behind.behind()
line("before")
for number in range(2):
    if os.fork() == 0:
        line(f"child {number}")
        os._exit(0 if writer.flush() else 1)
    assert os.wait()[1] == 0
line("parent")
process = multiprocessing.get_context("fork").Process(target=line, args=("pooled",))
process.start()
process.join()
"""


def test_lines_are_written_when_the_process_ends(database: Database, database_url: str) -> None:
    """A script need not flush; lines of exit handlers registered later than orchestra's are written too."""
    run_id = add_run(database)
    environment = {**os.environ, "ORCHESTRA_DATABASE_URL": database_url}

    subprocess.run([sys.executable, "-c", _ENDING, run_id], env=environment, cwd=ROOT, check=True, timeout=60)

    assert messages(database, run_id) == ["last", "very last"]


_ENDING = """
import atexit, sys, time
from orchestra.store import logs

def line(message):
    logs.keep(sys.argv[1], message, level=20, logger="x", timestamp=time.time())

atexit.register(line, "very last")
line("last")
"""


def test_a_signal_handler_may_add_rows(database: Database, writers: Writers) -> None:
    """Adding does not lock up where the same thread is inside of `add` already."""
    run_id, writer = add_run(database), writers(database)
    inner: list[bool] = []
    outer: list[bool] = []

    def interrupt(*_: object) -> None:
        inner.append(writer.add(tables.logs, line(run_id, "inner")))

    former = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        while len(inner) < 50:
            outer.append(writer.add(tables.logs, line(run_id, "outer")))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)

    assert writer.flush(20)
    stored = messages(database, run_id)
    assert (stored.count("inner"), stored.count("outer")) == (sum(inner), sum(outer))


def test_the_writer_of_this_process_can_be_forgotten(database: Database) -> None:
    """`reset` flushes; the next use begins anew."""
    run_id = add_run(database)

    behind.behind().add(tables.logs, line(run_id, "one"))
    behind.reset()
    behind.behind().add(tables.logs, line(run_id, "two"))

    assert behind.flush()
    assert messages(database, run_id) == ["one", "two"]


def _away() -> Database:
    raise StoreUnavailable("the database is away")


class _LosesAnswers(Database):
    """Commits, and then says a few times that it did not answer."""

    def __init__(self, database: Database, times: int) -> None:
        self._database, self._times = database, times

    def write(self, work: Callable[[sa.Connection], Any], *, durable: bool = False) -> Any:
        done = self._database.write(work)
        if self._times:
            self._times -= 1
            raise StoreUnavailable("the answer was lost")
        return done
