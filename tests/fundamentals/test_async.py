"""Coroutine functions as flows and tasks."""

from __future__ import annotations

import asyncio

import pytest

from orchestra import flow, sleep, task


@task
async def increment(number: int) -> int:
    """One more."""
    await asyncio.sleep(0)
    return number + 1


def test_an_async_flow_awaits_its_tasks() -> None:
    """Direct calls give coroutines, which `gather` runs side by side."""

    @flow
    async def work() -> list[int]:
        return await asyncio.gather(*(increment(number) for number in range(3)))

    assert asyncio.run(work()) == [1, 2, 3]


def test_sync_tasks_work_in_async_flows() -> None:
    """They are called without `await`."""

    @task
    def double(number: int) -> int:
        return number * 2

    @flow
    async def work() -> int:
        return double(await increment(1))

    assert asyncio.run(work()) == 4


def test_futures_can_be_awaited() -> None:
    """`.submit()` of an async task gives the same kind of future."""

    @flow
    async def work() -> int:
        first = increment.submit(1)
        return await increment.submit(first)

    assert asyncio.run(work()) == 3


def test_a_sync_flow_submits_async_tasks() -> None:
    """They run in the pool, each with a loop."""

    @flow
    def work() -> list[int]:
        return increment.map([1, 2]).result()

    assert work() == [2, 3]


def test_an_async_flow_calls_async_flows() -> None:
    """As child runs, awaited."""

    @flow
    async def child(number: int) -> int:
        return await increment(number)

    @flow
    async def parent() -> list[int]:
        await sleep(0.001)
        return await asyncio.gather(child(1), child(2))

    assert asyncio.run(parent()) == [2, 3]


def test_an_async_task_that_takes_too_long_is_cancelled() -> None:
    """`timeout_seconds` raises a TimeoutError."""

    @task(timeout_seconds=0.01)
    async def hang() -> None:
        await asyncio.sleep(60)

    @flow
    async def work() -> None:
        await hang()

    with pytest.raises(TimeoutError, match=r"timeout_seconds=0\.01"):
        asyncio.run(work())
