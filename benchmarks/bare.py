"""The bare Celery half: an ordinary app with its defaults, and each shape of work as Celery's own canvases."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from celery import Celery, chain, chord, group

URL = os.environ.get("BENCH_CELERY_URL", "redis://127.0.0.1:6379/0")
#: Seconds after which a measurement is given up.
TIMEOUT = 120

app = Celery("bare", broker=URL, backend=URL)
app.conf.task_default_queue = "bare"
app.conf.broker_connection_retry_on_startup = True


@app.task
def inc(number: int) -> int:
    """One more."""
    return number + 1


@app.task
def add_up(numbers: list[int]) -> int:
    """The sum of a group's results."""
    return sum(numbers)


@app.task
def follow(total: int, number: int) -> int:
    """A node of a later layer: it is given what all nodes of the layer before came to."""
    return (total + number) % 1000


def one() -> int:
    """One task, sent and waited for."""
    return int(inc.delay(0).get(timeout=TIMEOUT))


def chain_100() -> int:
    """100 tasks in a row."""
    return int(chain(inc.s(0), *[inc.s()] * 99).apply_async().get(timeout=TIMEOUT))


def chord_1000() -> int:
    """1,000 tasks at once, gathered and summed."""
    return int(chord([inc.s(number) for number in range(1000)], add_up.s()).apply_async().get(timeout=TIMEOUT))


def group_1000() -> int:
    """The same, gathered by the client."""
    return sum(group(inc.s(number) for number in range(1000)).apply_async().get(timeout=TIMEOUT))


def chains_200() -> int:
    """200 chains of 5, all sent, then waited for."""
    sent = [chain(inc.s(0), *[inc.s()] * 4).apply_async() for _ in range(200)]
    return sum(result.get(timeout=TIMEOUT) for result in sent)


def layers() -> int:
    """3 layers of 50; each node of a layer needs all of the one before."""
    first = [inc.s(number) for number in range(50)]
    later = [follow.s(number) for number in range(50)]
    work = chain(group(first), add_up.s(), group(later), add_up.s(), group(later), add_up.s())
    return int(work.apply_async().get(timeout=TIMEOUT))


SHAPES: dict[str, Callable[[], Any]] = {
    "chain": chain_100,
    "fan-out": chord_1000,
    "fan-out-get": group_1000,
    "latency": one,
    "latency-submit": one,
    "flows": chains_200,
    "layers": layers,
}
