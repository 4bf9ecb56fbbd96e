"""The broker is only a hint: it dies, forgets everything, or is away while runs are submitted."""

from __future__ import annotations

from typing import Any

import pytest

from tests.crash import flows
from tests.crash.conftest import Arena
from tests.helpers import wait_until

pytestmark = pytest.mark.services


def restart(arena: Arena) -> None:
    """SIGKILL the broker and start it again, empty."""
    arena.broker.kill()
    arena.broker.start()


def flush(arena: Arena) -> None:
    """FLUSHALL: every message is gone, connections stay."""
    arena.broker.flush()


def disconnect(arena: Arena) -> None:
    """Close every client's connection, three times."""
    with arena.broker.client() as client:
        for _ in range(3):
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@pytest.mark.parametrize("fault", [restart, flush, disconnect])
def test_flows_of_every_shape_survive_a_fault_of_the_broker(arena: Arena, every_shape: Any, fault: Any) -> None:
    """No run is lost, and no body is run twice: no claim was touched."""
    runs = every_shape()
    wait_until(lambda: len(arena.lines(*runs.ids)) > 15, "the runs to be under way")

    fault(arena)

    runs.check()
    assert runs.restarts() == []


def test_a_run_submitted_while_the_broker_is_down_starts_when_it_is_back(arena: Arena) -> None:
    """`.delay()` gives a handle all the same; the sweeper announces what is owed."""
    arena.broker.kill()
    handle = flows.linear.delay()

    arena.broker.start()

    assert handle.result(timeout=40) == flows.ANSWERS[flows.linear]


def test_messages_that_come_twice_run_nothing_twice(arena: Arena, every_shape: Any) -> None:
    """Every queued message is doubled, and the queue shuffled."""
    arena.ensure(workers=0)
    with arena.broker.client() as client:
        # Until the broker has seen that a killed worker is gone, it hands that one the next message.
        wait_until(lambda: not client.info("clients")["blocked_clients"], "the broker to know of the deaths")
        runs = every_shape()
        waiting = client.lrange("default", 0, -1)
        client.lpush("default", *waiting)
        assert len(waiting) == len(runs.ids)

    arena.ensure(workers=2)

    runs.check()
    assert runs.restarts() == []
