"""Limits over real workers, whose processes are killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from orchestra import settings
from orchestra.concurrency.limits import create_limit
from orchestra.store.database import Database
from tests.conftest import WorkerFactory
from tests.helpers import wait_until
from tests.limits import worker_flows
from tests.limits.test_processes import most_at_once
from tests.store.test_slots import rows, taken

pytestmark = pytest.mark.services

SOON = 60.0


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> Path:
    """The file that bodies write to; leases are short."""
    path = tmp_path / "ledger.txt"
    path.touch()
    monkeypatch.setenv(worker_flows.LEDGER, str(path))
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", "3")
    monkeypatch.setenv("ORCHESTRA_SWEEP_SECONDS", "1")
    settings.reset()
    return path


def lines(path: Path, word: str) -> list[list[str]]:
    """The lines that begin with a word, as words."""
    return [words for line in path.read_text().splitlines() if (words := line.split())[0] == word]


def spans(path: Path) -> list[tuple[float, float]]:
    """When bodies began and ended."""
    return [(float(begin), float(end)) for _, begin, end, _ in lines(path, "span")]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_tagged_tasks_of_two_workers_share_a_limit(
    database: Database, ledger: Path, worker_factory: WorkerFactory, pool: str
) -> None:
    """Four worker slots, and never more than two such tasks at once; other runs go on meanwhile."""
    create_limit("tag:shared", 2)
    for _ in range(2):
        worker_factory(worker_flows.__name__, pool=pool, concurrency=2)
    handles = [worker_flows.tagged_many.delay(count=8) for _ in range(2)]
    assert worker_flows.short.delay().result(timeout=SOON) == "short"

    assert [handle.result(timeout=SOON) for handle in handles] == [[-1, *range(8)]] * 2
    assert len(spans(ledger)) == 18
    assert most_at_once(spans(ledger)) == 2
    wait_until(lambda: rows(database) == [], "all slots to be given back", 5)


def test_one_worker_slot_is_enough_for_flows_that_wait(
    database: Database, ledger: Path, worker_factory: WorkerFactory
) -> None:
    """One sleeps in its block, two wait for it, and the slot is free for others."""
    create_limit("shared", 1)
    worker_factory(worker_flows.__name__, concurrency=1)
    handles = [worker_flows.parks_in_a_block.delay(what=what, seconds=1.2) for what in "abc"]
    wait_until(lambda: len(rows(database)) == 3, "all three to ask", 20)
    assert worker_flows.short.delay().result(timeout=SOON) == "short"
    assert lines(ledger, "out") == []

    assert [handle.result(timeout=SOON) for handle in handles] == ["a", "b", "c"]
    events = [words[:2] for line in ledger.read_text().splitlines() if (words := line.split())]
    order = [what for word, what in events if word == "in"]
    assert sorted(order[:1] + [what for word, what in events if word == "out"]) == sorted([order[0], *"abc"])
    wait_until(lambda: rows(database) == [], "all slots to be given back", 5)


def test_the_slot_of_a_killed_task_is_free_within_its_lease(
    database: Database, ledger: Path, worker_factory: WorkerFactory
) -> None:
    """And the task, run again by another worker, waits in line for a new one."""
    create_limit("shared", 1)
    first = worker_factory(worker_flows.__name__, concurrency=2)
    long = worker_flows.holds.delay(what="long")
    wait_until(lambda: len(lines(ledger, "in")) == 1, "the first to have the slot", 20)
    assert taken(database, "shared") == 1
    worker_factory(worker_flows.__name__, concurrency=2)
    other = worker_flows.holds.delay(what="other")
    first.kill_group()

    assert other.result(timeout=SOON) == "other"
    assert long.result(timeout=SOON) == "long"
    assert most_at_once(spans(ledger)) == 1
    wait_until(lambda: rows(database) == [], "all slots to be gone", 10)


def test_a_killed_child_leaves_no_slot(database: Database, ledger: Path, worker_factory: WorkerFactory) -> None:
    """Of a worker that lives on."""
    create_limit("shared", 1)
    worker_factory(worker_flows.__name__, concurrency=2)
    long = worker_flows.holds.delay(what="long")
    wait_until(lambda: len(lines(ledger, "in")) == 1, "it to have the slot", 20)
    os.kill(int(lines(ledger, "in")[0][-1]), signal.SIGKILL)

    assert long.result(timeout=SOON) == "long"
    wait_until(lambda: rows(database) == [], "all slots to be gone", 10)
