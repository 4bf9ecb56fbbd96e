"""Random programs as data: what they mean in plain Python, and two flows that run them.

A program is a list of statements; each adds values to an environment that starts as `[1]`, and refers to earlier ones
by number. Its value is the whole environment, with futures resolved.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from hypothesis import strategies as st

from orchestra import flow, runtime, sleep, task, uuid4
from orchestra.errors import ResultTimeout
from orchestra.futures import as_completed, wait

#: The idempotency keys under which bodies ran, in order.
started: list[str] = []
#: Of each of them, the values that its body was last run with, if it ended well.
ended_well: dict[str, Any] = {}
#: Those whose bodies ran again with the same values although they had ended well.
repeated: list[str] = []
#: The steps that failed once.
failed: set[str] = set()
#: How likely a body is to fail the first time.
failures = {"rate": 0.0, "seed": 0.0}


@task
def combine(*values):
    return _body(values)


@task
async def combine_async(*values):
    await asyncio.sleep(0)
    return _body(values)


def _body(values: Any) -> int:
    key = runtime.task_run.idempotency_key
    started.append(key)
    # Without the run's id: a child that failed is another run in the next attempt.
    name = key[36:]
    if ended_well.pop(key, None) == values:
        repeated.append(key)
    if name not in failed and random.Random(f"{failures['seed']}{name}").random() < failures["rate"]:
        failed.add(name)
        raise RuntimeError("the first time")
    ended_well[key] = values
    return mixed(values)


@task
def broken(text):
    started.append(runtime.task_run.idempotency_key)
    raise ValueError(text)


def mixed(values: Any) -> int:
    """A number that tells its inputs and their order."""
    total = 7
    for value in values:
        total = (total * 31 + value) % 1_000_003
    return total


def plain(program: list[Any]) -> list[int]:
    """What a program is worth."""
    env = [1]
    for kind, *rest in program:
        values = [env[ref % len(env)] for ref in rest[0]] if kind in REFERRING else []
        match kind:
            case "call" | "submit":
                env.append(mixed(values))
            case "result":
                env += values
            case "completed":
                env.append(sum(values))
            case "child":
                env.append(sum(plain(rest[0])))
            case "gather":
                env += [sum(plain(branch)) for branch in rest[0]]
            case _:
                env.append(0)
    return env


REFERRING = ("call", "submit", "result", "wait", "completed", "peek")


@flow
def sync_program(program):
    env: list[Any] = [1]
    for kind, *rest in program:
        given = [env[ref % len(env)] for ref in rest[0]] if kind in REFERRING else []
        futures = [value for value in given if hasattr(value, "result")]
        match kind:
            case "call":
                env.append(combine(*given))
            case "submit":
                env.append(combine.submit(*given))
            case "result":
                env += [_value(value) for value in given]
            case "wait":
                wait(futures)
                env.append(0)
            case "completed":
                # Named twice, a future is handed out twice.
                plain_ones = sum(value for value in given if not hasattr(value, "result"))
                env.append(plain_ones + sum(future.result() for future in as_completed(futures)))
            case "child":
                env.append(sum(sync_program(rest[0])))
            case "failing":
                env.append(_caught())
            case "peek":
                env.append(_peeked(futures, rest[1]))
            case "sleep":
                sleep(0)
                env.append(0)
            case "observe":
                uuid4()
                env.append(0)
    return [_value(value) for value in env]


def _value(value: Any) -> Any:
    return value.result() if hasattr(value, "result") else value


def _caught() -> int:
    future = broken.submit("apart")
    try:
        broken("here")
    except ValueError:
        return 0 if str(future.result(raise_on_failure=False)) == "apart" else 1
    return 1


def _peeked(futures: list[Any], timeout: float) -> int:
    """Go on as what is seen of futures says: each run may see something else, each replay the same."""
    for future in futures:
        if future.done():
            combine(1)
        try:
            future.result(timeout=timeout)
        except ResultTimeout:
            combine(2)
        if future.state.is_completed():
            combine.submit(3)
    return 0


@flow
async def async_program(program):
    return await _branch(program)


async def _branch(program: list[Any]) -> list[Any]:
    env: list[Any] = [1]
    for kind, *rest in program:
        given = [env[ref % len(env)] for ref in rest[0]] if kind in REFERRING else []
        match kind:
            case "call":
                env.append(await combine_async(*given))
            case "submit":
                env.append(combine.submit(*given))
            case "result":
                env += [await _awaited(value) for value in given]
            case "wait":
                await asyncio.gather(*(_awaited(value) for value in given))
                env.append(0)
            case "completed":
                env.append(sum(await asyncio.gather(*(_awaited(value) for value in given))))
            case "child":
                env.append(sum(await async_program(rest[0])))
            case "gather":
                env += [sum(values) for values in await asyncio.gather(*(_branch(branch) for branch in rest[0]))]
            case "sleep":
                await sleep(0)
                env.append(0)
            case "observe":
                uuid4()
                env.append(0)
            case "peek":
                env.append(_peeked([value for value in given if hasattr(value, "result")], rest[1]))
            case _:
                env.append(0)
    return [await _awaited(value) for value in env]


async def _awaited(value: Any) -> Any:
    return await value if hasattr(value, "result") else value


def programs(*, depth: int = 2, branches: bool = False, peeks: bool = False) -> st.SearchStrategy[list[Any]]:
    """Random programs, with children (and, for async bodies, branches) nested up to `depth`.

    Args:
        peeks: With calls that depend on what was seen of futures.
    """
    refs = st.lists(st.integers(0, 9), min_size=1, max_size=3)
    kinds = [st.tuples(st.just(kind), refs) for kind in ("call", "submit", "submit", "result", "wait", "completed")]
    kinds += [st.just(("sleep",)), st.just(("observe",)), st.just(("failing",))]
    if peeks:
        kinds.append(st.tuples(st.just("peek"), refs, st.sampled_from([0, 60])))
    if depth:
        inner = programs(depth=depth - 1, branches=branches, peeks=peeks)
        kinds.append(st.tuples(st.just("child"), inner))
        if branches:
            kinds += [st.tuples(st.just("gather"), st.lists(inner, min_size=2, max_size=3))] * 2
    return st.lists(st.one_of(kinds).map(list), min_size=1, max_size=7 if depth == 2 else 4)
