"""Flows for the tests of the doors: calls that a worker could not find, cancelled bodies, swallowed signals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from orchestra import Flow, Task, flow, sleep, task
from orchestra.errors import CancelledRun, NotImportable
from tests.integration.flows import add, note, noted

#: Lambdas that no variable of the module holds.
LAMBDAS: dict[str, Any] = {"task": task(lambda n: n + 1), "flow": flow(lambda n=1: n + 1)}


def local_task() -> Task[[int], int]:
    """A task that lives in a function."""

    @task
    def inside(n: int) -> int:
        return n + 1

    return inside


def local_flow() -> Flow[[], int]:
    """A flow that lives in a function."""

    @flow
    def inside() -> int:
        return 1

    return inside


@flow
def submitting(kind: str) -> int:
    """Submits a task that no worker could import."""
    return int(_nameless(kind).submit(1).result())


@flow
def undaunted(kind: str) -> list[Any]:
    """Is refused, and goes on: a direct call of the same task, and a submitted one of another."""
    unreachable, refused = _nameless(kind), ""
    try:
        unreachable.submit(1)
    except NotImportable as error:
        refused = type(error).__name__
    return [refused, unreachable(1), add.submit(1, 2).result()]


def _nameless(kind: str) -> Task[[int], int]:
    return LAMBDAS["task"] if kind == "lambda" else local_task()


@flow
def clocked() -> float:
    """When its body began, in seconds since the epoch."""
    return time.time()


@flow
def failing() -> None:
    """Fails."""
    raise ValueError("out of stock")


@flow
def resting(seconds: float = 3600.0) -> str:
    """Sleeps without holding a slot."""
    sleep(seconds)
    return "rested"


@flow
def whereabouts(path: str) -> str:
    """Notes the processes of its body and of a submitted task."""
    note(path, "body")
    return str(noted.submit(path, "task").result())


@task(queue="unread")
def unread(n: int) -> int:
    """On a queue that no worker consumes."""
    return n


@flow
def asking_unread() -> list[int]:
    """One call as its run is ranked, one with a priority of its own."""
    futures = [unread.submit(0), unread.with_options(priority=2).submit(1)]
    return [future.result() for future in futures]


@task
def held(path: str, what: str, cleanup: float = 0.0) -> str:
    """Notes that it starts, and that it is left, whichever way."""
    try:
        # Inside, as it may be stopped as soon as that is seen.
        note(path, what)
        time.sleep(60)
    finally:
        time.sleep(cleanup)
        note(path, f"{what}-left")
    return what


@flow
def inner(path: str) -> str:
    """A child whose task takes its time, with more to do after it."""
    held(path, "inner")
    return noted(path, "after-inner")


@flow
def busy(path: str) -> str:
    """Runs a child, with one submitted task beside it and more that wait for a slot; cleans up after itself."""
    held.submit(path, "beside")
    noted.map([path] * 3, "queued")
    try:
        return inner(path)
    finally:
        noted(path, "cleaned")


@flow
def untidy(path: str) -> str:
    """Waits for a task that takes a second to clean up when it is interrupted."""
    return str(held.submit(path, "untidy", 1.0).result())


@flow
def nested(path: str, depth: int) -> str:
    """A run in a run, and so on, around a task that takes its time."""
    return nested(path, depth - 1) if depth else held(path, "innermost")


@flow
def outliving(path: str) -> list[str]:
    """Goes on when its child is cancelled."""
    try:
        inner(path)
    except CancelledRun as error:
        return [type(error).__name__, noted(path, "after-child")]
    return []


@flow
def stubborn(path: str) -> list[str]:
    """Catches whatever is raised, and goes on."""
    return [careless(lambda: held(path, "held")), careless(lambda: noted(path, "next"))]


def careless(call: Callable[[], str]) -> str:
    """What a call gives; whatever it raises is swallowed."""
    try:
        return call()
    except:  # noqa: E722 - on purpose
        return "swallowed"


@flow
def small(path: str) -> str:
    """A child that parks."""
    return careless(lambda: str(noted.submit(path, "in-child", 0.15).result()))


def slept(seconds: float) -> str:
    """Sleep, as a step."""
    sleep(seconds)
    return "slept"


@flow
def swallowing(path: str) -> list[str]:
    """Parks at several places, each within a bare `except:`."""
    return [
        careless(lambda: str(noted.submit(path, "first", 0.15).result())),
        careless(lambda: noted(path, "second")),
        careless(lambda: small(path)),
        careless(lambda: slept(1.1)),
        careless(lambda: slept(0.01)),
        careless(lambda: str(noted.submit(path, "third", 0.15).result())),
    ]


@task
async def anoted(path: str, what: str) -> str:
    """Notes that it starts."""
    note(path, what)
    return what


async def acareless(call: Callable[[], Any]) -> Any:
    """What an awaited call gives; whatever it raises is swallowed."""
    try:
        return await call()
    except:  # noqa: E722 - on purpose
        return "swallowed"


async def aslept(seconds: float) -> str:
    """Sleep, as a step."""
    await sleep(seconds)
    return "slept"


@flow
async def asmall(path: str) -> str:
    """A child that parks."""
    return str(await acareless(lambda: noted.submit(path, "in-child", 0.15)))


@flow
async def aswallowing(path: str) -> list[str]:
    """As `swallowing`; two branches are awaited together, which keep their exceptions to themselves."""

    async def branch(what: str) -> str:
        return str(await noted.submit(path, what, 0.15))

    first = await acareless(lambda: noted.submit(path, "first", 0.15))
    second = await acareless(lambda: anoted(path, "second"))
    both = await asyncio.gather(branch("left"), acareless(lambda: branch("right")), return_exceptions=True)
    child = await acareless(lambda: asmall(path))
    rest = [await acareless(lambda: aslept(1.1)), await acareless(lambda: aslept(0.01))]
    return [first, second, *map(str, both), child, *rest, await acareless(lambda: anoted(path, "third"))]


@task
def broken(path: str) -> None:
    """Fails."""
    note(path, "broken")
    raise ValueError("broken")


@flow
def tidying(path: str, fails: bool) -> str:
    """Parks inside a `try`, whose `finally` has steps of every kind."""
    try:
        value = noted.submit(path, "work", 0.15).result()
        if fails:
            broken.submit(path).result()
        return value
    finally:
        noted(path, "direct")
        noted.submit(path, "submitted", 0.15).result()
        sleep(1.1)


@flow
async def atidying(path: str, fails: bool) -> str:
    """As `tidying`."""
    try:
        value = await noted.submit(path, "work", 0.15)
        if fails:
            await broken.submit(path)
        return value
    finally:
        await anoted(path, "direct")
        await noted.submit(path, "submitted", 0.15)
        await sleep(1.1)
