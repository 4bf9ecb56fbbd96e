"""The code of docs/howto/flows.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

from orchestra import State, flow, task
from orchestra.states import Completed


@task
def extract(source: str, day: date) -> list[int]:
    """Rows of one day."""
    return [len(source), day.day]


@task
def load(rows: list[int]) -> int:
    """How many were loaded."""
    return len(rows)


@flow(name="nightly-load", flow_run_name="load-{source}-{day}", retries=2, timeout_seconds=3600, log_prints=True)
def load_day(source: str, day: date, limit: int = 100) -> int:
    """Load the rows of one day."""
    rows = extract(source, day)[:limit]
    print(f"{len(rows)} rows")
    return load(rows)


def all_ways() -> None:
    """Each way to call a flow."""
    count = load_day("web", "2026-01-31")  # a text becomes the date it says
    state = load_day("web", date(2026, 1, 31), return_state=True)
    patient = load_day.with_options(timeout_seconds=7200, name="slow-load")
    print(count, state.name, state.result(), patient("web", date(2026, 1, 31)))


@flow
def sometimes_idle(rows: list[int]) -> State[Any] | int:
    """Says itself how it ended."""
    if not rows:
        return Completed(message="nothing to do", name="Skipped")
    return load(rows)


@flow
def load_week(source: str) -> list[int]:
    """A child run for each day."""
    return [load_day(source, date(2026, 1, day)) for day in range(1, 8)]


@flow
def read_pages(count: int) -> Iterator[int]:
    """A generator: its items are the run's result."""
    for page in range(count):
        yield load([page])


@dataclass
class Loader:
    """Methods may be flows and tasks."""

    source: str

    @task
    def rows(self, day: date) -> list[int]:
        """A task."""
        return extract.fn(self.source, day)

    @flow
    def run(self, day: date) -> int:
        """A flow."""
        return load(self.rows(day))


if __name__ == "__main__":
    all_ways()
    print(sometimes_idle([], return_state=True).name, sometimes_idle([1]))
    print(sum(load_week("web")), list(read_pages(3)), Loader("web").run(date(2026, 1, 31)))
