"""Fixtures of every kind of test: a home of one's own, databases, a broker, workers; and the checks for leaks."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestra import settings
from tests import exploring as exploring  # loads the profile of Hypothesis
from tests import matrix, servers
from tests.helpers import command_line, environment_of, processes, wait_until

#: The processes whose logs are shown when a test fails.
SHOWN = pytest.StashKey[list[servers.Process]]()

WorkerFactory = Callable[..., servers.Worker]


def pytest_report_header() -> str:
    """Which combinations of pool, broker and database this session runs."""
    return matrix.header()


@pytest.fixture(scope="session", autouse=True)
def no_leftovers() -> Iterator[None]:
    """Fail the session if a process that a test started is still there when all fixtures are gone."""
    mark = f"{servers.SESSION_VARIABLE}={uuid.uuid4().hex}"
    os.environ.update([mark.split("=")])
    yield

    def left() -> list[int]:
        mine = [pid for pid in processes() if mark in environment_of(pid)]
        return [pid for pid in mine if "resource_tracker" not in command_line(pid)]

    with contextlib.suppress(AssertionError):
        wait_until(lambda: not left(), "the tests' processes to end", 5)
    leaked = {pid: command_line(pid) for pid in left()}
    for pid in leaked:
        os.kill(pid, signal.SIGKILL)
    assert not leaked, f"left running by the tests: {leaked}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An ORCHESTRA_HOME of the test's own, no other setting, and nothing kept from the test before."""
    for name in [
        name for name in os.environ if name.startswith("ORCHESTRA_") and not name.startswith("ORCHESTRA_TEST_")
    ]:
        monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("ORCHESTRA_HOME", str(folder))
    forget()
    yield folder
    forget()


def forget() -> None:
    """Forget the settings, the Celery apps and the carrier; flush what is written behind and close the database."""
    settings.reset()
    # Not imported here: fast tests that need neither never load Celery or SQLAlchemy.
    for name in ("orchestra.store.behind", "orchestra.store.database"):
        if module := sys.modules.get(name):
            module.reset()
    for name in ("orchestra.celery.apps", "orchestra.celery.dispatch"):
        if module := sys.modules.get(name):
            module.forget()


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    """The session's PostgreSQL server."""
    server = servers.postgres()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_template(postgres: servers.Postgres) -> Iterator[str]:
    """A database with orchestra's schema and nothing in it, to be copied."""
    name = postgres.create()
    make_schema(postgres.url(name))
    yield name
    postgres.drop(name)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with orchestra's schema and nothing in it, to be copied."""
    path = tmp_path_factory.mktemp("template") / "orchestra.db"
    make_schema(f"sqlite:///{path}")
    return path


def make_schema(url: str) -> None:
    """Create orchestra's tables, and nothing of an installation (no key's fingerprint)."""
    from orchestra.store.database import Database, create_schema

    database = Database(url)
    create_schema(database)
    database.close()


@contextlib.contextmanager
def fresh_database(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """The URL of a fresh database with orchestra's schema; dropped, and its connections counted, at the end.

    Args:
        kind: "sqlite" or "postgres".
        request: By which the server and the template are had, only where needed.
        folder: For SQLite's file.
    """
    if kind == "sqlite":
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(request.getfixturevalue("sqlite_template"), folder / "orchestra.db")
        yield f"sqlite:///{folder / 'orchestra.db'}"
        return
    server: servers.Postgres = request.getfixturevalue("postgres")
    name = server.create(template=request.getfixturevalue("postgres_template"))
    try:
        yield server.url(name)
        forget()
        wait_until(lambda: server.connections(name) == 0, "every connection to the test's database to be closed", 5)
    finally:
        server.drop(name)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def database_url(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a fresh database with orchestra's schema, set as ORCHESTRA_DATABASE_URL; on SQLite and PostgreSQL."""
    with fresh_database(request.param, request, home) as url:
        monkeypatch.setenv("ORCHESTRA_DATABASE_URL", url)
        forget()
        yield url


@pytest.fixture
def database(database_url: str) -> Any:
    """This process's database, opened on `database_url`."""
    from orchestra.store.database import database as opened

    return opened()


@pytest.fixture(scope="session")
def broker_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Broker]:
    """The session's Valkey or Redis server."""
    server = servers.Broker(tmp_path_factory.mktemp("broker"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def broker(broker_server: servers.Broker, home: Path, monkeypatch: pytest.MonkeyPatch) -> servers.Broker:
    """An empty broker, set as ORCHESTRA_BROKER_URL; a test that kills it need not start it again."""
    if not broker_server.running:
        broker_server.start()
    broker_server.flush()
    monkeypatch.setenv("ORCHESTRA_BROKER_URL", broker_server.url)
    settings.reset()
    return broker_server


@pytest.fixture(scope="session")
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.RabbitMQ]:
    """The session's RabbitMQ server."""
    server = servers.rabbitmq(tmp_path_factory.mktemp("rabbitmq"))
    yield server
    server.stop()


@pytest.fixture
def rabbitmq(
    rabbitmq_server: servers.RabbitMQ, broker: servers.Broker, monkeypatch: pytest.MonkeyPatch
) -> servers.RabbitMQ:
    """RabbitMQ with empty queues, set as ORCHESTRA_BROKER_URL; a test that kills it need not start it again."""
    if not rabbitmq_server.running:
        rabbitmq_server.start()
    rabbitmq_server.drop_queues("default", "aside")
    monkeypatch.setenv("ORCHESTRA_BROKER_URL", rabbitmq_server.url)
    settings.reset()
    return rabbitmq_server


@pytest.fixture
def worker_factory(broker: servers.Broker, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[WorkerFactory]:
    """Starts Celery workers on the test's broker and database: `worker_factory("module.with.flows", pool="threads")`.

    Keywords go to `servers.Worker`; `env` adds to the environment; `ready=False` does not wait.
    """
    started: list[servers.Worker] = []
    request.node.stash[SHOWN] = started  # type: ignore[assignment]  # a list of a subclass

    def start(*flows: str, env: dict[str, str] | None = None, ready: bool = True, **options: Any) -> servers.Worker:
        surrounding = {**os.environ, "ORCHESTRA_FLOWS": ",".join(flows), "PYTHONUNBUFFERED": "1"}
        log = tmp_path / f"worker{len(started)}.log"
        worker = servers.Worker(log, surrounding | (env or {}), **options)
        started.append(worker)
        return worker.wait_ready() if ready else worker

    yield start
    for worker in started:
        worker.kill_group()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the ends of the workers' logs below a test that failed."""
    report = yield
    # What a test prints of half a character does not pass between pytest's own processes.
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    if report.failed:
        for process in item.stash.get(SHOWN, []):
            report.sections.append((f"log of {process.log_file.name}", process.log()[-6000:]))
    return report
