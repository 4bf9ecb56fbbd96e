"""Flows for the tests of task runners, pools and brokers with real workers."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Iterable

from orchestra import allow_failure, as_completed, flow, get_run_logger, runtime, task
from orchestra.task_runners import CeleryTaskRunner, ThreadPoolTaskRunner
from tests.integration.flows import note


@task
def double(x: int) -> int:
    """Twice as much."""
    return 2 * x


@task
def total(values: Iterable[int]) -> int:
    """All of it."""
    return sum(values)


@task
def process(x: int) -> int:
    """The process that runs it."""
    return os.getpid()


@task
def fails(x: int) -> int:
    """Does not work."""
    raise ValueError(f"no {x}")


@task
def seen(value: object) -> str:
    """What it was handed."""
    return type(value).__name__


@task(retries=2, retry_delay_seconds=0.1)
def doubtful(path: str) -> int:
    """Works the third time."""
    note(path, "try")
    if runtime.task_run.run_count < 3:
        raise ValueError("not yet")
    return runtime.task_run.run_count


@task
def noted(path: str, what: str, seconds: float = 0.0) -> str:
    """Notes that it starts, and that it ends."""
    note(path, f"+{what}")
    time.sleep(seconds)
    note(path, f"-{what}")
    return what


@task(queue="aside")
def aside(x: int) -> int:
    """On a queue of its own."""
    return x


@task
def told(x: int) -> str | None:
    """Says something."""
    get_run_logger().info("line %d", x)
    print("printed", x)
    return runtime.flow_run.id


@task
async def slowly(x: int) -> int:
    """A coroutine function."""
    await asyncio.sleep(0.01)
    return x


@task(timeout_seconds=0.5)
def overdue() -> None:
    """Takes too long."""
    time.sleep(20)


@task(timeout_seconds=0.5)
async def overdue_async() -> None:
    """Takes too long, and yields."""
    await asyncio.sleep(20)


@flow
def mapped(n: int = 8) -> int:
    """A map over a map, joined, and a direct call."""
    return double(total.submit(double.map(double.map(range(n)))).result())


@flow
async def mapped_async(n: int = 4) -> list[int]:
    """Direct and submitted calls of an async flow, and two branches."""
    first = await slowly(1)
    values = [await future for future in double.map(range(n))]
    both = await asyncio.gather(slowly(2), slowly(3))
    return [first, sum(values), *both]


@flow
def times_out() -> list[str]:
    """Tasks over their time: submitted, called, sync and async."""
    futures = [overdue.submit(), overdue_async.submit()]
    states = [overdue(return_state=True).name]
    for future in futures:
        future.wait()
    return states + [future.state.name for future in futures]


@flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
def two_at_once(path: str, n: int = 8, seconds: float = 0.2) -> int:
    """So many tasks that may run two at once."""
    return len(noted.map([path] * n, [str(i) for i in range(n)], seconds).result())


@flow(task_runner=ThreadPoolTaskRunner(max_workers=3))
def bound_in_rounds(n: int) -> int:
    """Submits more while earlier ones run, which wait for those: joins, dispatches and parks meet each other."""
    values = double.map(range(n))
    for _ in range(4):
        next(iter(as_completed(values)))
        values = [*double.map(values), double.submit(1)]
    return total.submit(values).result()


@flow
def many_sleep(path: str, n: int, seconds: float) -> int:
    """Tasks that wait at the same time."""
    return len(noted.map([path] * n, [str(i) for i in range(n)], seconds).result())


@flow
def one(path: str, what: str) -> str:
    """A task that notes."""
    return noted(path, what)


# -- from here to workers ----------------------------------------------------------------------------------------


@flow(task_runner=CeleryTaskRunner())
def chained(n: int = 6) -> tuple[int, set[int], int]:
    """A map over a map, joined; who ran them; and a direct call."""
    value = total.submit(double.map(double.map(range(n)))).result()
    return value, set(process.map(range(4)).result()), process(0)


@flow(task_runner=CeleryTaskRunner())
def failing() -> list[str]:
    """A failure, what depends on it, and what takes it."""
    bad = fails.submit(1)
    after, takes = double.submit(bad), seen.submit(allow_failure(bad))
    behind = double.submit(1, wait_for=[bad])
    errors = [type(future.result(raise_on_failure=False)).__name__ for future in (bad, after, behind)]
    return [*errors, takes.result()]


@flow(task_runner=CeleryTaskRunner())
def retried(path: str) -> int:
    """A task that is tried again, on workers."""
    return doubtful.submit(path).result()


@flow(log_prints=True, task_runner=CeleryTaskRunner())
def telling() -> tuple[str | None, str | None]:
    """The run that each side thinks it is in."""
    return runtime.flow_run.id, told.submit(3).result()


@flow(task_runner=CeleryTaskRunner(queue="aside"))
def on_a_queue() -> int:
    """Tasks go to the runner's queue."""
    return double.submit(4).result()


@flow(task_runner=CeleryTaskRunner())
async def from_async() -> list[int]:
    """Futures awaited in an async flow."""
    return [await future for future in [*double.map([1, 2]), slowly.submit(7)]]


@flow(task_runner=CeleryTaskRunner())
def holding(path: str, seconds: float) -> list[str]:
    """More tasks than there are slots."""
    return noted.map([path] * 6, [str(i) for i in range(6)], seconds).result()


@flow(timeout_seconds=3, task_runner=CeleryTaskRunner())
def over_time(path: str) -> list[str]:
    """Its tasks take longer than it may."""
    return noted.map([path] * 6, [str(i) for i in range(6)], 30.0).result()


@task
def large(size: int) -> bytes:
    """So many bytes."""
    return b"x" * size


@task
def length(data: bytes) -> int:
    """How many bytes."""
    return len(data)


@flow(task_runner=CeleryTaskRunner())
def weighing(size: int) -> tuple[int, int]:
    """A large value that goes from worker to worker, and comes here."""
    future = large.submit(size)
    return length.submit(future).result(), len(future.result())


@flow(retries=1, task_runner=CeleryTaskRunner())
def second_attempt(path: str) -> list[str]:
    """Fails once, after its first task."""
    kept = noted.submit(path, "kept")
    again = noted.submit(path, f"again-{runtime.flow_run.run_count}", wait_for=[kept])
    again.result()
    if runtime.flow_run.run_count == 1:
        raise ValueError("not yet")
    return [kept.result(), again.result()]


@task
async def loop_here() -> tuple[int, int, str]:
    """Which loop runs in which thread of which process."""
    loop = vars(asyncio.get_running_loop())
    return os.getpid(), threading.get_ident(), loop.setdefault("marked", uuid.uuid4().hex)


@flow
def loops_of_tasks() -> list[tuple[int, int, str]]:
    """Of tasks that a plain flow submits."""
    return [future.result() for future in [loop_here.submit() for _ in range(3)]]


@flow
async def loops_of_a_flow() -> list[tuple[int, int, str]]:
    """Of an async body, of a call in it, and of submitted tasks."""
    return [await loop_here.fn(), await loop_here(), await loop_here.submit()]
