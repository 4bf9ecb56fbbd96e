"""Flows whose task runner bounds how many submitted tasks are in flight, where a worker could import them."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from orchestra import flow, get_run_logger, runtime, task
from orchestra.futures import as_completed
from orchestra.task_runners import InlineTaskRunner, ProcessPoolTaskRunner, ThreadPoolTaskRunner

#: What bodies did, in order.
effects: list[str] = []
attempts: Counter[str] = Counter()


@task
def double(x):
    effects.append(f"double {x}")
    return 2 * x


@task
def total(values):
    effects.append("total")
    return sum(values)


@task(retries=1)
def doubtful(x):
    attempts[str(x)] += 1
    if attempts[str(x)] == 1:
        raise ValueError("not yet")
    return x


@task(retries=1, retry_delay_seconds=30)
def later(x):
    attempts[str(x)] += 1
    if attempts[str(x)] == 1:
        raise ValueError("not yet")
    return x


@task
def fails(x):
    raise ValueError(x)


@flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
def fan(n):
    return sum(double.map(range(n)).result())


@flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
def chained(n):
    return total.submit(double.map(double.map(range(n)))).result()


@flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
def in_rounds(n):
    done = 0
    for start in range(n):
        futures = double.map(range(start, start + 4))
        done += next(iter(as_completed(futures))).result() is not None
    return done


@flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
def one_by_one(n):
    return sum(later.map(range(n)).result())


@flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
def one_fails():
    bad = fails.submit(1)
    after = double.submit(bad)
    good = double.submit(2)
    error = after.result(raise_on_failure=False)
    return [type(error).__name__, good.result(), bad.state.name]


@flow(retries=1, task_runner=ThreadPoolTaskRunner(max_workers=1))
def tried_again(n):
    values = double.map(range(n)).result()
    attempts["flow"] += 1
    if attempts["flow"] == 1:
        raise ValueError("not yet")
    return sum(values) + double.submit(100).result()


@flow(static=True, task_runner=ThreadPoolTaskRunner(max_workers=2))
def drawn(n=6):
    return total.submit(double.map(list(range(n))))


@task
def where(x):
    return os.getpid()


@task
def plain(x):
    effects.append(f"plain {x}")
    return x


@flow(task_runner=InlineTaskRunner())
def at_once():
    first = plain.submit(1)
    effects.append(f"body, after {first.state.name}")
    second = plain.submit(first)
    return [second.result(), *plain.map([first, 5]).result()]


@flow(task_runner=InlineTaskRunner())
def at_once_failing():
    future = fails.submit("no")
    after = plain.submit(future)
    return [type(future.result(raise_on_failure=False)).__name__, after.state.name]


@task
def told(x: int) -> dict[str, Any]:
    """What a body can ask of its run."""
    get_run_logger().info("a line from %d", x)
    print("printed", x)
    return {
        "task": runtime.task_run.name,
        "attempt": runtime.task_run.run_count,
        "parameters": runtime.task_run.parameters,
        "flow": runtime.flow_run.name,
        "flow_parameters": runtime.flow_run.parameters,
        "pid": os.getpid(),
    }
