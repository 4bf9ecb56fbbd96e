"""The arena: a database, a broker and two workers that are killed, stopped and started again, test after test."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra.store import events
from orchestra.store.database import Database
from orchestra.store.events import EventFilter, EventRecord
from orchestra.store.tables import Kind, Phase, flow_runs, steps
from tests import servers
from tests.conftest import SHOWN, forget, fresh_database
from tests.crash import flows, ledger
from tests.helpers import children, process_state, wait_until

#: Of every claim here, and the period of the sweep; in seconds.
LEASE, SWEEP = 2.0, 1.0
#: What a busy machine of two cores may add to a recovery, in seconds.
MARGIN = 3.0
#: What SQLite's clock, which counts milliseconds, may be behind the ledger's; in seconds.
TICK = 0.002
#: Bodies that one slot may have in flight: the branches of an async flow.
IN_FLIGHT = 3
#: Within this many seconds of a fault, what it hit is started again.
RECOVERY = LEASE + SWEEP + MARGIN


class Arena:
    """One database, one broker, two workers with two slots each, and the ledger of what their tasks did."""

    def __init__(
        self, folder: Path, database_url: str, broker: servers.Broker, postgres: servers.Postgres | None
    ) -> None:
        """Use these; `ensure` starts the workers."""
        self.folder, self.database_url, self.broker, self.postgres = folder, database_url, broker, postgres
        self.ledger, self._armed, self.visits = folder / "ledger", folder / "armed", folder / "visits"
        self.visits.mkdir(parents=True)
        self.workers: list[servers.Worker] = []
        #: All that were started since the test began, dead ones too.
        self.started: list[servers.Process] = []
        self.env = {
            "ORCHESTRA_HOME": str(folder / "home"),
            "ORCHESTRA_DATABASE_URL": database_url,
            "ORCHESTRA_BROKER_URL": broker.url,
            "ORCHESTRA_LEASE_SECONDS": str(LEASE),
            "ORCHESTRA_SWEEP_SECONDS": str(SWEEP),
            ledger.VARIABLE: str(self.ledger),
        }

    def ensure(self, workers: int = 2) -> list[servers.Worker]:
        """Have the broker and this many workers running and nothing armed; returns the workers."""
        self.disarm()
        if not self.broker.running:
            self.broker.start()
        live = [worker for worker in self.workers if worker.running]
        for worker in live[workers:]:
            worker.kill_group()
        self.workers = live[:workers]
        for worker in [self.start_worker() for _ in range(workers - len(self.workers))]:
            worker.wait_ready()
        return self.workers

    def start_worker(self, *, pool: str = "prefork", **env: str) -> servers.Worker:
        """One more worker, not waited for."""
        failing = {"ORCHESTRA_FAILPOINTS": f"@{self._armed}", "ORCHESTRA_FAILPOINT_DIR": str(self.visits)}
        surrounding = {**os.environ, **self.env, **failing, "ORCHESTRA_FLOWS": flows.__name__, **env}
        worker = servers.Worker(self.folder / f"worker{time.monotonic_ns()}.log", surrounding, pool=pool)
        self.workers.append(worker)
        self.started.append(worker)
        return worker

    def worker_of(self, pid: int) -> servers.Worker:
        """The worker that a process belongs to."""
        return next(worker for worker in self.workers if pid in (worker.pid, *children(worker.pid)))

    def writable(self) -> bool:
        """Whether a write to the database can begin; on PostgreSQL always."""
        if self.postgres is not None:
            return True
        with closing(sqlite3.connect(self.database_url.removeprefix("sqlite:///"), timeout=0.3)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            return True

    def stopped_slot(self) -> int | None:
        """The process of a slot that is stopped; None where there is none."""
        slots = [pid for worker in self.workers for pid in worker.slots()]
        return next((pid for pid in slots if process_state(pid) == "T"), None)

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            worker.kill_group()

    def arm(self, spec: str) -> None:
        """Arm failpoints in the workers that run, their visits counted from zero."""
        for file in self.visits.iterdir():
            file.unlink()
        self._armed.write_text(spec)

    def disarm(self) -> None:
        """Arm nothing."""
        self._armed.unlink(missing_ok=True)

    def visited(self, name: str) -> int:
        """How often a failpoint was passed since it was armed."""
        file = self.visits / name
        return file.stat().st_size if file.exists() else 0

    def rows(self, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> list[Any]:
        """Rows of the journal, as they stand."""
        with closing(Database(self.database_url)) as database:
            return list(database.read(lambda c: c.execute(sa.select(table).where(*conditions)).all()))

    def events(self, run_id: str) -> list[EventRecord]:
        """The events of a run and its task runs, the oldest first."""
        with closing(Database(self.database_url)) as database:
            return events.page(database, EventFilter(flow_run_id=run_id), limit=1000, newest=False)[0]

    def lines(self, *runs: str) -> list[ledger.Line]:
        """The ledger's lines, of these runs where any is given."""
        return [line for line in ledger.read(self.ledger) if not runs or line.run in runs]

    def wait_for_start(self, run: str, times: int = 1, timeout: float = 20.0) -> ledger.Line:
        """Wait until bodies of a run were started this many times; returns the line of the last start."""

        def started() -> list[ledger.Line]:
            found = [line for line in self.lines(run) if line.what == "start"]
            return found if len(found) >= times else []

        return wait_until(started, f"{times} starts of bodies of run {run}", timeout)[times - 1]


@pytest.fixture(scope="package", params=["sqlite", "postgres"])
def standing_arena(
    request: pytest.FixtureRequest, broker_server: servers.Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Arena]:
    """The arena that the tests of this folder share, once for each kind of database."""
    folder = tmp_path_factory.mktemp("arena")
    server = request.getfixturevalue("postgres") if request.param == "postgres" else None
    with fresh_database(request.param, request, folder) as url:
        arena = Arena(folder, url, broker_server, server)
        try:
            yield arena
        finally:
            arena.close()


@pytest.fixture
def arena(
    standing_arena: Arena, home: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Arena]:
    """The shared arena with all of it running, and this process set to submit runs to it."""
    for name, value in standing_arena.env.items():
        monkeypatch.setenv(name, value)
    forget()
    standing_arena.started = request.node.stash[SHOWN] = list(standing_arena.workers)
    standing_arena.ensure()
    yield standing_arena
    standing_arena.disarm()
    forget()


class Runs:
    """Runs submitted together, and what must be true of them in the end."""

    def __init__(self, arena: Arena, submitted: Iterable[tuple[Any, int]]) -> None:
        """Submit these flows, with the answers they must give."""
        self.arena = arena
        self.expected = [(flow.delay(), answer) for flow, answer in submitted]
        self.ids = [handle.id for handle, _ in self.expected]

    def check(self, timeout: float = 40.0) -> None:
        """Wait for the ends and check them: right answers, a whole journal, no body started after its commit."""
        for handle, answer in self.expected:
            assert handle.result(timeout=timeout) == answer
        self.check_journal()

    def journal(self) -> tuple[list[Any], list[Any]]:
        """The rows of the runs, subflows' too, and of their steps."""
        family = self.arena.rows(flow_runs, flow_runs.c.root_run_id.in_(self.ids))
        return family, self.arena.rows(steps, steps.c.run_id.in_([run.id for run in family]))

    def check_journal(self) -> None:
        """Every run and step is done, and nothing recorded was run again."""
        family, journal = self.journal()
        assert {(run.state_type, run.phase) for run in family} == {("COMPLETED", Phase.DONE)}
        assert {(step.state_type, step.phase) for step in journal} == {("COMPLETED", Phase.DONE)}
        ended = {(step.run_id, step.step_key): step.end_time for step in journal}
        lines = self.arena.lines(*(run.id for run in family))
        again = [line for line in lines if line.what == "start" and line.at > ended[line.run, line.step] + TICK]
        assert again == [], "bodies that were started though their results were recorded"
        for run in family:
            self.check_events(run.id, journal)

    def check_events(self, run_id: str, journal: list[Any]) -> None:
        """The events begin with the creation and end with the end; what was tried once is seen to run once."""
        told: dict[str, list[str]] = {}
        for event in self.arena.events(run_id):
            kind, _, name = event.event.rpartition(".")
            if name[0].isupper() or name == "created":
                told.setdefault(event.resource[events.ID].removeprefix(f"{kind}."), []).append(name)
        assert (told[run_id][0], told[run_id][-1], told[run_id].count("Completed")) == ("created", "Completed", 1)
        for step in journal:
            if step.run_id == run_id and step.kind == Kind.TASK and step.attempt == 1:
                waited = ["Pending"] if step.pending_at is not None else []
                assert told[step.id] == [*waited, "Running", "Completed"], step.step_key

    def restarts(self) -> list[ledger.Line]:
        """The starts beyond the first of each attempt of each step, subflows' too."""
        family, _ = self.journal()
        seen: set[tuple[str, str, int]] = set()
        found = []
        for line in self.arena.lines(*(run.id for run in family)):
            if line.what == "start":
                if (line.run, line.step, line.attempt) in seen:
                    found.append(line)
                seen.add((line.run, line.step, line.attempt))
        return found


@pytest.fixture
def every_shape(arena: Arena) -> Any:
    """Submits one run of each shape of flow: `runs = every_shape()`, then faults, then `runs.check()`."""
    return lambda: Runs(arena, flows.ANSWERS.items())
