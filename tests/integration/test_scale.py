"""Many steps, deep nesting, slow siblings: what they cost on real workers."""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis

from orchestra.store import runs
from orchestra.store.database import database
from tests import servers
from tests.conftest import WorkerFactory
from tests.helpers import wait_until
from tests.integration import scale_flows as flows

pytestmark = pytest.mark.services

MANY = 10_000
#: What a slot's process may take, in MiB: the libraries take most of it.
ROOMY = 200


def segments(handle: Any) -> int:
    """How often a run was claimed."""
    return int(runs.read(database(), handle.id)["claim_number"])


def ended(run_id: str) -> int:
    """How many steps of a run have ended."""
    import sqlalchemy as sa

    from orchestra.store.tables import steps

    query = sa.select(sa.func.count()).where(steps.c.run_id == run_id, steps.c.phase == "DONE")
    return int(database().read(lambda connection: connection.scalar(query)))


def memory(pid: int) -> float:
    """What a process keeps in memory, in MiB."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


@pytest.mark.usefixtures("database_url")
def test_a_loop_over_a_thousand_results_takes_few_segments(worker_factory: WorkerFactory) -> None:
    """Not one a result: after each park that brought nothing new the run stays parked a little longer."""
    worker_factory(flows.__name__)

    handle = flows.in_a_loop.delay(1000, 0.01)

    assert handle.result(timeout=100) == sum(range(1000))
    assert segments(handle) <= 12


def test_a_loop_over_slow_results_takes_few_segments(worker_factory: WorkerFactory) -> None:
    """Also where each takes 200 ms."""
    worker_factory(flows.__name__, concurrency=12)

    handle = flows.in_a_loop.delay(1000, 0.2)

    assert handle.result(timeout=100) == sum(range(1000))
    assert segments(handle) <= 40


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_ten_thousand_mapped_tasks_keep_nobody_waiting(worker_factory: WorkerFactory, broker: servers.Broker) -> None:
    """Another run's short task on the same queue starts within a second; neither broker nor slots fill up."""
    worker = worker_factory(flows.__name__)
    handle = flows.mapped.delay(MANY, 0.01)
    queue = redis.Redis.from_url(broker.url)
    waited, lengths, sizes = [], [], []

    for share in range(1, 10):
        wait_until(lambda share=share: ended(handle.id) >= MANY * share / 10, f"{share} tenths of the tasks", 60)
        began = time.monotonic()
        flows.neighbour.delay().result(timeout=30)
        waited.append(time.monotonic() - began)
        lengths.append(queue.llen("default"))
        sizes.append(max(map(memory, worker.slots())))

    assert handle.result(timeout=100) == sum(range(MANY))
    assert max(waited) < 1
    assert max(lengths) <= 32
    assert max(sizes) < ROOMY
    assert segments(handle) <= 4


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_sixty_nested_subflows_run_on_one_slot(worker_factory: WorkerFactory, pool: str) -> None:
    """Each waits for the one inside of it, and holds nothing."""
    worker_factory(flows.__name__, pool=pool, concurrency=1)

    assert flows.nested.delay(60).result(timeout=100) == 60


def test_a_fast_task_beside_a_long_one_is_handed_over_soon(worker_factory: WorkerFactory) -> None:
    """Held up at most as long again as it was waited for, at least 100 ms; the long one is not waited for."""
    worker_factory(flows.__name__, concurrency=3)

    handle = flows.beside_a_long_one.delay(3600.0)
    done = wait_until(lambda: runs.read(database(), handle.id)["outcome"] is not None, "the body to end", 20)

    assert done
    handle.cancel()
