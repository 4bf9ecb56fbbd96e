"""Task runners with real workers: `CeleryTaskRunner` from a local flow, and the bound of a thread runner on workers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from celery import Celery

import orchestra.celery
from orchestra import flow, task
from orchestra.celery.apps import current_app
from orchestra.engine import operations
from orchestra.errors import CancelledRun, ConfigurationError, NoBroker, NotImportable
from orchestra.store import logs, queries
from orchestra.store.database import database
from orchestra.task_runners import CeleryTaskRunner
from tests import servers
from tests.conftest import WorkerFactory
from tests.helpers import wait_until
from tests.integration import runner_flows as flows
from tests.integration.flows import notes

pytestmark = pytest.mark.services


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Where bodies note what they do."""
    return str(tmp_path / "notes")


def most_at_once(file: str) -> int:
    """The most bodies that ran at the same time."""
    running = most = 0
    for line in notes(file):
        running += 1 if line[0] == "+" else -1
        most = max(most, running)
    return most


def open_tasks() -> list[str]:
    """The task runs that have not ended."""
    return [task.name for task in queries.list_task_runs(database(), limit=200).items if task.state_type not in FINAL]


FINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


# -- from a local flow to workers --------------------------------------------------------------------------------


def test_a_flow_that_holds_a_slot_for_its_tasks_says_so(database_url: str, worker_factory: WorkerFactory) -> None:
    """Called inside of a plain Celery task it would wait for ever, were that slot the only one."""
    worker = worker_factory(flows.__name__, concurrency=2)

    current_app().send_task(flows.waits_inside.name, queue="default")

    said = "flow 'sent-from-here' was called inside of Celery task 'tests.waits_inside' and holds its worker's slot"
    wait_until(lambda: said in worker.log(), "the warning", 30)
    wait_until(lambda: not open_tasks() and "succeeded" in worker.log(), "the tasks to end", 30)


def test_submitted_tasks_run_on_workers_and_direct_calls_here(database_url: str, worker_factory: WorkerFactory) -> None:
    """Map chains and joins; on SQLite and PostgreSQL."""
    worker = worker_factory(flows.__name__)

    value, there, here = flows.chained(6)

    assert value == 60
    assert there <= set(worker.slots())
    assert here == os.getpid()
    steps = queries.list_task_runs(database(), limit=50).items
    assert len(steps) == 6 + 6 + 1 + 4 + 1
    assert {step.state_name for step in steps} == {"Completed"}


def test_failures_go_the_way_of_the_edges(worker_factory: WorkerFactory) -> None:
    """An upstream that failed, `wait_for`, and `allow_failure`."""
    worker_factory(flows.__name__)

    assert flows.failing() == ["ValueError", "UpstreamFailed", "UpstreamFailed", "ValueError"]


def test_retries_are_the_workers(worker_factory: WorkerFactory, file: str) -> None:
    """The try is counted there."""
    worker_factory(flows.__name__)

    assert flows.retried(file) == 3
    assert notes(file) == ["try"] * 3


def test_a_body_there_is_in_the_run_from_here(worker_factory: WorkerFactory) -> None:
    """Its lines, and its prints where the flow has `log_prints`, are lines of the run."""
    worker = worker_factory(flows.__name__)

    here, there = flows.telling()
    worker.terminate()

    assert here == there
    assert here is not None
    assert {"line 3", "printed 3"} <= {line.message for line in logs.read(database(), here)}


def test_the_runner_names_the_queue_of_tasks_that_name_none(worker_factory: WorkerFactory) -> None:
    """A worker that consumes only this one is enough."""
    worker_factory(flows.__name__, queues="aside")

    assert flows.on_a_queue() == 8


def test_futures_may_be_awaited_in_an_async_flow(worker_factory: WorkerFactory) -> None:
    """Beside a loop that goes on."""
    worker_factory(flows.__name__)

    assert asyncio.run(flows.from_async()) == [2, 4, 7]


def test_what_ended_well_is_not_run_again_in_the_next_attempt(worker_factory: WorkerFactory, file: str) -> None:
    """A flow that is retried here keeps what workers did, where it asks for it with equal arguments."""
    worker_factory(flows.__name__)

    assert flows.second_attempt(file) == ["kept", "again-2"]
    assert [line for line in notes(file) if line[0] == "+"] == ["+kept", "+again-1", "+again-2"]


def test_tasks_wait_for_a_worker_that_comes_later(worker_factory: WorkerFactory) -> None:
    """The flow waits for them; nothing is lost."""
    results: list[object] = []
    waiting = threading.Thread(target=lambda: results.append(flows.chained(2)[0]))
    waiting.start()
    wait_until(open_tasks, "tasks to be submitted")

    worker_factory(flows.__name__)
    waiting.join(40)

    assert results == [4]


def test_a_flow_over_its_time_leaves_no_task_waiting(worker_factory: WorkerFactory, file: str) -> None:
    """What no worker has begun is cancelled, what runs is told."""
    worker_factory(flows.__name__, env={"ORCHESTRA_LEASE_SECONDS": "3"})

    with pytest.raises(TimeoutError):
        flows.over_time(file)

    wait_until(lambda: not open_tasks(), "every task to end")
    assert len(notes(file)) <= 2


def test_cancelling_the_flow_cancels_its_tasks(
    worker_factory: WorkerFactory, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From outside, while workers are at it."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", "3")
    orchestra.settings.reset()
    worker_factory(flows.__name__)

    def cancel() -> None:
        wait_until(lambda: notes(file), "a task to start")
        (run,) = queries.list_flow_runs(database()).items
        operations.cancel(database(), run.id)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(CancelledRun):
        flows.holding(file, 30.0)
    canceller.join()

    wait_until(lambda: not open_tasks(), "every task to end")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_when_the_flow_s_process_dies_its_tasks_do_not_wait_for_ever(
    worker_factory: WorkerFactory, file: str, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    """The run is Crashed, at once by Ctrl-C, else when its lease has lapsed; what nobody has begun ends with it."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", "3")
    monkeypatch.setenv("ORCHESTRA_SWEEP_SECONDS", "1")
    orchestra.settings.reset()
    worker_factory(flows.__name__)
    code = f"from tests.integration import runner_flows as flows; flows.holding({file!r}, 8.0)"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: len(notes(file)) == 2, "two tasks to start")
        process.send_signal(how)
        process.wait(20)

    def ended() -> bool:
        (run,) = queries.list_flow_runs(database()).items
        return run.state_name == "Crashed" and not open_tasks()

    wait_until(ended, "the run and its tasks to end", 40)
    assert len([line for line in notes(file) if line[0] == "+"]) == 2


@pytest.mark.parametrize("size", [200_000, 3_000_000])
def test_large_results_come_back(worker_factory: WorkerFactory, size: int) -> None:
    """Those that are read when they are used, and those that are no part of their row."""
    worker_factory(flows.__name__)

    assert flows.weighing(size) == (size, size)


@pytest.mark.usefixtures("short_lease")
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_database_that_restarts_fails_nothing(
    database_url: str, postgres: servers.Postgres, worker_factory: WorkerFactory, file: str
) -> None:
    """The flow here waits for it, as the workers do."""
    worker_factory(flows.__name__)
    results: list[list[str]] = []
    waiting = threading.Thread(target=lambda: results.append(flows.holding(file, 1.0)))
    waiting.start()
    wait_until(lambda: notes(file), "a task to start")

    postgres.restart()
    waiting.join(60)

    assert results == [[str(index) for index in range(6)]]


def test_a_script_sends_the_tasks_of_a_module(worker_factory: WorkerFactory, tmp_path: Path) -> None:
    """The flow lives in `__main__`, and is not run again on the worker."""
    worker_factory(flows.__name__)
    path = tmp_path / "etl.py"
    path.write_text(
        textwrap.dedent("""
            from orchestra import flow
            from orchestra.task_runners import CeleryTaskRunner
            from tests.integration.runner_flows import double, total

            @flow(task_runner=CeleryTaskRunner)
            def etl():
                return total.submit(double.map([1, 2, 3])).result()

            print("answer", etl())
        """)
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}

    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60, env=environment)

    assert done.stdout == "answer 12\n", done.stderr
    assert len(queries.list_flow_runs(database()).items) == 1


@pytest.mark.usefixtures("broker")
def test_a_task_that_no_worker_could_import_is_refused() -> None:
    """When it is submitted, with what to do."""

    @task
    def nested() -> None: ...

    @flow(task_runner=CeleryTaskRunner)
    def work() -> None:
        nested.submit()

    with pytest.raises(NotImportable, match="top level of a module"):
        work()


def test_without_a_broker_the_flow_is_refused_at_once() -> None:
    """Before anything of it runs, with what to do."""
    with pytest.raises(NoBroker, match="orchestra dev"):
        flows.chained()
    assert queries.list_flow_runs(database()).items == ()


def test_an_app_may_be_given(worker_factory: WorkerFactory) -> None:
    """Or its name; one without orchestra is refused."""
    worker_factory(flows.__name__)
    app = Celery("proj", broker=os.environ["ORCHESTRA_BROKER_URL"], set_as_current=False)
    app.conf.task_default_queue = "default"

    with pytest.raises(ConfigurationError, match=r"orchestra\.celery\.install"):
        flows.chained.with_options(task_runner=CeleryTaskRunner(app=app))()
    orchestra.celery.install(app)

    for given in (app, "celery_app"):
        assert flows.on_a_queue.with_options(task_runner=CeleryTaskRunner(app=given))() == 8


@pytest.mark.usefixtures("broker")
def test_an_eager_app_runs_them_here() -> None:
    """`task_always_eager`, for tests of a project: no worker is needed."""
    app = Celery("proj", broker="memory://", set_as_current=False)
    app.conf.task_always_eager = True
    orchestra.celery.install(app)

    value, there, here = flows.chained.with_options(task_runner=CeleryTaskRunner(app=app))(3)

    assert (value, there, here) == (12, {os.getpid()}, os.getpid())


# -- the bound of a thread or process runner on workers ----------------------------------------------------------


def test_max_workers_bounds_the_run_on_workers(database_url: str, worker_factory: WorkerFactory, file: str) -> None:
    """Four slots, two tasks at once; on SQLite and PostgreSQL."""
    worker_factory(flows.__name__, concurrency=4)

    assert flows.two_at_once.delay(file, 12, 0.1).result(timeout=60) == 12
    assert most_at_once(file) == 2


def test_the_bound_holds_when_slots_are_killed(
    database_url: str, worker_factory: WorkerFactory, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they ran is run again in its own place, and the rest goes on; on SQLite and PostgreSQL."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", "3")
    orchestra.settings.reset()
    worker = worker_factory(flows.__name__, concurrency=4)
    handle = flows.two_at_once.delay(file, 10, 1.0)

    for count in (2, 6):
        wait_until(lambda count=count: len(notes(file)) >= count, "tasks to start")
        for pid in worker.slots():
            os.kill(pid, signal.SIGKILL)

    assert handle.result(timeout=60) == 10
    begun = [line for line in notes(file) if line[0] == "+"]
    assert len(set(begun)) == 10
    assert len(begun) <= 14


def test_bounded_runs_do_not_wait_for_each_other_in_a_circle(database_url: str, worker_factory: WorkerFactory) -> None:
    """Joins, dispatches and parks of such a run take their locks in one order."""
    worker_factory(flows.__name__, concurrency=6)

    handles = [flows.bound_in_rounds.delay(12) for _ in range(4)]

    expected = 12 * 11 // 2 * 2 * 16 + 2 * (1 + 2 + 4 + 8)
    assert [handle.result(timeout=90) for handle in handles] == [expected] * 4
    assert deadlocks(database_url) == 0


def deadlocks(url: str) -> int:
    """How often PostgreSQL had to break a circle of locks; SQLite has none."""
    if not url.startswith("postgresql"):
        return 0
    query = sa.text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return int(database().read(lambda connection: connection.execute(query).scalar_one()))
