"""The orchestra half: the same shapes of work as flows."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from benchmarks import limited
from orchestra import flow, task
from orchestra.cache_policies import INPUTS
from orchestra.transactions import transaction

#: Seconds after which a measurement is given up.
TIMEOUT = 120


@task
def inc(number: int) -> int:
    """One more."""
    return number + 1


@task
def add_up(numbers: list[int]) -> int:
    """The sum of what was gathered."""
    return sum(numbers)


@task
def follow(before: list[int], number: int) -> int:
    """A node of a later layer: it is given all results of the layer before."""
    return (sum(before) + number) % 1000


@flow
def in_a_row(times: int) -> int:
    """Direct calls in a row."""
    number = 0
    for _ in range(times):
        number = inc(number)
    return number


@task(cache_policy=INPUTS)
def cached(number: int) -> int:
    """One more, computed once."""
    return number + 1


@flow
def hits(times: int) -> int:
    """Calls that the cache answers, but for the first ever."""
    return sum(cached(0) for _ in range(times))


@flow
def fan_out(width: int) -> int:
    """Submitted, gathered and summed."""
    return add_up([inc.submit(number) for number in range(width)])


@flow
def one_submitted() -> int:
    """One submitted task, waited for."""
    return inc.submit(0).result()


@flow
def all_to_all() -> int:
    """3 layers of 50; each node of a layer needs all of the one before."""
    layer = [inc.submit(number) for number in range(50)]
    for _ in range(2):
        layer = [follow.submit(layer, number) for number in range(50)]
    return add_up(layer)


@task
def megabytes(count: int) -> bytes:
    """A value too large for its row: another one each time, as equal ones are kept once, and none that compresses."""
    return os.urandom(2**20) * count


@task
def length(value: bytes) -> int:
    """How large it is."""
    return len(value)


@flow
def large_result(count: int) -> int:
    """A large result of a submitted task, read by another one."""
    return length(megabytes.submit(count))


@flow
def empty_transactions(times: int) -> int:
    """Blocks in which nothing is done."""
    for _ in range(times):
        with transaction():
            pass
    return times


def many_flows() -> int:
    """200 flows of 5 direct calls, all sent, then waited for."""
    sent = [in_a_row.delay(5) for _ in range(200)]
    return sum(run.result(timeout=TIMEOUT) for run in sent)


SHAPES: dict[str, Callable[[], Any]] = {
    "local": lambda: in_a_row(100),
    "local-one": lambda: in_a_row(1),
    "chain": lambda: in_a_row.delay(100).result(timeout=TIMEOUT),
    "hits-local": lambda: hits(200),
    "hits": lambda: hits.delay(200).result(timeout=TIMEOUT),
    "fan-out": lambda: fan_out.delay(1000).result(timeout=TIMEOUT),
    "fan-out-get": lambda: fan_out.delay(1000).result(timeout=TIMEOUT),
    "latency": lambda: in_a_row.delay(1).result(timeout=TIMEOUT),
    "latency-submit": lambda: one_submitted.delay().result(timeout=TIMEOUT),
    "flows": many_flows,
    "transactions-local": lambda: empty_transactions(100),
    "transactions": lambda: empty_transactions.delay(100).result(timeout=TIMEOUT),
    "large": lambda: large_result.delay(10).result(timeout=TIMEOUT),
    "limit": limited.shared,
    "layers": lambda: all_to_all.delay().result(timeout=TIMEOUT),
}
