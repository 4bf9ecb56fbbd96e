"""The code of docs/howto/limits.md."""

from __future__ import annotations

from orchestra import flow, task
from orchestra.concurrency.limits import create_limit, list_limits, update_limit
from orchestra.concurrency.sync import concurrency, rate_limit
from orchestra.errors import AcquireConcurrencySlotTimeoutError


def make_limits() -> None:
    """Once, as an operator would."""
    if not list_limits():
        create_limit("database", 2)
        create_limit("nightly", 1)
        create_limit("tag:report", 1)
        create_limit("api", 5, slot_decay_per_second=20)


@task
def load(part: int) -> int:
    """At most two at once, in all processes together."""
    with concurrency("database"):
        return part * part


@task(tags=["report"])
def report(total: int) -> str:
    """One at a time: its tag has a limit of 1."""
    return f"total {total}"


@task
def ask(number: int) -> int:
    """Five at once, then twenty a second."""
    rate_limit("api")
    return number


@flow
def nightly() -> str:
    """One such run at a time: the next one waits, and holds no worker slot."""
    with concurrency("nightly", timeout_seconds=3600):
        parts = load.map(ask.map(range(4)))
    return report(sum(parts.result()))


def impatient() -> str:
    """A plain function, outside of any run."""
    try:
        with concurrency("database", occupy=2, timeout_seconds=0):
            return "had both"
    except AcquireConcurrencySlotTimeoutError:
        return "did something else"


if __name__ == "__main__":
    make_limits()
    update_limit("database", limit=3)
    print(nightly(), "-", impatient())
