"""Flows with many steps."""

from __future__ import annotations

import time

from orchestra import flow, task


@task
def nap(number: int, seconds: float) -> int:
    """Takes its time without using it."""
    time.sleep(seconds)
    return number


@task
def add_up(numbers: list[int]) -> int:
    """The sum."""
    return sum(numbers)


@flow
def in_a_loop(count: int, seconds: float) -> int:
    """Submitted all at once, awaited one after another."""
    futures = [nap.submit(number, seconds) for number in range(count)]
    return sum(future.result() for future in futures)


@flow
def mapped(count: int, seconds: float) -> int:
    """One map, and a task that takes all of it."""
    return add_up(nap.map(range(count), seconds))


@flow
def neighbour() -> int:
    """A short task of another run on the same queue."""
    return nap.submit(1, 0.0).result()


@flow
def nested(depth: int) -> int:
    """A subflow in a subflow, with a submitted task on every floor."""
    below = nested(depth - 1) if depth > 1 else 0
    return below + nap.submit(1, 0.0).result()


@flow
def beside_a_long_one(long: float) -> list[float]:
    """Awaits short ones, one after another, while a long one goes on; gives the seconds that each was waited for."""
    waited = []
    nap.submit(0, long)
    for number in range(4):
        began = time.monotonic()
        nap.submit(number, 0.1).result()
        waited.append(time.monotonic() - began)
    return waited
