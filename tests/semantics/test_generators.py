"""Generator functions as flows and tasks: their items are collected, and are the run's result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from orchestra import flow, task
from orchestra.runtime import task_run
from tests.semantics.conftest import EFFECTS, Run


@task
def count(n: int) -> Iterator[int]:
    """From 0 on."""
    for i in range(n):
        EFFECTS.append(i)
        yield i


@task
async def acount(n: int) -> AsyncIterator[int]:
    """From 0 on."""
    for i in range(n):
        await asyncio.sleep(0)
        yield i


@task(retries=1)
def breaks_once(n: int) -> Iterator[int]:
    """Fails at its last item, the first time."""
    for i in range(n):
        if i == n - 1 and task_run.run_count == 1:
            raise ConnectionError("away")
        yield i


@task
def returns_a_generator() -> Iterator[int]:
    """Is no generator function, but gives a generator."""
    return (i * i for i in range(3))


@task
def double(x: int) -> int:
    """Twice."""
    return 2 * x


@flow
def loops() -> list[int]:
    return [double(i) for i in count(3)]


@flow
def submits() -> list[int]:
    return double.map(count.submit(3)).result()


@flow
def generates(n: int) -> Iterator[int]:
    for i in range(n):
        yield double.submit(i).result()


@flow
def generates_futures() -> Iterator[Any]:
    for i in range(2):
        yield double.submit(i)


@flow
def calls_a_generator_flow() -> list[int]:
    return [*generates(2), *generates(3)]


@flow
async def agenerates(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield await double.submit(i)


@flow
async def loops_async() -> list[list[int]]:
    first = [i async for i in acount(3)]
    second = [i async for i in agenerates(2)]
    return [first, second, await acount.submit(2)]


@flow
def retried() -> list[int]:
    return list(breaks_once(3))


@flow
def takes_one() -> int:
    return returns_a_generator.submit().result()


@flow
def gives_a_generator() -> Any:
    return (double(i) for i in range(3))


@pytest.mark.parametrize("calls", [loops, submits])
def test_a_generator_task_is_called_and_submitted_as_any_other(run: Run, effects: list[Any], calls: Any) -> None:
    """A call gives its items one after the other, a future their list; the body runs once."""
    assert run.value(calls) == [0, 2, 4]
    assert effects == [0, 1, 2]


def test_a_generator_flow_gives_its_items(run: Run) -> None:
    """Its run's result is their list; replays yield the same."""
    assert run.value(generates, n=3) == [0, 2, 4]
    assert run.value(calls_a_generator_flow) == [0, 2, 0, 2, 4]


def test_futures_that_a_flow_yields_become_their_values(run: Run) -> None:
    """As those it returns."""
    assert run.value(generates_futures) == [0, 2]


def test_async_generators_are_iterated_over_asynchronously(run: Run) -> None:
    """As flows and as tasks."""
    assert run.value(loops_async) == [[0, 1, 2], [0, 2], [0, 1]]
    assert run.value(agenerates, n=2) == [0, 2]


def test_a_generator_that_fails_is_retried_as_a_whole(run: Run) -> None:
    """None of its first try's items is handed on."""
    assert run.value(retried) == [0, 1, 2]


def test_a_generator_that_is_returned_is_used_up(run: Run) -> None:
    """Its items are the value, made while the run is there."""
    assert run.value(takes_one) == [0, 1, 4]
    assert run.value(gives_a_generator) == [0, 2, 4]


def test_a_generator_flow_is_called_like_its_function() -> None:
    """`list(f())`, `for x in f()`, `async for x in f()`."""

    async def collect() -> list[int]:
        return [item async for item in agenerates(2)]

    assert list(generates(2)) == [0, 2]
    assert next(generates(2)) == 0
    assert asyncio.run(collect()) == [0, 2]
    assert list(count(2)) == [0, 1]
    assert list(count.fn(2)) == [0, 1]
