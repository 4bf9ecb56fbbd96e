"""Flows that take slots of limits, where a worker could import them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from orchestra import flow, get_run_logger, sleep, task
from orchestra.concurrency import asyncio as limits_async
from orchestra.concurrency.sync import concurrency, rate_limit

#: What bodies did, in order.
effects: list[Any] = []
#: Called in bodies that a test looks into.
looks: list[Callable[[], object]] = []


@task
def note(what):
    for look in looks:
        look()
    effects.append(what)
    return what


@task(tags=["db"])
def tagged(what):
    for look in looks:
        look()
    effects.append(what)
    return what


@task(tags=["db"], retries=2, retry_delay_seconds=5)
def tagged_flaky(what):
    effects.append(what)
    if len(effects) < 2:
        raise ValueError("not yet")
    return what


@task(tags=["db"], persist_result=False)
def tagged_and_not_kept(what):
    effects.append(what)
    return what


@task
def in_a_block(what):
    with concurrency("db"):
        for look in looks:
            look()
        effects.append(what)


@flow
def block(what="a", timeout=None, strict=False, occupy=1):
    with concurrency("db", occupy=occupy, timeout_seconds=timeout, strict=strict):
        sleep(60)
        note(what)
    return note(f"{what} out")


@flow
def short_block(what="a"):
    with concurrency("db"):
        note(what)


@flow
def two_blocks():
    for number in range(2):
        with concurrency(["db", "api"]):
            note(number)
            sleep(60)


@flow
def block_that_fails():
    with concurrency("db"):
        sleep(60)
        raise ValueError("no")


@flow(retries=1, retry_delay_seconds=1)
def block_of_a_flaky_flow():
    with concurrency("db"):
        note("try")
        if effects.count("try") < 2 or len(effects) < 2:
            raise ValueError("not yet")


@flow
def timed_block():
    try:
        with concurrency("db", timeout_seconds=30):
            return "in"
    except TimeoutError as error:
        return f"{type(error).__name__}: {error}"


@flow(timeout_seconds=30)
def late_block():
    with concurrency("db"):
        return "in"


@flow
async def branches(count):
    async def one(number):
        async with limits_async.concurrency("db"):
            effects.append(f"in {number}")
            await note.submit(number)

    await asyncio.gather(*(one(number) for number in range(count)))


@flow
def direct(count=1):
    return [tagged(number) for number in range(count)]


@flow
async def direct_async(count):
    @task(tags=["db"])
    async def here(number):
        effects.append(number)
        await asyncio.sleep(0)
        return number

    return await asyncio.gather(*(tagged_async(number) for number in range(count)))


@task(tags=["db"])
async def tagged_async(number):
    effects.append(f"in {number}")
    await asyncio.sleep(0.05)
    effects.append(f"out {number}")
    return number


@flow
def submitted(count):
    return [future.result() for future in [tagged.submit(number) for number in range(count)]]


@flow
def flaky():
    return tagged_flaky.submit("try").result()


@flow
def not_kept():
    return tagged_and_not_kept("a")


@flow
def blocks_in_tasks(count):
    for future in [in_a_block.submit(number) for number in range(count)]:
        future.wait()


@flow
def limited(count):
    for number in range(count):
        rate_limit("api", occupy=1)
        note(number)


@flow
def nothing_limited():
    with concurrency("nothing"):
        get_run_logger().info("in")
        return "in"


@flow
def strict():
    with concurrency("nothing", strict=True):
        return "in"
