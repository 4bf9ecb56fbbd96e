"""The counts of the dashboard: each part of a time is counted once, and none is wrong."""

from __future__ import annotations

import random

import pytest

from orchestra.server.throughput import Throughput
from orchestra.store import run_lists
from orchestra.store.database import Database
from tests.store.test_queries import add_run

HOUR = 3600.0
BEGIN = 1_800_000 * HOUR


def test_every_end_is_counted_however_often_it_is_asked(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is over is not counted again, though the time goes on."""
    chance, counted = random.Random(3), []
    for _ in range(200):
        end = BEGIN + chance.random() * 10 * HOUR
        add_run(database, at=end - 2, end_time=end, state_type=chance.choice(["FAILED", "COMPLETED"]))
    count = run_lists.ended_since

    def noted(db: Database, since: float, until: float, *, parts: int) -> list[run_lists.Ended]:
        counted.append(parts)
        return count(db, since, until, parts=parts)

    monkeypatch.setattr(run_lists, "ended_since", noted)
    kept = Throughput()
    for until in (BEGIN + 8.5 * HOUR, BEGIN + 8.6 * HOUR, BEGIN + 9.9 * HOUR, BEGIN + 10 * HOUR):
        assert kept.ended(database, until, 8 * HOUR, parts=8) == Throughput().ended(database, until, 8 * HOUR, parts=8)

    assert counted[::2] == [8, 1, 2, 2]
    assert sum(part.total for part in kept.ended(database, BEGIN + 10.5 * HOUR, 11 * HOUR, parts=11)) == 200
