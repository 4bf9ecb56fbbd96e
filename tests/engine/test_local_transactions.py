"""Transactions of runs that are called in a process, and end with it, or by Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra import flow, task
from orchestra.celery.sweeper import Sweeper
from orchestra.errors import ConfigurationError
from orchestra.store import tables, transactions
from orchestra.store.database import Database
from orchestra.transaction_rules import Durable
from orchestra.transactions import IsolationLevel, Transaction, transaction
from tests.drive import ListCarrier
from tests.engine.test_local import rows
from tests.helpers import wait_until

pytestmark = pytest.mark.slow

EFFECTS: list[str] = []


@task
def book(what: str) -> None:
    """Can be undone."""
    EFFECTS.append(f"book {what}")


@book.on_rollback
def cancel(txn: Transaction) -> None:
    """Undoes it."""
    EFFECTS.append("cancel")


@flow
def left(error: Any) -> None:
    """Is left inside of a block."""
    with transaction() as txn:
        book("flight")
        txn.on_rollback(EFFECTS.append, "noted")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_leaving_the_program_rolls_back_here(database: Database, error: type[BaseException]) -> None:
    """Ctrl-C and `sys.exit()` undo what the block did, before they reach the caller."""
    EFFECTS.clear()
    with pytest.raises(error):
        left(error)

    assert EFFECTS == ["book flight", "noted", "cancel"]
    (run,) = rows(database, tables.flow_runs)
    assert run.state_name == "Crashed"
    assert [row.state for row in transactions.load(database, run.id, 1)] == [Durable.ROLLED_BACK]


SCRIPT = """
import os, signal
from orchestra import flow, task
from orchestra.transactions import transaction

def note(what):
    with open(os.environ["NOTES"], "a") as file:
        file.write(what + "\\n")

@task
def book(what):
    note(f"book {what}")

@book.on_rollback
def cancel(txn):
    note(f"cancel for {txn.get('customer')}")

@task
def release(what):
    note(f"release {what}")

@flow
def work():
    with transaction() as txn:
        txn.set("customer", "Ada")
        book("flight")
        txn.on_rollback(release, "seat")
        if os.environ.get("LAMBDA"):
            import threading
            closed = threading.Lock()
            txn.on_rollback(lambda: closed)
        txn.on_rollback(note, "noted")
        txn.on_commit(note, "sent")
        if not os.environ.get("ENDS"):
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    work()
"""

NEXT = [
    pytest.param(["-c", "from orchestra import flow\n@flow\ndef next_one(): ...\nnext_one()"], id="run"),
    pytest.param(["-m", "orchestra", "flow-run", "ls"], id="command"),
]


def ran(database: Database, folder: Path, **env: str) -> tuple[Any, Path]:
    """A script that opens a block, and is killed in it (with `ENDS`, leaves it); gives its run, and what it notes."""
    script, notes = folder / "trip.py", folder / "notes"
    script.write_text(SCRIPT)
    env = os.environ | {"ORCHESTRA_LEASE_SECONDS": "0.5", "NOTES": str(notes)} | env
    subprocess.run([sys.executable, str(script)], env=env, cwd=folder, check=False)
    (run,) = rows(database, tables.flow_runs)
    return run, notes


def killed_in_a_block(database: Database, folder: Path, **env: str) -> tuple[Any, Path]:
    """As `ran`; its lease is over."""
    run, notes = ran(database, folder, **env)
    wait_until(lambda: run.lease_until < database.now(), "the lease of the killed run to lapse")
    return run, notes


@pytest.mark.parametrize("command", NEXT)
def test_the_next_process_rolls_back_what_a_killed_one_did(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """Newest first, from its script, and then the run shows as Crashed."""
    run, notes = killed_in_a_block(database, tmp_path)
    monkeypatch.setenv("NOTES", str(notes))

    subprocess.run([sys.executable, *command], check=True, cwd=tmp_path)

    assert notes.read_text().splitlines() == ["book flight", "noted", "release seat", "cancel for Ada"]
    assert rows(database, tables.flow_runs)[0].state_name == "Crashed"
    assert [row.state for row in transactions.load(database, run.id, 1)] == [Durable.ROLLED_BACK]


@pytest.mark.parametrize(
    ("point", "ended", "noted"),
    [
        ("before_commit", Durable.ROLLED_BACK, ["noted", "release seat", "cancel for Ada"]),
        ("after_commit_decided", Durable.COMMITTED, ["sent"]),
    ],
)
def test_an_error_at_the_commit_is_on_one_side_of_it(
    database: Database, tmp_path: Path, point: str, ended: Durable, noted: list[str]
) -> None:
    """Until it is decided all is undone, from then on nothing; the run fails either way."""
    run, notes = ran(database, tmp_path, ENDS="yes", ORCHESTRA_FAILPOINTS=f"{point}=raise")

    assert notes.read_text().splitlines() == ["book flight", *noted]
    assert run.state_name == "Failed"
    assert [row.state for row in transactions.load(database, run.id, 1)] == [ended]


def test_what_cannot_be_run_elsewhere_is_shown(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other hooks run, and the run ends as RollbackFailed."""
    run, notes = killed_in_a_block(database, tmp_path, LAMBDA="yes")
    monkeypatch.setenv("NOTES", str(notes))

    subprocess.run([sys.executable, "-m", "orchestra", "flow-run", "ls"], check=True, cwd=tmp_path)

    assert notes.read_text().splitlines() == ["book flight", "noted", "release seat", "cancel for Ada"]
    ended = rows(database, tables.flow_runs)[0]
    assert (ended.state_type, ended.state_name) == ("FAILED", "RollbackFailed")
    assert "<lambda>" in ended.state_message
    assert [row.state for row in transactions.load(database, run.id, 1)] == [Durable.ROLLBACK_FAILED]


def test_a_sweeper_rolls_back_what_a_killed_process_did(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no other local process comes."""
    run, notes = killed_in_a_block(database, tmp_path)
    monkeypatch.setenv("NOTES", str(notes))
    monkeypatch.chdir(tmp_path)
    sweeper = Sweeper(database, ListCarrier())

    def is_rolled_back() -> bool:
        sweeper.hasten()
        sweeper.tick()
        return [row.state for row in transactions.load(database, run.id, 1)] == [Durable.ROLLED_BACK]

    wait_until(is_rolled_back, "the rollback")
    wait_until(lambda: rows(database, tables.flow_runs)[0].state_name == "Crashed", "the end of the run")
    assert notes.read_text().splitlines() == ["book flight", "noted", "release seat", "cancel for Ada"]


def test_only_one_thread_at_a_time_works_for_a_serializable_key(database: Database) -> None:
    """The second waits for the end of the first one's block."""
    begun, may_end = threading.Event(), threading.Event()

    @flow
    def serial() -> str:
        with transaction(key="invoice", isolation_level=IsolationLevel.SERIALIZABLE) as txn:
            if txn.is_committed():
                return "found it"
            begun.set()
            assert may_end.wait(30)
            txn.stage(1)
        return "did it"

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(serial)
        assert begun.wait(30)
        second = pool.submit(serial)
        wait_until(lambda: is_waiting(database), "the second one to wait")
        may_end.set()
        assert (first.result(30), second.result(30)) == ("did it", "found it")


def is_waiting(database: Database) -> bool:
    """Whether anybody waits for a slot."""
    query = sa.select(tables.slots.c.id).where(tables.slots.c.taken_at.is_(None))
    return database.read(lambda connection: connection.scalar(query)) is not None


def test_what_serializable_needs_is_said() -> None:
    """A key; and to be committed with its own block."""
    with pytest.raises(ConfigurationError, match="give the transaction one, by key="):
        transaction(isolation_level=IsolationLevel.SERIALIZABLE).__enter__()
    inner = transaction(key="k", isolation_level=IsolationLevel.SERIALIZABLE)
    with transaction(), pytest.raises(ConfigurationError, match=r"commit_mode=CommitMode\.EAGER"):
        inner.__enter__()
