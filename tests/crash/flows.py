"""Flows with known answers, of every shape that a fault could break; each body is noted in the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from typing import Any

from orchestra import flow, pause_flow_run, runtime, sleep, task
from orchestra.artifacts import create_markdown_artifact
from orchestra.context import task_run_context
from orchestra.input import RunInput, receive_input, send_input
from tests.crash import ledger

#: Seconds that an ordinary body takes.
SHORT = 0.04


@task
def add(*terms: int) -> int:
    """The sum."""
    with ledger.entry():
        time.sleep(SHORT)
        return sum(terms)


@task
def square(n: int) -> int:
    """The square."""
    with ledger.entry():
        time.sleep(SHORT)
        return n * n


@task
def total(numbers: list[int]) -> int:
    """The sum of a list."""
    with ledger.entry():
        return sum(numbers)


@task
async def fetch(n: int) -> int:
    """Something that takes its time without using it."""
    with ledger.entry():
        await asyncio.sleep(SHORT)
        return n + 100


@task(retries=3, retry_delay_seconds=1)
def flaky(n: int) -> int:
    """Fails once, then squares; the delay is long enough to free the slot."""
    with ledger.entry():
        running = task_run_context.get()
        if running is not None and running.attempt < 2:
            raise ConnectionError("not yet")
        return n * n


@task
def hold(seconds: float) -> int:
    """Takes long enough to be stopped in, the first time; gives the process that ran it."""
    with ledger.entry():
        time.sleep(seconds if ledger.is_first() else SHORT)
        return os.getpid()


@task
def cling() -> int:
    """Ends once another process has started it too, and lets nothing interrupt it: what it gives comes late."""
    ledger.write("start")
    is_first, has_ended = ledger.is_first(), False
    while not has_ended:
        # Only once is it told that it lost its claim: wherever that reaches it, it goes on.
        with contextlib.suppress(BaseException):
            while is_first and ledger.is_first():
                time.sleep(SHORT)
            ledger.write("end")
            has_ended = True
    return os.getpid()


@task
def die() -> None:
    """Kills its worker, each time."""
    with ledger.entry():
        os.kill(os.getpid(), 9)


@flow
def linear() -> int:
    """Direct calls, one after another."""
    x = 1
    for n in range(6):
        x = add(x, n)
    return x


@flow
def fan_out() -> int:
    """Many at once, then one that takes them all."""
    return total.submit([square.submit(n) for n in range(12)]).result()


@flow
def diamond() -> int:
    """Two ways from one task to another, and an order without data."""
    top = square.submit(3)
    left, right = add.submit(top, 1), add.submit(top, 2)
    aside = square.submit(5, wait_for=[left])
    return add.submit(left, right, wait_for=[aside]).result()


@flow
def nested(depth: int = 3) -> int:
    """Subflows in subflows, with a task on every floor."""
    return add(square.submit(depth).result(), nested(depth - 1) if depth else 0)


@flow
def retrying() -> int:
    """A task that is tried twice, directly and submitted."""
    submitted = flaky.submit(3)
    return flaky(2) + submitted.result()


@flow(retries=1, retry_delay_seconds=0.1)
def trying_again() -> int:
    """Fails once, as a whole, behind a step."""
    x = add(3, 4)
    if runtime.flow_run.run_count < 2:
        raise ConnectionError("not yet")
    return x


@flow
def sleeping() -> int:
    """A durable sleep between two steps."""
    x = add(1, 2)
    sleep(1)
    return add(x, 3)


@flow
def retrying_submitted() -> int:
    """A task that is tried twice, later: a flow that can be drawn."""
    return flaky.submit(3).result()


@flow
def added(x: int, y: int) -> int:
    """Adds what came before it in a canvas."""
    return add.submit(x, y).result()


@flow
async def gathering() -> int:
    """Branches: three at once, each of two steps."""

    async def branch(n: int) -> int:
        return await fetch(await fetch(n))

    return sum(await asyncio.gather(*(branch(n) for n in range(3))))


@flow
def holding(seconds: float) -> int:
    """A long task, called directly."""
    return hold(seconds)


@flow
def holding_submitted(seconds: float) -> int:
    """A long task, submitted."""
    return hold.submit(seconds).result()


@flow
def holding_below(seconds: float) -> int:
    """A long task, submitted by a child run."""
    return holding_submitted(seconds)


@flow
def clinging() -> int:
    """A long task that cannot be interrupted, called directly."""
    return cling()


@flow
def clinging_submitted() -> int:
    """A long task that cannot be interrupted, submitted."""
    return cling.submit().result()


@flow
def deadly() -> None:
    """A task that kills its worker each time."""
    die.submit().result()


#: Every shape, and what it gives.
ANSWERS: dict[Any, int] = {
    linear: 1 + sum(range(6)),
    fan_out: sum(n * n for n in range(12)),
    diamond: (9 + 1) + (9 + 2),
    nested: 9 + 4 + 1 + 0,
    retrying: 4 + 9,
    trying_again: 7,
    sleeping: 6,
    gathering: 3 * 200 + 0 + 1 + 2,
}


# -- people and messages: not of the shapes above, since somebody has to answer --------------------------------------


class Say(RunInput):
    """What a person says."""

    number: int


@flow
def asking() -> int:
    """Asks a person, between two steps."""
    return add(add(1, 2), pause_flow_run(wait_for_input=Say, timeout=120, key="number").number)


@flow
def receiving(count: int) -> list[int]:
    """So many messages, with a step behind each."""
    return [add(n, 0) for n in itertools.islice(receive_input(int, timeout=120), count)]


@flow
def sending(to: str, count: int) -> int:
    """Sends so many messages, with a step behind each."""
    for n in range(count):
        send_input(n, flow_run_id=to)
        add(n, 0)
    return count


@task
def show(number: int) -> int:
    """Shows a number, then goes on for a while."""
    with ledger.entry():
        create_markdown_artifact(str(number), key="of-a-task")
        time.sleep(SHORT)
        return number


@flow
def showing(count: int) -> list[str]:
    """Shows each number from its own body, then from tasks, here and elsewhere."""
    made = []
    for number in range(count):
        made.append(create_markdown_artifact(str(number), key="of-a-flow"))
        show(number)
        show.submit(number + 100).result()
    return made
