"""A flow as a native Celery canvas, before it runs."""

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


if __name__ == "__main__":
    print(report.canvas(days=3))
