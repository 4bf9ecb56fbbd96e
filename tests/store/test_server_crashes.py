"""PostgreSQL crashes right after a commit: what the process goes on from is there when it is back."""

from __future__ import annotations

import pytest

from orchestra.store import waits
from orchestra.store.database import Database
from orchestra.store.tables import Phase
from orchestra.store.waits import Park
from tests import servers
from tests.store.test_races import dispatch, key, new_run, phases, row, task, window

pytestmark = [pytest.mark.services, pytest.mark.parametrize("database_url", ["postgres"], indirect=True)]


def test_dispatched_steps_are_kept(database: Database, postgres: servers.Postgres) -> None:
    """The body goes on behind them: without them its journal would have a hole."""
    run = new_run(database)
    dispatch(database, run, task(0), task(1))

    postgres.restart()

    assert phases(database, run) == {key(0): (Phase.READY, "Pending"), key(1): (Phase.READY, "Pending")}


def test_a_park_is_kept(database: Database, postgres: servers.Postgres) -> None:
    """Nobody holds the run any more: a claim that came back would be renewed for as long as its process lives."""
    run = new_run(database)
    dispatch(database, run, task(0))
    assert waits.park(database, run, Park((key(0),)), window=window).parked

    postgres.restart()

    assert row(database, run)["phase"] == Phase.WAITING
