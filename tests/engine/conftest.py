"""What tests of the engine share: a SQLite database of their own, and a driver that carries its messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestra.store.database import Database
from orchestra.store.database import database as opened
from tests import conftest
from tests.drive import Driver
from tests.engine import flows


@pytest.fixture
def sqlite_database(home: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """This process's database, fresh, on SQLite."""
    with conftest.fresh_database("sqlite", request, home) as url:
        monkeypatch.setenv("ORCHESTRA_DATABASE_URL", url)
        monkeypatch.setenv("ORCHESTRA_LOG_TO_CONSOLE", "false")
        conftest.forget()
        yield opened()


@pytest.fixture
def driver(sqlite_database: Database) -> Driver:
    """Carries messages over a worker with one slot."""
    return Driver(sqlite_database, slots=1)


@pytest.fixture
def effects() -> Iterator[list[str]]:
    """What the bodies in `flows` did, in order."""
    flows.effects.clear()
    flows.attempts["count"] = 0
    flows.switch["on"] = False
    yield flows.effects
    flows.effects.clear()


@pytest.fixture
def switch(effects: list[str]) -> dict[str, bool]:
    """Turns the code of some flows into other code: `switch["on"] = True`."""
    return flows.switch
