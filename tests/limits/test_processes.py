"""A limit that many processes share: it is never exceeded, and a process that is killed leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestra.store import limits, slots
from orchestra.store.database import Database
from tests.helpers import ROOT, wait_until
from tests.limits import holders
from tests.store.test_slots import rows, taken

pytestmark = pytest.mark.slow

PROCESSES, LIMIT = 8, 10


def start(path: Path, rounds: int, seconds: float) -> subprocess.Popen[bytes]:
    """A process with four threads that take slots."""
    command = [sys.executable, "-m", "tests.limits.holders", "shared", str(rounds), str(seconds), str(path)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


def blocks(*paths: Path) -> list[tuple[float, float]]:
    """The begins and ends of all blocks."""
    lines = [line.split() for path in paths for line in path.read_text().splitlines() if " " in line]
    return [(float(begin), float(end)) for begin, end in lines]


def most_at_once(spans: list[tuple[float, float]]) -> int:
    """How many blocks overlap at most."""
    events = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    count = most = 0
    for _, change in events:
        count += change
        most = max(most, count)
    return most


def test_eight_processes_never_exceed_a_limit_of_ten(database: Database, tmp_path: Path) -> None:
    """32 threads take turns; all of them get theirs."""
    limits.create(database, "shared", LIMIT)
    paths = [tmp_path / f"{number}.txt" for number in range(PROCESSES)]
    started = [start(path, 5, 0.01) for path in paths]
    assert [process.wait(120) for process in started] == [0] * PROCESSES

    spans = blocks(*paths)
    assert len(spans) == PROCESSES * holders.THREADS * 5
    assert 1 < most_at_once(spans) <= LIMIT
    assert rows(database) == []


def test_a_killed_process_leaves_its_slots_to_others(database: Database, tmp_path: Path) -> None:
    """Those who wait on the same host see that it is dead; nothing waits for its lease."""
    limits.create(database, "shared", 2)
    gone, lives = tmp_path / "gone.txt", tmp_path / "lives.txt"
    holder = start(gone, 1, 600)
    wait_until(lambda: gone.exists() and gone.read_text().count("in") == 2, "it to have all slots", 30)
    waits = start(lives, 1, 0.01)
    wait_until(lambda: len(rows(database)) == 8, "the other one to stand in line", 30)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait(10)

    assert waits.wait(30) == 0
    assert most_at_once(blocks(lives)) <= 2
    slots.sweep(database)
    slots.expire_dead(database, ["shared"])
    slots.purge(database)
    assert rows(database) == []


def test_the_slots_of_a_process_that_stands_still_go_with_its_lease(database: Database, tmp_path: Path) -> None:
    """It is not dead, and nobody can tell; after the lease of 3 s others have them."""
    limits.create(database, "shared", 2)
    still, lives = tmp_path / "still.txt", tmp_path / "lives.txt"
    holder = start(still, 1, 600)
    # All four have asked: on SQLite, one that is stopped in the midst of a write would hold up everybody.
    wait_until(lambda: taken(database, "shared") == 2 and len(rows(database)) == 4, "it to have all slots", 30)
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        assert taken(database, "shared") == 2
        assert start(lives, 1, 0.01).wait(30) == 0
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait(10)
