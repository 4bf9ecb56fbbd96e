"""Async flows for tests of what may go on while a branch waits, where a worker could import them."""

from __future__ import annotations

import asyncio
import sys
import threading

from orchestra import flow, task
from tests.engine.flows import effects


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
