"""The code of docs/howto/retries.md."""

from __future__ import annotations

from typing import Any

from orchestra import exponential_backoff, flow, task
from orchestra.runtime import task_run


def answer() -> str:
    """A service that is away at first."""
    if task_run.run_count < 3:
        raise ConnectionError(f"away at try {task_run.run_count}")
    return f"there at try {task_run.run_count}"


@task(retries=3, retry_delay_seconds=0.01)
def fixed() -> str:
    """The same pause each time."""
    return answer()


@task(retries=3, retry_delay_seconds=[0.01, 0.02])
def listed() -> str:
    """One pause after the other; the last one repeats."""
    return answer()


@task(retries=3, retry_delay_seconds=exponential_backoff(backoff_factor=0.01), retry_jitter_factor=0.5)
def backing_off() -> str:
    """Pauses that double, each spread by half of itself."""
    return answer()


@task(retries=3, retry_delay_seconds=lambda retry: 0.01 * retry)
def computed() -> str:
    """A function of the retry's number: 1, 2, 3."""
    return answer()


def worth_it(task: Any, task_run: Any, state: Any) -> bool:
    """Whether another try may help."""
    return isinstance(state.result(raise_on_failure=False), ConnectionError)


@task(retries=3, retry_condition_fn=worth_it)
def picky() -> str:
    """Not tried again after anything else."""
    return answer()


@flow(retries=1)
def whole() -> list[str]:
    """Run again as a whole; tasks that ended well are not."""
    return [each() for each in (fixed, listed, backing_off, computed, picky)]


if __name__ == "__main__":
    print(whole())
