"""Many who ask for one key at once, in many processes: one computes; where it dies, the next one does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from orchestra.store import cache, cache_records
from orchestra.store.database import Database
from orchestra.store.tables import slots, steps
from tests.conftest import WorkerFactory
from tests.helpers import ROOT, wait_until
from tests.integration import cache_flows, flows

pytestmark = pytest.mark.services


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Where bodies note that they start."""
    return str(tmp_path / "notes")


@contextmanager
def asking(
    file: str, processes: int, threads: int, *, name: str = "slow", seconds: float = 0.3
) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that ask for one key, from several threads each."""
    code = f"from tests.integration import cache_flows as c; c.ask_in_threads({name!r}, {file!r}, {seconds}, {threads})"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ORCHESTRA_LOG_TO_CONSOLE": "false"}
    folder = Path(file).parent
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=env, cwd=folder, text=True, stdout=subprocess.PIPE)
        for _ in range(processes)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def answers(processes: list[subprocess.Popen[str]]) -> list[str]:
    """All that they print, once they have ended."""
    found = []
    for process in processes:
        found += process.communicate(timeout=60)[0].split()
        assert process.returncode == 0
    return found


@pytest.mark.parametrize("name", ["slow", "managed"])
def test_of_fifty_callers_in_eight_processes_one_computes(database: Database, file: str, name: str) -> None:
    """The others are answered with its result; no lock is left behind."""
    with asking(file, 8, 7, name=name) as processes:
        found = answers(processes)

    assert found == ["14"] * 56
    assert len(flows.notes(file)) == 1
    assert database.read(lambda c: c.scalar(sa.select(sa.func.count()).select_from(slots))) == 0


def test_where_the_one_who_computes_is_killed_the_next_one_does(database: Database, file: str) -> None:
    """At once on the same host, however long its lease."""
    with asking(file, 4, 2, seconds=2.0) as processes:
        wait_until(lambda: flows.notes(file), "a body to start", 30)
        dead = next(process for process in processes if process.pid == int(flows.notes(file)[0]))
        dead.kill()
        dead.wait()
        killed_at = time.monotonic()
        wait_until(lambda: len(flows.notes(file)) == 2, "the next one to start", 20)
        assert time.monotonic() - killed_at < 10
        found = answers([process for process in processes if process is not dead])

    assert found == ["14"] * 6
    assert len(flows.notes(file)) == 2


@pytest.mark.alone
def test_runs_on_workers_compute_once_and_hold_no_slot_while_they_wait(
    database: Database, worker_factory: WorkerFactory, file: str, short_lease: None
) -> None:
    """Direct calls of several runs, and submitted ones; another run gets the free slots meanwhile."""
    worker_factory("tests.integration.cache_flows", concurrency=2)
    handles = [cache_flows.asks.delay(1, file, 3.0) for _ in range(5)]
    handles.append(cache_flows.asks_often.delay(1, file, 3.0, 5))  # type: ignore[arg-type]
    wait_until(lambda: flows.notes(file), "the body to start", 30)
    asked_at = time.monotonic()

    assert cache_flows.other_work.delay(1).result(timeout=30) == 2
    assert time.monotonic() - asked_at < 3.0
    assert [handle.result(timeout=60) for handle in handles] == [2, 2, 2, 2, 2, [2] * 5]
    assert len(flows.notes(file)) == 1
    names = database.read(lambda c: list(c.scalars(sa.select(steps.c.state_name).where(steps.c.name.like("slow-%")))))
    assert sorted(names) == ["Cached"] * 9 + ["Completed"]


def test_where_the_worker_that_computes_is_killed_a_waiting_step_does(
    database: Database, worker_factory: WorkerFactory, file: str, short_lease: None
) -> None:
    """Its slot goes with its claim; whoever is next computes."""
    first = worker_factory("tests.integration.cache_flows", concurrency=1)
    handles = [cache_flows.asks.delay(1, file, 60.0)]
    wait_until(lambda: flows.notes(file), "the body to start", 30)
    worker_factory("tests.integration.cache_flows", concurrency=1)
    handles += [cache_flows.asks.delay(1, file, 0.2) for _ in range(3)]
    waiting = sa.select(sa.func.count()).select_from(slots).where(slots.c.taken_at.is_(None))
    wait_until(lambda: database.read(lambda c: c.scalar(waiting)), "a step to wait for the lock", 30)
    first.kill_group()

    assert [handle.result(timeout=60) for handle in handles] == [2] * 4
    assert len(flows.notes(file)) == 2
    assert len(cache_records.list_entries(database, cache.Query(task="slow"), limit=9).items) == 1
