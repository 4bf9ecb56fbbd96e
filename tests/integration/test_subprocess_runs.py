"""Runs in processes of their own: where they go on, and how each way to end badly is told apart."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestra import work_pools as types
from orchestra.deployments import Deployment, run_deployment
from orchestra.handles import FlowRunHandle
from orchestra.store import logs, queries, work_pools
from orchestra.store.database import Database
from tests.conftest import WorkerFactory
from tests.helpers import ROOT, process_state, wait_until
from tests.integration import subprocess_flows

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.usefixtures("broker", "short_lease")]


@pytest.fixture(params=["sqlite"])
def database_url(database_url: str) -> str:
    """SQLite, unless a test says otherwise: what PostgreSQL does differently here, other tests have."""
    return database_url


@pytest.fixture
def pool(database: Database) -> str:
    """A pool whose runs have processes of their own."""
    template = types.ProcessPool.base_job_template()
    template["variables"]["properties"]["isolation"]["default"] = "subprocess"
    work_pools.create(database, "apart", "process", base_job_template=template)
    return "apart"


def start(pool: str, flow: Any, parameters: dict[str, Any] | None = None, **job_variables: Any) -> FlowRunHandle:
    """A run of a flow that is deployed to the pool."""
    Deployment.build_from_flow(flow, "d", work_pool_name=pool).apply()
    return run_deployment(f"{flow.name}/d", parameters or {}, timeout=0, job_variables=job_variables or None)


def lines(database: Database, run: FlowRunHandle) -> list[str]:
    """What the log of a run says."""
    return [line.message for line in logs.read(database, run.id)]


def noted(home: Path, name: str) -> list[str]:
    """What the flows have written down."""
    path = home / name
    return path.read_text().splitlines() if path.exists() else []


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    return process_state(pid) in (None, "Z")


def test_a_run_has_a_process_of_its_own(
    pool: str, worker_factory: WorkerFactory, database: Database, tmp_path: Path
) -> None:
    """With its environment and folder, its subflows too; what waited goes on in another. What it says is kept once."""
    worker = worker_factory(queues=pool, concurrency=1)

    run = start(
        pool,
        subprocess_flows.whereabouts,
        {"parks": True},
        env={"TEST_COLOUR": "blue", "HOME": None, "PYTHONPATH": str(ROOT)},
        working_dir=str(tmp_path),
        command=f"nice -n 3 {sys.executable} -m orchestra.workers.execute",
    )

    found = run.result(timeout=40)
    assert (found["colour"], found["home"], found["folder"]) == ("blue", None, str(tmp_path))
    assert found["niceness"] == os.nice(0) + 3
    process_below, colour_below = found["below"]
    assert colour_below == "blue"
    assert len({found["before"], process_below, found["after"], worker.pid, *worker.slots()}) == 5
    assert is_gone(found["before"])
    wait_until(lambda: "an error" in lines(database, run), "what was said to be kept")
    assert [line for line in lines(database, run) if line == "said by the body"] == ["said by the body"]
    assert "said below" in lines(database, run)


def test_each_bad_end_is_told_apart(pool: str, worker_factory: WorkerFactory, database: Database, home: Path) -> None:
    """By the state of the run and what it says; its hooks run in a process like its own."""
    worker_factory(queues=pool, concurrency=6)

    def ending(how: str, flow: Any = subprocess_flows.dies, **job_variables: Any) -> FlowRunHandle:
        return start(pool, flow, {"how": how}, env={"TEST_COLOUR": how}, **job_variables)

    impatient = subprocess_flows.dies.with_options(name="impatient", timeout_seconds=2)

    runs = {
        "exits": ending("exits"),
        "exits below": ending("exits below"),
        "killed": ending("killed"),
        "hangs": ending("hangs", timeout_seconds=5, grace_seconds=0.5),
        "hangs too": ending("hangs too", impatient, grace_seconds=0.5),
        "leaks": ending("leaks", memory_limit="400MiB"),
    }

    states = {how: run.wait(timeout=90) for how, run in runs.items()}
    assert {how: state.name for how, state in states.items()} == {
        "exits": "Crashed",
        "exits below": "Crashed",
        "killed": "Crashed",
        "hangs": "TimedOut",
        "hangs too": "TimedOut",
        "leaks": "Crashed",
    }
    told = {how: state.message or "" for how, state in states.items()}
    assert "exit code 3" in told["exits"]
    assert "exit code 3" in told["exits below"]
    assert "killed by SIGKILL" in told["killed"]
    assert "timeout_seconds=5" in told["hangs"]
    assert "the flow's timeout_seconds" in told["hangs too"]
    assert "memory_limit is 400 MiB" in told["leaks"]
    wait_until(lambda: len(noted(home, "hooks")) == 6, "the hooks to have run")
    assert sorted(noted(home, "hooks")) == sorted(f"{how} {state.name}" for how, state in states.items())


def test_a_cancelled_run_ends_with_all_that_it_started(
    pool: str, worker_factory: WorkerFactory, home: Path, database: Database
) -> None:
    """Its body is told first, and may tidy up; one that does not listen is killed when the grace is over."""
    worker_factory(queues=pool, concurrency=2)
    listens = start(pool, subprocess_flows.dies, {"how": "waits below"}, env={"TEST_COLOUR": "red"})
    deaf = start(pool, subprocess_flows.dies, {"how": "hangs"}, env={"TEST_COLOUR": "grey"}, grace_seconds=0.5)
    wait_until(lambda: len(noted(home, "pids")) == 3, "their processes", 40)

    listens.cancel()
    deaf.cancel()

    assert [run.wait(timeout=40).name for run in (listens, deaf)] == ["Cancelled", "Cancelled"]
    wait_until(lambda: all(is_gone(int(pid)) for pid in noted(home, "pids")), "their processes to end", 10)
    assert noted(home, "finally") == ["done"]
    wait_until(lambda: len(noted(home, "hooks")) == 2, "their hooks to have run")
    assert sorted(noted(home, "hooks")) == ["grey Cancelled", "red Cancelled"]


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_killed_worker_takes_its_runs_processes_along(pool: str, worker_factory: WorkerFactory, home: Path) -> None:
    """Another worker takes the run up, and nothing of the first one goes on."""
    worker = worker_factory(queues=pool, concurrency=1)
    run = start(pool, subprocess_flows.goes_on)
    wait_until(lambda: noted(home, "strays"), "the run's process", 30)
    left = [int(pid) for name in ("pids", "strays") for pid in noted(home, name)]

    # By its name alone: what it has started is not killed with it.
    for pid in (worker.pid, *worker.slots()):
        os.kill(pid, signal.SIGKILL)
    worker_factory(queues=pool, concurrency=1)

    wait_until(lambda: all(is_gone(pid) for pid in left), "the processes of a killed worker's run to end", 5)
    second = run.result(timeout=40)
    assert noted(home, "pids")[1:] == [str(second)]


def test_a_stopped_worker_does_not_wait_for_its_runs_processes(
    pool: str, worker_factory: WorkerFactory, database: Database, home: Path
) -> None:
    """They park at their next step, as runs in the worker do, and end; the run waits for another worker."""
    worker = worker_factory(queues=pool, concurrency=1)
    run = start(pool, subprocess_flows.steps_along, {"count": 1000})
    wait_until(lambda: len(noted(home, "pids")) > 1, "some steps", 40)

    worker.terminate(timeout=40)

    assert is_gone(int(noted(home, "pids")[0]))
    assert queries.read_flow_run(database, run.id).run.state_type == "SCHEDULED"
