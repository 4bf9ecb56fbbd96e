"""The code of docs/howto/tasks.md."""

from __future__ import annotations

import statistics
from functools import partial

from orchestra import allow_failure, flow, quote, runtime, task, unmapped
from orchestra.futures import Future


@task(name="fetch-page", task_run_name="page-{number:03d}", retries=2, timeout_seconds=30, tags=["web"])
def fetch(number: int) -> str:
    """One page."""
    if number == 13:
        raise ValueError("no such page")
    return f"page {number}"


@task
def measure(text: str, unit: int = 1) -> int:
    """Its length."""
    return len(text) * unit


@task
def report(**lengths: int) -> str:
    """One line."""
    return ", ".join(f"{name}: {length}" for name, length in lengths.items())


@flow
def measure_pages() -> str:
    """Direct calls, and submitted ones."""
    first = measure(fetch(1))  # runs now, here
    page = fetch.submit(2)  # a future, at once
    second = measure.submit(page)  # runs when the page is there
    return report(first=first, second=second)  # futures become their values


@flow
def measure_all() -> list[int]:
    """One task run for each element."""
    pages = fetch.map(range(3))
    return measure.map(pages, unit=unmapped(2)).result()


@task
def describe(outcome: object) -> str:
    """Of a page, or of what went wrong."""
    return f"failed: {outcome}" if isinstance(outcome, Exception) else str(outcome)


@flow
def goes_on() -> list[str]:
    """A failure that stops nobody."""
    good, bad = fetch.submit(1), fetch.with_options(retries=0).submit(13)
    return [describe(allow_failure(page)) for page in (good, bad)]


@task
def count(futures: list[Future[str]]) -> int:
    """Takes futures as they are."""
    return len(futures)


@flow
def by_state() -> list[str]:
    """States instead of values."""
    state = fetch.with_options(retries=0)(13, return_state=True)
    states = measure.map(["a", "bb"], return_state=True)
    size = count(quote([fetch.submit(1)]))
    return [state.name, *(each.name for each in states), str(size)]


#: Whatever can be called can be a task; workers find it by the variable that holds it.
mean = task(statistics.mean)
double = task(partial(measure.fn, unit=2), name="double")


@task
def pay(amount: int) -> str:
    """An effect that must not happen twice: hand the key on to whoever carries it out."""
    return f"{amount} paid under {runtime.task_run.idempotency_key}"


if __name__ == "__main__":
    print(measure_pages(), measure_all())
    print(goes_on(), by_state(), mean([1, 3]), double("abc"))
    print(len(pay(3)) > 10)
