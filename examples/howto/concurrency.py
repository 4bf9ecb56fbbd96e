"""The code of docs/howto/concurrency.md."""

from __future__ import annotations

import asyncio
import time

from orchestra import as_completed, flow, task, wait
from orchestra.task_runners import ThreadPoolTaskRunner


@task
def pause(seconds: float) -> float:
    """Take a while."""
    time.sleep(seconds)
    return seconds


@task
async def apause(seconds: float) -> float:
    """Take a while, and leave the thread to others."""
    await asyncio.sleep(seconds)
    return seconds


@flow(task_runner=ThreadPoolTaskRunner(max_workers=4))
def four_at_a_time() -> float:
    """Submitted tasks run side by side."""
    return sum(pause.map([0.01] * 8).result())


@flow
def first_come() -> list[float]:
    """Results in the order in which they come."""
    futures = pause.map([0.05, 0.01])
    return [future.result() for future in as_completed(futures)]


@flow
def not_longer_than() -> tuple[int, int]:
    """What is there in time, and what is not."""
    done, not_done = wait(pause.map([0.0, 0.5]), timeout=0.2)
    return len(done), len(not_done)


@flow
def in_order() -> list[float]:
    """No data passes between them, and yet one waits for the other."""
    first = pause.submit(0.01)
    return [pause.submit(0.0, wait_for=first).result()]


@flow
async def gathered() -> list[float]:
    """Coroutines side by side, in one thread."""
    return await asyncio.gather(*(apause(0.01) for _ in range(3)))


if __name__ == "__main__":
    print(round(four_at_a_time(), 2), sorted(first_come()), not_longer_than(), in_order(), asyncio.run(gathered()))
