"""SIGKILL while a run in a process of its own is retried: it shows as Crashed, and can be retried again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestra.store import tables
from orchestra.store.database import Database
from tests.engine.test_local import rows
from tests.helpers import wait_until

pytestmark = pytest.mark.slow

SCRIPT = """
import os, signal
from dataclasses import dataclass
from orchestra import flow, task

@dataclass
class Range:
    first: int
    last: int

def note(what):
    with open(os.environ["NOTES"], "a") as file:
        file.write(what + "\\n")

@task(persist_result=True)
def extract(first, last):
    note(f"extract {first}")
    return list(range(first, last))

@task(persist_result=False)
def load(numbers):
    note("load")
    if os.environ.get("DIES"):
        os.kill(os.getpid(), signal.SIGKILL)

@flow(persist_result=True)
def work(days: Range):
    assert isinstance(days, Range)
    numbers = extract(days.first, days.last)
    load(numbers)
    if os.environ.get("FAILS"):
        raise ValueError("broken")
    return sum(numbers)

if __name__ == "__main__":
    work(Range(1, 4))
"""


def run(folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments, beside the script."""
    env = os.environ | {"ORCHESTRA_LEASE_SECONDS": "0.5", "NOTES": str(folder / "notes")} | env
    arguments = [sys.executable, *command]
    return subprocess.run(arguments, env=env, cwd=folder, capture_output=True, text=True, check=False)


def retried(database: Database, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Retry the one run that there is, once no process can be thought to hold it."""

    def is_free() -> bool:
        row = only(database)
        return row.phase == "DONE" or row.lease_until < database.now()

    wait_until(is_free, "the lease of the killed process to lapse")
    return run(folder, "-m", "orchestra", "flow-run", "retry", only(database).id, **env)


def only(database: Database) -> Any:
    """The one run that there is."""
    (row,) = rows(database, tables.flow_runs)
    return row


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The project: one script."""
    (tmp_path / "etl.py").write_text(SCRIPT)
    return tmp_path


def notes(folder: Path) -> list[str]:
    """What the bodies have done."""
    return (folder / "notes").read_text().splitlines()


def test_a_script_that_failed_is_retried(database: Database, folder: Path) -> None:
    """Its flow is found in its file, and the class of its parameter; the exit code says how it ends."""
    run(folder, "etl.py", FAILS="yes")

    again, well = retried(database, folder, FAILS="yes"), retried(database, folder)

    assert (again.returncode, well.returncode) == (6, 0), again.stderr + well.stderr
    assert notes(folder) == ["extract 1", "load", "load", "load"]


def test_a_script_that_was_killed_is_retried(database: Database, folder: Path) -> None:
    """Its lease being over it is Crashed; what it had kept by then may answer, and it ends well."""
    run(folder, "etl.py", DIES="yes")

    well = retried(database, folder)

    assert well.returncode == 0, well.stderr
    assert [state.name for state in rows(database, tables.states)] == [
        *("Running", "Crashed", "AwaitingRetry", "Retrying", "Completed")
    ]


@pytest.mark.parametrize(("point", "attempts"), [("before_local_retry", 2), ("after_local_retry", 3)])
def test_a_retry_that_is_killed_can_be_retried(database: Database, folder: Path, point: str, attempts: int) -> None:
    """Before its claim nothing has happened; after it an attempt has Crashed."""
    run(folder, "etl.py", FAILS="yes")

    killed = retried(database, folder, ORCHESTRA_FAILPOINTS=f"{point}=kill")
    well = retried(database, folder)

    assert (killed.returncode, well.returncode) == (-signal.SIGKILL, 0), well.stderr
    assert (only(database).state_name, only(database).run_attempt) == ("Completed", attempts)
    assert notes(folder) == ["extract 1", "load", "load"]


def test_a_retry_whose_body_is_killed_can_be_retried(database: Database, folder: Path) -> None:
    """What was kept in the first attempt answers in the third."""
    run(folder, "etl.py", FAILS="yes")

    killed, well = retried(database, folder, DIES="yes"), retried(database, folder)

    assert (killed.returncode, well.returncode) == (-signal.SIGKILL, 0), well.stderr
    assert (only(database).state_name, only(database).run_attempt) == ("Completed", 3)
    assert notes(folder) == ["extract 1", "load", "load", "load"]
