"""Both ways of running, over SQLite and PostgreSQL, and a folder for results."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestra import settings
from orchestra.store.database import Database
from tests.drive import Driver
from tests.results import flows
from tests.semantics.conftest import Run


@pytest.fixture
def driver(database: Database, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Carries messages over a worker with one slot."""
    monkeypatch.setenv("ORCHESTRA_LOG_TO_CONSOLE", "false")
    settings.reset()
    return Driver(database, slots=1)


@pytest.fixture(params=["here", "worker"])
def run(request: pytest.FixtureRequest, driver: Driver) -> Run:
    """Runs flows in this process, and as workers do."""
    return Run(driver, request.param)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the flows of `flows` that say so keep results."""
    folder = tmp_path / "kept"
    monkeypatch.setitem(flows.PLACE, "storage", str(folder))
    flows.calls.clear()
    return folder


def files(folder: Path) -> list[Path]:
    """The files of a storage."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
