"""A flow that can be drawn: its body never looks into a result."""

from __future__ import annotations

from orchestra import flow, task


@task
def load(day: int) -> int:
    """One day's orders."""
    return day * 10


@task
def total(orders: list[int]) -> int:
    """All orders."""
    return sum(orders)


@flow
def report(days: int) -> int:
    """Load some days at the same time, then add them up."""
    return total([load.submit(day) for day in range(days)])
