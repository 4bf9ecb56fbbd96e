"""Async flows for tests of what may go on while a branch waits, where a worker could import them."""

from __future__ import annotations

import asyncio
import sys
import threading

from orchestra import flow, sleep, task
from orchestra.errors import RunTimeout
from tests.engine.flows import aadd, add, effects, fail


@task(queue="elsewhere")
def remote(x):
    effects.append(f"remote {x}")
    return x


async def awaits_remote(x):
    return await remote.submit(x)


@task
async def on_a_thread():
    """As libraries do that talk to a thread of their own."""
    effects.append("thread")
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    threading.Timer(0.1, lambda: loop.call_soon_threadsafe(future.set_result, "done")).start()
    return await future


@task
async def on_a_process():
    effects.append("process")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE)
    await process.communicate(b"\n")
    return "done"


@flow
async def beside_a_thread():
    return await asyncio.gather(on_a_thread(), awaits_remote(1))


@flow
async def beside_a_process():
    return await asyncio.gather(on_a_process(), awaits_remote(1))


@flow
async def waits_within():
    """A task's body waits for a step of its flow that it was not handed."""
    future = remote.submit(1)

    @task
    async def waits():
        effects.append("within")
        return await future

    return await waits()


@task
async def opens(gate):
    effects.append("opens")
    await gate.wait()
    return "done"


@flow
async def waits_unawaited(how):
    """A branch holds up an async task of another, which it would then let go on."""

    async def blocks():
        try:
            value = remote.submit(1).result() if how == "result" else remote(1)
        except TypeError as error:
            value = await aadd(len(str(error)) and 1)
        gate.set()
        return value

    gate = asyncio.Event()
    values = await asyncio.gather(opens(gate), blocks())
    return [*values, await remote.submit(5)]


@flow
def loop_within():
    """A plain flow that runs a loop of its own."""

    async def both():
        values = [await aadd(1), await remote.submit(3)]
        await sleep(3600)
        return values

    return asyncio.run(both())


@flow
def loop_within_gathers(n):
    async def all_of_them():
        return await asyncio.gather(*(awaits_remote(i) for i in range(n)))

    return asyncio.run(all_of_them())


@flow
def loop_within_beside_a_task():
    """Of two Tasks of such a loop, one would stop the other."""
    return asyncio.run(_opened_by_a_wait())


async def _opened_by_a_wait():
    gate = asyncio.Event()
    await asyncio.gather(opens(gate), awaits_remote(1))


@task
async def endless():
    effects.append("endless")
    try:
        await asyncio.Event().wait()
    finally:
        effects.append("stopped")


@flow
async def timeout_around_a_call(how):
    try:
        if how == "wait_for":
            await asyncio.wait_for(endless(), 0.05)
        async with asyncio.timeout(0.05):
            await endless()
    except TimeoutError:
        effects.append("late")
    return await remote.submit(1)


@flow
async def first_wins():
    """The branch that is first cancels the other, in the middle of its second call."""

    async def loses():
        await aadd(1)
        await endless()

    async def wins():
        return await aadd(2)

    racers = [asyncio.create_task(each()) for each in (wins, loses)]
    done, pending = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
    for each in pending:
        each.cancel()
    return [len(done), await remote.submit(1)]


@flow(timeout_seconds=0.1)
async def over_time():
    try:
        await endless()
    finally:
        try:
            await remote.submit(1)
        except RunTimeout:
            effects.append(await remote.submit(2))


@flow
async def timeout_around_a_step(how):
    """The wait is abandoned while another branch keeps the run from parking; its step is done when it is replayed."""
    late = asyncio.Event()

    async def impatient():
        future = remote.submit(1)
        waits = {
            "await": lambda: future,
            "wait": lambda: future.waiter.wait_async([future], 3600),
            "sleep": lambda: sleep(3600),
            "short sleep": lambda: sleep(0.9),
            "pass on": lambda: aadd(future),
        }
        try:
            async with asyncio.timeout(0.05):
                return await waits[how]()
        except TimeoutError:
            return await aadd(5)
        finally:
            late.set()

    values = await asyncio.gather(impatient(), opens(late))
    return [*values, await remote.submit(2)]


@flow(retries=1)
async def retried_after_a_timeout():
    """Its second attempt is not told to abandon what the first did."""
    gate = asyncio.Event()

    async def impatient():
        try:
            async with asyncio.timeout(0.05):
                await remote.submit(1)
        except TimeoutError:
            return "late"
        finally:
            gate.set()
        return "in time"

    values = await asyncio.gather(impatient(), opens(gate))
    if await remote.submit(2) and effects.count("remote 2") == 1 and "failed" not in effects:
        effects.append("failed")
        raise ValueError("try again")
    return values


@flow
async def fails_beside_a_wait():
    """One branch fails while another waits; main cancels a third by hand."""

    async def waits(x):
        await remote.submit(x)
        return await remote.submit(x + 1)

    third = asyncio.create_task(waits(10))
    await remote.submit(0)
    third.cancel()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits(20))
            group.create_task(fails_later())
    except* ValueError:
        pass
    return await remote.submit(2)


async def fails_later():
    await remote.submit(30)
    await fail.submit("no")


@flow
async def timeout_around_remote(seconds):
    """Nothing else runs."""
    try:
        async with asyncio.timeout(seconds):
            return await remote.submit(1)
    except TimeoutError:
        return await remote.submit(2)


@flow
async def timeout_around_own():
    """The step needs the slot that waits for it."""
    async with asyncio.timeout(5):
        return await add.submit(1)


@flow
async def timeout_that_changes():
    """In a replay its time limit is gone."""
    try:
        async with asyncio.timeout(None if effects else 0.05):
            await endless()
    except TimeoutError:
        return await remote.submit(1)
