"""A database of another schema, of another key, or locked: what a process does with it, and what it tells to do."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from orchestra import flow, settings
from orchestra.cli import cli
from orchestra.errors import SchemaMismatch, SecretKeyMismatch, StoreUnavailable
from orchestra.store import database as databases
from orchestra.store.database import Database
from orchestra.store.tables import flow_runs, metadata
from tests.conftest import forget
from tests.helpers import ROOT
from tests.integration import flows

pytestmark = pytest.mark.slow

#: A broker that refuses at once.
NOWHERE = "redis://127.0.0.1:1/0"
#: A revision before the first one, of a time before releases; and one after the last.
OLD, NEW = "0000", "9999"
#: Who works with a database, in this process.
ENTRANCES: dict[str, Callable[[], object]] = {"delay": lambda: flows.both.delay(2), "local": lambda: flows.both(2)}

entrances = pytest.mark.parametrize("enter", ENTRANCES.values(), ids=ENTRANCES)
schemas = pytest.mark.parametrize(("version", "way_out"), [(OLD, "orchestra db upgrade"), (NEW, "install the newer")])


@pytest.fixture(autouse=True)
def nowhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker is set that does not answer: what is started waits."""
    monkeypatch.setenv("ORCHESTRA_BROKER_URL", NOWHERE)
    settings.reset()


@pytest.fixture
def database(database: Database) -> Iterator[Database]:
    """The test's database; what the test itself opens by it is closed at the end."""
    yield database
    database.close()


def execute(database: Database, statement: str) -> None:
    """Change the database under everybody's hands; the next use opens it anew."""
    database.write(lambda connection: connection.exec_driver_sql(statement))
    databases.reset()


def set_version(database: Database, version: str) -> None:
    """Say that the schema is of that revision."""
    execute(database, f"UPDATE alembic_version SET version_num = '{version}'")


def runs(database: Database) -> int:
    """How many runs there are."""
    return database.read(lambda connection: len(connection.execute(sa.select(flow_runs.c.id)).all()))


def orchestra(*args: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, list(args), catch_exceptions=False)


def start_worker(**env: str) -> subprocess.CompletedProcess[str]:
    """Start a worker that is expected to refuse."""
    command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "-c", "1", "-Q", "default"]
    return subprocess.run(command, env={**os.environ, **env}, cwd=ROOT, text=True, capture_output=True, timeout=60)


# -- another schema ----------------------------------------------------------------------------------------------


@entrances
@schemas
def test_a_run_is_not_begun_on_another_schema(
    database: Database, enter: Callable[[], object], version: str, way_out: str
) -> None:
    """The error names both versions and what to type; nothing is written, and nothing runs."""
    set_version(database, version)

    with pytest.raises(SchemaMismatch, match=rf"{version}.*{databases.SCHEMA_VERSION}.*{way_out}"):
        enter()

    assert runs(database) == 0


@pytest.mark.services
@pytest.mark.usefixtures("broker")
def test_a_worker_does_not_start_on_another_schema(database: Database) -> None:
    """One sentence that says what to type, and no traceback."""
    set_version(database, OLD)

    ended = start_worker()

    assert (ended.returncode, "run `orchestra db upgrade`" in ended.stderr) == (1, True), ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_database_whose_revisions_were_taken_back_is_upgraded(database: Database) -> None:
    """What is left of it has no version: the command that a refusal names makes its schema anew."""
    database.write(metadata.drop_all)
    execute(database, "DELETE FROM alembic_version")

    upgraded = orchestra("db", "upgrade")

    assert (upgraded.exit_code, databases.schema_version(database)) == (0, databases.SCHEMA_VERSION), upgraded.stderr
    assert flows.both.delay(1).state.is_pending()


def test_a_revision_that_nobody_knows_is_told_with_the_way_out(database: Database) -> None:
    """No path leads from it to this code's; `db upgrade` says so, and what can be done."""
    flows.both.delay(1)
    set_version(database, OLD)

    refused = orchestra("db", "upgrade")

    assert refused.exit_code == 1
    assert re.fullmatch(rf"Error: [^\n]*{OLD}[^\n]*(orchestra db reset|install)[^\n]*\n", refused.stderr)
    assert databases.schema_version(database) == OLD
    assert runs(database) == 1


def test_a_reset_helps_where_nothing_else_does(database: Database) -> None:
    """Of any revision."""
    flows.both.delay(1)
    for version in (OLD, NEW):
        set_version(database, version)

        assert orchestra("db", "reset", "--yes").exit_code == 0

        assert flows.both.delay(1).state.is_pending()
        assert runs(database) == 1


# -- another key -------------------------------------------------------------------------------------------------


@entrances
def test_a_run_is_not_begun_under_another_key(
    database: Database, enter: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error tells both keys apart without giving them away, and names the setting; nothing is written."""
    monkeypatch.setenv("ORCHESTRA_SECRET_KEY", "sesame")
    forget()

    with pytest.raises(SecretKeyMismatch, match=r"key \w{16}.*key \w{16}.*ORCHESTRA_SECRET_KEY.*secret\.key") as caught:
        enter()

    assert "sesame" not in str(caught.value)
    assert runs(database) == 0


@pytest.mark.services
@pytest.mark.usefixtures("broker")
def test_a_worker_does_not_start_under_another_key(database: Database) -> None:
    """One sentence that names the setting, and no traceback."""
    ended = start_worker(ORCHESTRA_SECRET_KEY="sesame")

    assert (ended.returncode, "ORCHESTRA_SECRET_KEY" in ended.stderr) == (1, True), ended.stderr
    assert "Traceback" not in ended.stderr
    assert "sesame" not in ended.stderr


# -- a locked file -----------------------------------------------------------------------------------------------

_HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
"""


class Lock:
    """Another process that holds a SQLite file locked."""

    def __init__(self, url: str) -> None:
        """Lock it."""
        command = [sys.executable, "-c", _HOLDER, url.removeprefix("sqlite:///")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"locked\n"

    def release(self) -> None:
        """Let it go; may be repeated."""
        self._process.communicate()


@contextmanager
def locked(url: str, seconds: float | None = None) -> Iterator[Lock]:
    """While this holds, or for so many seconds, another process has the file locked."""
    lock = Lock(url)
    timer = threading.Timer(seconds or 0, lock.release)
    if seconds is not None:
        timer.start()
    try:
        yield lock
    finally:
        timer.cancel()
        if timer.ident is not None:
            timer.join()
        lock.release()


@pytest.fixture
def sqlite_url(home: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a fresh SQLite database, in force."""
    home.mkdir()
    url = f"sqlite:///{home / 'orchestra.db'}"
    monkeypatch.setenv("ORCHESTRA_DATABASE_URL", url)
    forget()
    return url


@pytest.fixture
def impatient(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Database:
    """This process's database, which is waited for for a second."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", "2")
    forget()
    opened = databases.database()
    opened.patience = 1.0
    return opened


@entrances
def test_a_file_locked_for_a_while_is_waited_for(sqlite_url: str, enter: Callable[[], object]) -> None:
    """Three seconds cost three seconds, and nothing else."""
    opened, begun = databases.database(), time.monotonic()

    with locked(sqlite_url, 3.0):
        assert enter()

        assert 3 <= time.monotonic() - begun < 10
        assert runs(opened) == 1


def test_an_empty_file_locked_for_a_while_is_waited_for(sqlite_url: str) -> None:
    """Also by the process that is to make its schema."""
    with locked(sqlite_url, 2.0):
        assert flows.both.delay(1).state.is_pending()


@entrances
def test_a_file_locked_for_too_long_is_told(sqlite_url: str, impatient: Database, enter: Callable[[], object]) -> None:
    """The error says what was waited for, for how long, and what to do; afterwards all goes on."""
    with locked(sqlite_url), pytest.raises(StoreUnavailable, match=r"for 1 s .*locked.*orchestra doctor"):
        enter()
    assert runs(impatient) == 0

    assert enter()
    assert runs(impatient) == 1


def test_a_local_run_whose_end_cannot_be_written_still_gives_its_result(
    sqlite_url: str, impatient: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """What it computed is not lost; a warning says that it is not recorded."""

    with ExitStack() as stack, caplog.at_level(logging.WARNING):

        @flow
        def locking() -> str:
            stack.enter_context(locked(sqlite_url, 3.0))
            return "computed"

        assert locking() == "computed"

    assert "the end of this run is not recorded: the database did not answer for 1 s" in caplog.text


def test_a_command_on_a_locked_file_says_so(sqlite_url: str, impatient: Database) -> None:
    """With the exit code of what is away; looking is possible all the while."""
    run_id = flows.both.delay(1).id

    with locked(sqlite_url):
        refused = orchestra("flow-run", "cancel", run_id)
        assert orchestra("flow-run", "inspect", run_id).exit_code == 0

    assert (refused.exit_code, refused.stdout) == (5, "")
    assert re.match(r"Error: .*locked.*orchestra doctor", refused.stderr)
    assert orchestra("flow-run", "cancel", run_id).exit_code == 0
