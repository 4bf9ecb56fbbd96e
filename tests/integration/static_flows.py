"""Static flows for tests on real workers; each body is noted in the ledger."""

from __future__ import annotations

import time

from orchestra import flow, task
from orchestra.annotations import allow_failure, unmapped
from orchestra.context import task_run_context
from tests.crash import ledger


@task
def add(*terms: int, seconds: float = 0.0) -> int:
    """The sum."""
    with ledger.entry():
        time.sleep(seconds)
        return sum(terms)


@task
def total(numbers: list[int]) -> int:
    """The sum of a list."""
    with ledger.entry():
        return sum(numbers)


@task
def fail() -> int:
    """Fails."""
    with ledger.entry():
        raise ValueError("no")


@task(retries=2, retry_delay_seconds=1.1)
def flaky(marker: str) -> str:
    """Fails once, and frees its slot meanwhile."""
    with ledger.entry():
        running = task_run_context.get()
        if running is not None and running.attempt == 1:
            raise ConnectionError("not yet")
        return marker


@task
def describe(outcome: object) -> str:
    """The type of what it got."""
    with ledger.entry():
        return type(outcome).__name__


@flow(static=True)
def diamond(n: int = 1) -> int:
    """Two ways from one task to another."""
    top = add.submit(n)
    left, right = add.submit(top, 10), add.submit(top, 20)
    return add.submit(left, right).result()


@flow(static=True)
def sums(width: int, seconds: float = 0.0) -> dict[str, int]:
    """A direct call, a layer of submitted ones, a direct call over them, and a last layer."""
    first = add(1)
    parts = add.map(range(width), unmapped(first), seconds=seconds)
    whole = total(parts)
    return {"whole": whole, "again": total.submit(add.map(range(width), unmapped(whole))).result()}


@flow(static=True)
def crossed() -> int:
    """An N, which no canvas can hold exactly."""
    a, b = add.submit(1), add.submit(2)
    c, d = add.submit(a, b), add.submit(b)
    return add(c, d)


@flow(static=True)
def ends_in_groups(n: int = 2) -> int:
    """Parts of a join that end side by side themselves."""
    tops = [add.submit(i) for i in range(n)]
    lows = [add.submit(top, i) for top in tops for i in range(n)]
    return total.submit(lows).result()


@flow(static=True)
def failing() -> int:
    """A direct call fails, so that the next one is not run."""
    bad = fail()
    return add(bad, 1)


@flow(static=True)
def second_fails() -> int:
    """The second of two direct calls fails."""
    return add(add(1), fail())


@flow(static=True)
def tolerant() -> str:
    """A failure is let through."""
    bad = fail.submit()
    return describe.submit(allow_failure(bad)).result()


@flow(static=True)
def retrying() -> list[str]:
    """One of two is tried again, behind a join."""
    one, two = flaky.submit("late"), describe.submit(1)
    return [describe(one), two]


@flow(static=True)
def looking() -> int:
    """Looks into a result."""
    x = add(1)
    return add(x) if x > 3 else 0


@flow
def deciding(limit: int) -> int:
    """Not static, and drawable."""
    return total(add.map(range(limit), 1))
