"""Limits of work pools, work queues and deployments over real workers, whose processes are killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestra import settings
from orchestra.deployments import Deployment, run_deployment
from orchestra.engine import work_pools as acting
from orchestra.handles import FlowRunHandle
from orchestra.store import queries, work_pools, worker_records
from orchestra.store.database import Database
from tests.conftest import WorkerFactory
from tests.crash.test_failpoints import ON_RUN_SLOTS
from tests.helpers import ROOT, wait_until
from tests.integration import pool_flows
from tests.limits.test_processes import most_at_once
from tests.servers import Broker

pytestmark = [pytest.mark.services, pytest.mark.slow]

#: What the store does of it is tried on both databases (tests/store/test_run_slots.py).
ONLY_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
SOON = 60.0
LEASE = 4.0


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Database, broker: Broker) -> Path:
    """The file that bodies write to; a pool with two queues and a deployment of each; leases are short."""
    path = tmp_path / "ledger.txt"
    path.touch()
    monkeypatch.setenv(pool_flows.LEDGER, str(path))
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", str(LEASE))
    monkeypatch.setenv("ORCHESTRA_SWEEP_SECONDS", "1")
    settings.reset()
    work_pools.create(database, "etl", "process")
    work_pools.create_queue(database, "etl", "urgent", priority=0)
    for queue in ("default", "urgent"):
        deploy(queue, work_queue_name=queue)
    return path


def deploy(name: str, **options: object) -> None:
    """A deployment of the pool."""
    Deployment.build_from_flow(pool_flows.holds, name, work_pool_name="etl", **options).apply()  # type: ignore[arg-type]


def start(what: str, deployment: str = "default", **parameters: object) -> FlowRunHandle:
    """A run that is not waited for."""
    return run_deployment(f"holds/{deployment}", {"what": what, **parameters}, timeout=0)


def lines(ledger: Path, word: str) -> list[list[str]]:
    """The lines that begin with a word."""
    return [words for line in ledger.read_text().splitlines() if (words := line.split())[0] == word]


def wait_until_in(ledger: Path, what: str) -> None:
    """Until a body was called: a run is shown as Running from its claim on, when it has yet to ask for its slot."""
    wait_until(lambda: what in [words[1] for words in lines(ledger, "in")], f"{what} to be at work", SOON)


def wait_for_state(database: Database, name: str, *runs: FlowRunHandle) -> None:
    """Until these runs are all shown so."""

    def shown() -> bool:
        return {queries.flow_run_state(database, run.id).name for run in runs} == {name}

    wait_until(shown, f"{len(runs)} runs to be {name}", SOON)


def test_no_more_than_the_limit_are_at_work_and_the_urgent_go_first(
    database: Database, ledger: Path, worker_factory: WorkerFactory
) -> None:
    """Four worker slots on two workers; what waits holds none of them, and a raised limit acts at once."""
    work_pools.update(database, "etl", concurrency_limit=1)
    for _ in range(2):
        worker_factory(queues="etl,etl.urgent", concurrency=2)
    first = start("first", seconds=600)
    wait_until_in(ledger, "first")
    later = [start(f"default-{number}") for number in range(4)]
    wait_for_state(database, "AwaitingConcurrencySlot", *later)
    urgent = [start(f"urgent-{number}", "urgent") for number in range(2)]
    wait_for_state(database, "AwaitingConcurrencySlot", *urgent)

    first.cancel()

    assert [run.result(timeout=SOON) for run in later] == [f"default-{number}" for number in range(4)]
    order = [words[1] for words in lines(ledger, "in")]
    assert order == ["first", "urgent-0", "urgent-1", *(f"default-{number}" for number in range(4))]
    assert most_at_once([(float(words[2]), float(words[3])) for words in lines(ledger, "span")]) == 1

    holding = start("holding", seconds=600)
    wait_until_in(ledger, "holding")
    waiting = start("waiting")
    wait_for_state(database, "AwaitingConcurrencySlot", waiting)
    acting.change(database, "etl", concurrency_limit=2)
    assert waiting.result(timeout=SOON) == "waiting"
    holding.cancel()


@ONLY_SQLITE
def test_one_run_more_than_a_deployment_allows_is_cancelled(
    database: Database, ledger: Path, worker_factory: WorkerFactory
) -> None:
    """With the reason, and without its body; with ENQUEUE it waits. A flow that started it is told."""
    deploy("alone", concurrency_limit={"limit": 1, "collision_strategy": "CANCEL_NEW"})
    worker_factory(queues="etl", concurrency=2)
    first = start("first", "alone", seconds=600)
    wait_until_in(ledger, "first")

    refused = start("refused", "alone")
    wait_for_state(database, "Cancelled", refused)
    message = queries.flow_run_state(database, refused.id).message or ""
    assert "'holds/alone'" in message
    assert "CANCEL_NEW" in message
    assert ["in", "refused"] not in lines(ledger, "in")

    deploy("alone", concurrency_limit=1)
    waits = start("waits", "alone")
    wait_for_state(database, "AwaitingConcurrencySlot", waits)
    first.cancel()
    assert waits.result(timeout=SOON) == "waits"


def test_a_killed_worker_frees_the_pools_only_slot(
    database: Database, ledger: Path, worker_factory: WorkerFactory
) -> None:
    """What waits goes on within the lease; the run of the dead one asks again, and never are two at work."""
    work_pools.update(database, "etl", concurrency_limit=1)
    doomed = worker_factory(queues="etl", concurrency=1)
    hangs = start("hangs")
    wait_until(lambda: lines(ledger, "in"), "it to be at work", SOON)
    worker_factory(queues="etl.urgent,etl", concurrency=2)
    waiting = [start(f"urgent-{number}", "urgent", seconds=0.3) for number in range(3)]
    wait_for_state(database, "AwaitingConcurrencySlot", *waiting)

    doomed.kill_group()

    wait_until(lambda: len(lines(ledger, "in")) > 1, "the next one to begin", LEASE + 6)
    assert [run.result(timeout=SOON) for run in [*waiting, hangs]][-1] == "hangs"
    assert most_at_once([(float(words[2]), float(words[3])) for words in lines(ledger, "span")]) == 1
    assert len(lines(ledger, "in")) == 5


def test_workers_killed_around_their_slots_lose_no_run(
    database: Database, ledger: Path, worker_factory: WorkerFactory, tmp_path: Path
) -> None:
    """Just before and just after a run asks, and before and after the next one is let go: all end, one at a time."""
    work_pools.update(database, "etl", concurrency_limit=1)
    visits = tmp_path / "visits"
    visits.mkdir()
    points = ",".join(f"{point}=kill::{nth}" for nth, point in enumerate(ON_RUN_SLOTS, start=1))
    worker_factory(
        queues="etl",
        concurrency=2,
        env={"ORCHESTRA_FAILPOINTS": points, "ORCHESTRA_FAILPOINT_DIR": str(visits)},
    )
    handles = [start(f"run-{number}") for number in range(6)]

    assert [handle.result(timeout=SOON) for handle in handles] == [f"run-{number}" for number in range(6)]
    assert most_at_once([(float(words[2]), float(words[3])) for words in lines(ledger, "span")]) == 1
    assert len(list(visits.iterdir())) >= len(ON_RUN_SLOTS), "a point was never passed"


@ONLY_SQLITE
def test_without_a_limit_the_urgent_have_the_free_worker_slot_first(
    database: Database, ledger: Path, worker_factory: WorkerFactory
) -> None:
    """Though their messages came last. A worker that is told to work off what is due ends by itself."""
    defaults = [start(f"default-{number}", seconds=0.2) for number in range(3)]
    urgent = [start(f"urgent-{number}", "urgent", seconds=0.2) for number in range(3)]

    done = subprocess.run(
        [sys.executable, "-m", "orchestra", "worker", "start", "--pool", "etl", "-l", "1", "-n", "once", "--run-once"],
        capture_output=True,
        timeout=SOON,
        check=False,
        cwd=ROOT,
        text=True,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    order = [words[1].rpartition("-")[0] for words in lines(ledger, "in")]
    assert order == ["urgent"] * 3 + ["default"] * 3
    assert {queries.flow_run_state(database, run.id).name for run in defaults + urgent} == {"Completed"}
    assert worker_records.list_workers(database).items == ()


@ONLY_SQLITE
def test_a_worker_is_seen_at_work(database: Database, ledger: Path, worker_factory: WorkerFactory) -> None:
    """On which run, in which process; killed, it is OFFLINE once its heartbeat is overdue."""
    worker = worker_factory(queues="etl", concurrency=1, name="loader")
    run = start("long", seconds=600)
    wait_until(lambda: worker_records.read(database, "loader").running == 1, "it to be at work", SOON)

    found = worker_records.read(database, "loader")
    assert (found.status, found.work_pools, [each.id for each in found.at_work]) == ("ONLINE", ("etl",), [run.id])
    assert work_pools.read(database, "etl").status == "READY"
    worker.kill_group()
    wait_until(lambda: worker_records.read(database, "loader").status == "OFFLINE", "it to be offline", LEASE + 10)
    assert work_pools.read(database, "etl").status == "NOT_READY"
