"""Flows that are retried from a task which a person chooses."""

from __future__ import annotations

import asyncio

from orchestra import flow, runtime, sleep, task
from orchestra.cache_policies import INPUTS
from orchestra.task_runners import ThreadPoolTaskRunner
from orchestra.transactions import transaction

#: What bodies did, in order.
effects: list[str] = []
#: The idempotency keys they did it under.
keys: list[str] = []
#: Turns code into other code.
switch: dict[str, bool] = {}


def did(name: str) -> str:
    """Note it; the value tells the how-manieth time it was."""
    effects.append(name)
    keys.append(runtime.task_run.idempotency_key)
    if switch.get(f"{name} fails"):
        raise RuntimeError(f"{name} is broken")
    return f"{name} {effects.count(name)}"


@task
def step(name: str, *given: object) -> str:
    """Does it."""
    return did(name)


@task
async def lone(name: str) -> str:
    """Does it in a loop."""
    return did(name)


@task(cache_policy=INPUTS)
def cached(name: str) -> str:
    """Does it, unless the cache answers."""
    return did(name)


@flow
def in_a_row() -> list[str]:
    """Direct calls, none of which is given what another returned."""
    if switch.get("renamed"):
        return [cached("other")]
    if switch.get("mended"):
        return [step("extract"), cached("check"), step("load")]
    return [step("extract"), step("transform"), step("load")]


@flow(retries=2)
def retried() -> list[str]:
    """As `in_a_row`, tried again where it fails."""
    return [step("extract"), cached("transform"), step("load")]


@flow
def fanned_out() -> list[str]:
    """Mapped, then joined."""
    parts = step.map(["a", "b", "c"])
    return [*(part.result() for part in parts), step.submit("joined", parts).result()]


@flow(static=True)
def planned() -> list[str]:
    """As `fanned_out`, sent as one canvas."""
    return step.submit("joined", step.map(["a", "b", "c"])).result()


@flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
def one_by_one() -> list[str]:
    """As `fanned_out`, with one task in flight."""
    return step.submit("joined", step.map(["a", "b", "c"])).result()


@flow
def with_child() -> list[str]:
    """A subflow between two tasks, and a sleep."""
    before = step("before")
    sleep(0)
    return [before, *in_a_row(), step("after")]


@flow
def with_cache(submitted: bool) -> list[str]:
    """Calls that the cache may answer."""
    if submitted:
        return [cached.submit("one").result(), cached.submit("two").result()]
    return [cached("one"), cached("two")]


@flow
def in_blocks() -> list[str]:
    """Two transactions, the second of them known by a key, and with one inside."""
    done = []
    with transaction():
        done += [step("a 1"), step("a 2")]
    with transaction(key="b") as block:
        if block.is_committed():
            return [*done, "b was committed"]
        done.append(step("b 1"))
        with transaction():
            done.append(cached("b 2"))
        block.stage(done)
    return [*done, step("last")]


@flow
def rolled_back() -> str:
    """A block whose second task fails."""
    with transaction():
        step("a")
        return step("b")


@flow
async def in_branches() -> list[str]:
    """Two branches; the block of one is open while the other does its step."""
    opened, went_on = asyncio.Event(), asyncio.Event()

    async def left() -> str:
        apart = await lone("apart")
        with transaction():
            await lone("left 1")
            opened.set()
            await went_on.wait()
            return apart + await lone("left 2")

    async def right() -> str:
        await opened.wait()
        found = await lone("right")
        went_on.set()
        return found

    return [step("root"), *await asyncio.gather(left(), right()), step("end")]


@flow
def tolerant() -> list[str]:
    """Goes on behind a task that fails."""
    first = step.submit("shaky")
    second = step("middle")
    return [str(first.result(raise_on_failure=False)), second, step("last")]


@flow
def starting() -> str:
    """Starts a run apart, on the way."""
    step("value")
    return in_a_row.delay().id


@flow
def dependent() -> str:
    """The second task is not run where the first fails."""
    return step.submit("second", step.submit("first")).result()
