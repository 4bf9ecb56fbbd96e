"""Tasks outside of flows, in the background, on real workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestra import unmapped
from orchestra.errors import IdempotencyConflict, NotImportable, ParameterBindError, ResultTimeout, UpstreamFailed
from orchestra.handles import FlowRunHandle, TaskRunHandle
from orchestra.store import queries, runs
from orchestra.store.database import database
from orchestra.tasks import task
from tests import servers
from tests.conftest import WorkerFactory
from tests.helpers import ROOT, wait_until
from tests.integration import member_flows as members
from tests.integration.member_flows import add, flaky, noting, refusing, starting

pytestmark = pytest.mark.services

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def start(database_url: str, worker_factory: WorkerFactory) -> Callable[..., servers.Worker]:
    """Starts workers that know the tasks of these tests."""
    return lambda **options: worker_factory(members.__name__, **options)


@pytest.fixture
def where(tmp_path: Path) -> str:
    """A file for notes."""
    return str(tmp_path / "notes")


def test_a_task_in_the_background_gives_its_value(start: Any) -> None:
    """With a handle that any process could have: state, wait, result, and Celery's names for them."""
    start()

    handle = add.delay(2, y=3)

    assert isinstance(handle, TaskRunHandle)
    assert (handle.result(timeout=30), handle.get(), handle.ready(), handle.successful()) == (5, 5, True, True)
    assert (handle.state.name, handle.state.state_details.task_run_id) == ("Completed", handle.task_run_id)


def test_a_map_in_the_background_gives_all_values(start: Any) -> None:
    """`deferred=True`, outside of flows: handles in the order of the elements, with `result` and `wait` for all."""
    start()

    handles = add.map([1, 2, 3], y=unmapped(10), deferred=True)

    assert handles.result(timeout=30) == [11, 12, 13]
    handles.wait(timeout=30)
    assert [handle.state.name for handle in handles] == ["Completed"] * 3


@ON_SQLITE
def test_it_is_listed_before_a_worker_has_seen_it(start: Any) -> None:
    """By `task-run ls`, under the handle's id, with its state."""
    handle = add.delay(1)

    (listed,) = queries.list_task_runs(database()).items
    assert (listed.id, listed.name, listed.state_type) == (handle.id, "add-0", "PENDING")
    assert handle.state.type == "PENDING"
    with pytest.raises(ResultTimeout, match=f"task run {handle.id}"):
        handle.result(timeout=0.05)

    start()
    assert handle.result(timeout=30) == 2


def test_it_is_tried_again(start: Any, where: str) -> None:
    """As its decorator says; the slot is free meanwhile."""
    start(concurrency=1)

    handle = flaky.delay(4, where)

    assert handle.result(timeout=30) == 4
    assert queries.read_task_run(database(), handle.id).run.run_count == 2


@ON_SQLITE
def test_its_exception_comes_back(start: Any) -> None:
    """Raised by `result`, or returned."""
    start()
    handle = refusing.delay(1)

    with pytest.raises(ValueError, match="no 1"):
        handle.result(timeout=30)
    assert isinstance(handle.get(propagate=False), ValueError)
    assert handle.failed()


@ON_SQLITE
def test_options_of_apply_async(start: Any, where: str) -> None:
    """Queue, countdown, priority; the same key is the same run, and with other arguments an error."""
    start(queues="default,other")

    first = add.apply_async((1,), {"y": 1}, queue="other", priority=2, countdown=timedelta(seconds=1))
    assert first.state.name == "Scheduled"
    keyed = [noting.apply_async((1, where), idempotency_key="k") for _ in range(2)]

    assert first.result(timeout=30) == 2
    row = runs.read(database(), first.flow_run_id)
    assert (row["queue"], row["priority"], keyed[0].id) == ("other", 2, keyed[1].id)
    assert keyed[1].result(timeout=30) == 1
    assert members.notes(where) == [1]
    with pytest.raises(IdempotencyConflict):
        noting.apply_async((2, where), idempotency_key="k")


@ON_SQLITE
def test_it_waits_for_what_it_must(start: Any, where: str) -> None:
    """Handles and futures in `wait_for`; what failed stops it, and no run is made."""
    start()
    assert noting.apply_async((1, where), wait_for=[add.delay(1)]).result(timeout=30) == 1

    with pytest.raises(UpstreamFailed):
        noting.apply_async((2, where), wait_for=[refusing.delay(1)])
    assert members.notes(where) == [1]


@ON_SQLITE
def test_a_flow_starts_it_once(start: Any, where: str) -> None:
    """However often its body is replayed."""
    start()

    assert starting.delay(where).result(timeout=40) == 7
    assert members.notes(where) == [7]


@ON_SQLITE
def test_it_can_be_cancelled(start: Any, where: str) -> None:
    """Before a worker has it, and while it runs."""
    early = noting.delay(1, where)
    early.cancel()
    assert early.wait(10).name == "Cancelled"

    start()
    running = noting.delay(2, where, seconds=60)
    wait_until(lambda: members.notes(where) == [2], "the body to start", 40)
    running.cancel()
    assert running.wait(40).name == "Cancelled"


@ON_SQLITE
def test_a_failed_one_can_be_retried_by_hand(start: Any, where: str) -> None:
    """`flow-run retry` of the run that carries it."""
    from orchestra.engine import operations

    start()
    handle = flaky.with_options(retries=0).delay(5, where)
    assert FlowRunHandle(handle.flow_run_id).wait(30).is_failed()

    operations.retry(database(), handle.flow_run_id)

    assert TaskRunHandle(handle.flow_run_id, "main/flaky-0").result(timeout=30) == 5


@ON_SQLITE
def test_what_a_worker_could_not_run_is_refused(database_url: str, broker: servers.Broker) -> None:
    """A task in a function; arguments that do not fit."""

    @task
    def hidden() -> None:
        """Nobody can import this."""

    with pytest.raises(NotImportable, match="top level"):
        hidden.delay()
    with pytest.raises(ParameterBindError, match="add"):
        add.delay()


@ON_SQLITE
@pytest.mark.parametrize("how", ["serve", "method", "command"])
def test_tasks_can_be_served(database_url: str, broker: servers.Broker, tmp_path: Path, how: str) -> None:
    """By `serve(*tasks)` or `orchestra task serve`: a worker of their queues, until it is stopped."""
    serve = f"from orchestra.task_worker import serve; from {members.__name__} import add, aside; serve(add, aside)"
    paths = [f"{members.__name__}:{name}" for name in ("add", "aside")]
    command = {
        "serve": [sys.executable, "-c", serve],
        "method": [sys.executable, "-c", f"from {members.__name__} import add; add.serve(limit=2)"],
        "command": [sys.executable, "-m", "orchestra", "task", "serve", *paths, "--limit", "2"],
    }[how]
    process = servers.Process(command, tmp_path / "served.log", env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        handles = [add.delay(1), members.aside.apply_async((3,), queue="default" if how == "method" else None)]
        assert [handle.result(timeout=40) for handle in handles] == [2, 3]
    finally:
        process.terminate()
    assert "Traceback" not in process.log()


@ON_SQLITE
def test_without_a_worker_nothing_is_lost(start: Any, broker: servers.Broker) -> None:
    """A broker that was down when it was sent costs a sweep."""
    broker.kill()
    handle = add.delay(20)
    broker.start()
    start()

    assert handle.result(timeout=40) == 21
