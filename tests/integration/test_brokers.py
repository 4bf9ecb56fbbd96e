"""RabbitMQ as the broker: messages, priorities, wake-ups, and its death."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestra.store import workers
from orchestra.store.database import database
from tests import servers
from tests.conftest import WorkerFactory
from tests.helpers import wait_until
from tests.integration import flows as plain
from tests.integration import runner_flows as flows
from tests.integration.flows import notes

pytestmark = pytest.mark.services


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Where bodies note what they do."""
    return str(tmp_path / "notes")


def test_flows_of_every_shape_run(rabbitmq: servers.RabbitMQ, worker_factory: WorkerFactory) -> None:
    """Direct calls, maps, children, other queues, async branches; nothing goes on by a lapsed lease."""
    worker_factory(flows.__name__, plain.__name__, queues="default,aside")

    handles = [
        plain.both.delay(3),
        flows.mapped.delay(40),
        plain.elsewhere.delay(),
        flows.mapped_async.delay(3),
    ]

    assert [handle.result(timeout=25) for handle in handles] == [15, 8 * 780, "2", [1, 6, 2, 3]]
    assert flows.chained(4)[0] == 24


def test_a_higher_priority_goes_first(rabbitmq: servers.RabbitMQ, worker_factory: WorkerFactory, file: str) -> None:
    """Higher numbers, up to 10, of what waits in a queue."""
    for index in range(6):
        flows.one.apply_async([file, f"low{index}"], priority=1)
    flows.one.apply_async([file, "high"], priority=9)
    handles = [flows.one.apply_async([file, "none"])]

    worker_factory(flows.__name__, concurrency=1)

    handles[0].wait(30)
    wait_until(lambda: len(notes(file)) == 16, "every task to end")
    assert notes(file)[0] == "+high"


def test_a_worker_fetches_one_message_a_slot(
    rabbitmq: servers.RabbitMQ, worker_factory: WorkerFactory, file: str
) -> None:
    """Others can have the rest."""
    worker_factory(flows.__name__, concurrency=2)
    handles = [flows.many_sleep.delay(file, 1, 20.0) for _ in range(2)]
    wait_until(lambda: len(notes(file)) == 2, "both slots to be taken")
    waiting = [flows.one.delay(file, str(index)) for index in range(8)]

    wait_until(lambda: rabbitmq.waiting("default") >= 6, "the rest to wait in the queue")

    worker_factory(flows.__name__, concurrency=2)
    assert [handle.result(timeout=15) for handle in waiting[2:]] == [str(index) for index in range(2, 8)]
    for handle in handles:
        handle.cancel()


def test_wake_ups_have_a_queue_of_their_own(rabbitmq: servers.RabbitMQ, worker_factory: WorkerFactory) -> None:
    """It is consumed beside the other, and declared like it."""
    worker_factory(flows.__name__)

    assert flows.mapped.delay(20).result(timeout=20) == 8 * 190
    assert rabbitmq.waiting("default.wake") == 0


@pytest.mark.usefixtures("short_lease")
def test_flows_survive_the_death_of_rabbitmq(
    rabbitmq: servers.RabbitMQ, worker_factory: WorkerFactory, file: str
) -> None:
    """Killed under way, and started again: workers and clients connect again, and no task runs twice."""
    worker = worker_factory(flows.__name__)
    handle = flows.many_sleep.delay(file, 12, 0.5)
    wait_until(lambda: notes(file), "a task to start")

    rabbitmq.kill()
    submitted_meanwhile = flows.mapped.delay(4)
    rabbitmq.start()

    assert handle.result(timeout=60) == 12
    assert submitted_meanwhile.result(timeout=60) == 48
    assert flows.mapped.delay(4).result(timeout=60) == 48
    assert sorted(notes(file)) == sorted([f"{sign}{index}" for sign in "+-" for index in range(12)])
    assert worker.running


@pytest.mark.usefixtures("short_lease")
def test_a_run_submitted_while_rabbitmq_is_down_starts_later(
    rabbitmq: servers.RabbitMQ, worker_factory: WorkerFactory
) -> None:
    """`.delay()` gives a handle all the same."""
    rabbitmq.kill()
    handle = flows.mapped.delay(4)

    rabbitmq.start()
    worker_factory(flows.__name__)

    assert handle.result(timeout=60) == 48


def test_a_client_that_was_idle_notices_a_restart(rabbitmq: servers.RabbitMQ, worker_factory: WorkerFactory) -> None:
    """The connection it keeps is gone; the message is sent by a new one, and nothing waits for a sweep."""
    worker_factory(flows.__name__)
    assert flows.mapped.delay(2).result(timeout=20) == 8
    rabbitmq.kill()
    rabbitmq.start()
    worker_factory(flows.__name__)

    assert flows.mapped.delay(2).result(timeout=20) == 8


def test_doctor_finds_rabbitmq(rabbitmq: servers.RabbitMQ, worker_factory: WorkerFactory) -> None:
    """By its address without the password; and says so where it is gone."""
    worker_factory(flows.__name__)
    command = [sys.executable, "-m", "orchestra", "doctor", "-o", "json"]

    checks = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    (broker,) = [check for check in checks if check["name"] == "broker"]
    assert broker["status"] == "ok"
    assert f"127.0.0.1:{rabbitmq.port}" in broker["message"]
    assert "guest:guest" not in broker["message"]

    rabbitmq.kill()
    gone = subprocess.run(command, capture_output=True, text=True)
    (broker,) = [check for check in json.loads(gone.stdout) if check["name"] == "broker"]
    assert (gone.returncode, broker["status"]) == (1, "FAILED")


def test_a_worker_stops_in_order(rabbitmq: servers.RabbitMQ, worker_factory: WorkerFactory, file: str) -> None:
    """Its body ends, and another one goes on."""
    worker = worker_factory(flows.__name__)
    handle = plain.in_turn.delay(file, 1.5)
    wait_until(lambda: notes(file), "the body to start")

    assert worker.terminate() == 0
    assert workers.live(database()) == []
    worker_factory(plain.__name__)

    assert handle.result(timeout=20) == ["first", "second"]
