"""Static flows on real workers: the canvas that is sent, what is lost of it, and canvases applied by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from celery import chain

from orchestra import lazy
from orchestra.errors import StaticFlowError
from orchestra.handles import FlowRunHandle
from orchestra.store.database import Database
from orchestra.store.tables import Phase, flow_runs, steps
from tests import servers
from tests.conftest import WorkerFactory
from tests.crash import ledger
from tests.helpers import wait_until
from tests.integration import static_flows as flows

pytestmark = pytest.mark.services

#: In seconds.
LEASE, SWEEP = 2.0, 1.0


class Bench:
    """A worker on the test's broker and database, and what its tasks noted."""

    def __init__(self, start: WorkerFactory, book: Path, database: Database) -> None:
        """Note in `book`; `work` starts a worker."""
        self._start, self.book, self.database = start, book, database

    def work(self, **options: Any) -> servers.Worker:
        """Start a worker."""
        return self._start(flows.__name__, env={ledger.VARIABLE: str(self.book)}, **options)

    def starts(self, run_id: str) -> Counter[str]:
        """How often each step of a run was started."""
        lines = ledger.read(self.book) if self.book.exists() else []
        return Counter(line.step for line in lines if line.run == run_id and line.what == "start")

    def steps(self, run_id: str) -> list[Any]:
        """The steps of a run, in the order of asking."""
        query = sa.select(steps).where(steps.c.run_id == run_id).order_by(steps.c.sequence)
        return self.database.read(lambda connection: list(connection.execute(query)))

    def runs(self) -> list[Any]:
        """All flow runs, oldest first."""
        query = sa.select(flow_runs).order_by(flow_runs.c.created_at)
        return self.database.read(lambda connection: list(connection.execute(query)))


@pytest.fixture
def bench(
    worker_factory: WorkerFactory, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    """A bench without workers yet, with short leases."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", str(LEASE))
    monkeypatch.setenv("ORCHESTRA_SWEEP_SECONDS", str(SWEEP))
    return Bench(worker_factory, tmp_path / "ledger", database)


def test_static_flows_give_the_answers_of_their_bodies(bench: Bench) -> None:
    """Chains, groups, chords, an N, joins of joins, failures and retries; no step is run twice."""
    bench.work()
    answers = {
        flows.diamond: 32,
        flows.sums: {"whole": 55 + 10, "again": 45 + 650},
        flows.crossed: 5,
        flows.ends_in_groups: 4,
        flows.tolerant: "ValueError",
        flows.retrying: ["str", "int"],
    }
    handles = {flow: flow.delay(*([10] if flow is flows.sums else [])) for flow in answers}

    assert {flow.name: handle.result(timeout=30) for flow, handle in handles.items()} == {
        flow.name: answer for flow, answer in answers.items()
    }
    for handle in handles.values():
        again = {key: n for key, n in bench.starts(handle.id).items() if n > 1 and "flaky" not in key}
        assert again == {}
