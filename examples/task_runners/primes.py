"""One flow, three places for its work: processes of this host, one thread after another, Celery workers."""

from __future__ import annotations

from math import isqrt

from orchestra import flow, task
from orchestra.task_runners import InlineTaskRunner, ProcessPoolTaskRunner


@task(timeout_seconds=60)
def count_primes(start: int, end: int) -> int:
    """How many primes there are from `start` up to `end`."""
    return sum(all(number % divisor for divisor in range(2, isqrt(number) + 1)) for number in range(max(start, 2), end))


@flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
def primes(below: int = 20_000, parts: int = 4) -> int:
    """How many primes there are below a number, counted in parts."""
    step = below // parts
    starts = range(0, below, step)
    return sum(count_primes.map(starts, [start + step for start in starts]).result())


if __name__ == "__main__":
    in_processes = primes()
    one_by_one = primes.with_options(task_runner=InlineTaskRunner())()
    print(f"{in_processes} primes below 20000; counted one by one: {one_by_one}")
