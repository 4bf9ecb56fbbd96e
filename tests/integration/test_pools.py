"""Celery's pools: what each does with sync and async bodies, with timeouts, with cancel, and with many at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestra import settings
from orchestra.celery.worker import refuse_pool
from orchestra.errors import CancelledRun, ConfigurationError
from tests.conftest import WorkerFactory
from tests.helpers import wait_until
from tests.integration import runner_flows as flows
from tests.integration.flows import notes
from tests.matrix import POOLS

pytestmark = pytest.mark.services


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Where bodies note what they do."""
    return str(tmp_path / "notes")


def slots(pool: str) -> int:
    """Slots of a worker with this pool."""
    return 1 if pool == "solo" else 4


@pytest.mark.parametrize("pool", POOLS)
def test_async_flows_run_on_every_pool(worker_factory: WorkerFactory, pool: str) -> None:
    """Several at once: their loops do not get in each other's way."""
    worker_factory(flows.__name__, pool=pool, concurrency=slots(pool))

    handles = [flows.mapped_async.delay(4) for _ in range(6)]

    assert [handle.result(timeout=60) for handle in handles] == [[1, 12, 2, 3]] * 6


@pytest.mark.parametrize("pool", [pool for pool in POOLS if pool != "gevent"])
def test_a_thread_of_a_worker_has_one_loop(worker_factory: WorkerFactory, pool: str) -> None:
    """For all bodies, one after the other: what belongs to a loop is of use in the next body too."""
    worker_factory(flows.__name__, pool=pool, concurrency=slots(pool))

    handles = [made.delay() for _ in range(6) for made in (flows.loops_of_tasks, flows.loops_of_a_flow)]
    seen = {tuple(place) for handle in handles for place in handle.result(timeout=60)}

    assert len({(pid, thread) for pid, thread, _ in seen}) == len(seen)


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_over_its_time_is_timed_out_on_every_pool(worker_factory: WorkerFactory, pool: str) -> None:
    """Long before its body would end, and the slot is free again."""
    worker_factory(flows.__name__, pool=pool, concurrency=slots(pool))

    assert flows.times_out.delay().result(timeout=18) == ["TimedOut"] * 3
    assert flows.mapped.delay(2).result(timeout=30) == 8


@pytest.mark.parametrize("pool", POOLS)
def test_a_run_is_cancelled_on_every_pool(
    worker_factory: WorkerFactory, pool: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is never started; a body that no signal can reach ends first."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", "3")
    settings.reset()
    worker_factory(flows.__name__, pool=pool, concurrency=slots(pool))
    handle = flows.many_sleep.delay(file, 12, 5.0)
    wait_until(lambda: notes(file), "a task to start")

    handle.cancel()

    with pytest.raises(CancelledRun):
        handle.result(timeout=40)
    assert len([line for line in notes(file) if line[0] == "+"]) <= slots(pool)


def test_a_worker_on_gevent_runs_many_at_once(database_url: str, worker_factory: WorkerFactory, file: str) -> None:
    """With 50 slots, tasks that wait do so at the same time; on SQLite and PostgreSQL."""
    worker_factory(flows.__name__, pool="gevent", concurrency=50)

    assert flows.many_sleep.delay(file, 45, 3.0).result(timeout=60) == 45

    first_end = next(index for index, line in enumerate(notes(file)) if line[0] == "-")
    assert first_end > 20


def test_a_body_that_blocks_a_gevent_worker_keeps_its_claim(
    worker_factory: WorkerFactory, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No greenlet runs meanwhile, its heartbeat's neither: the worker's helper vouches for it."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", "2")
    settings.reset()
    worker_factory("tests.integration.flows", pool="gevent", concurrency=4)
    from tests.integration import flows as others

    assert others.hanging.delay(file, 6).result(timeout=40) == "woke"
    assert notes(file) == ["hung"]


def test_eventlet_is_refused_with_what_to_take() -> None:
    """The worker says so when it starts."""
    with pytest.raises(ConfigurationError, match="-P gevent"):
        refuse_pool("eventlet")
    for pool in POOLS:
        refuse_pool(pool)
