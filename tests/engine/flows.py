"""Flows for tests of the engine, where a worker could import them."""

from __future__ import annotations

import asyncio

from orchestra import flow, sleep, task, uuid4
from orchestra.flow_runs import pause_flow_run
from orchestra.futures import as_completed

#: What bodies did, in order.
effects: list[str] = []


@task
def add(x, y=1):
    effects.append(f"add {x} {y}")
    return x + y


@task
def fail(text="no"):
    effects.append("fail")
    raise ValueError(text)


@task
def total(values):
    effects.append("total")
    return sum(values)


@flow
def linear(n):
    value = 0
    for _ in range(n):
        value = add(value)
    return value


@flow
def fan_out(n):
    futures = [add.submit(i) for i in range(n)]
    return sum(future.result() for future in futures)


@flow
def reduce(n):
    return total.submit(add.map(range(n))).result()


@flow
def diamond():
    top = add.submit(1)
    left, right = add.submit(top, 10), add.submit(top, 20)
    return add.submit(left, right).result()


@flow
def upstream_failed():
    bad = fail.submit()
    return add.submit(bad)


@flow
def caught():
    try:
        fail("seen")
    except ValueError as error:
        return f"caught {error}"


@flow
def child(x):
    return add(x)


@flow
def parent(n):
    return [child(i) for i in range(n)]


@flow
def nested(depth):
    return 0 if depth == 0 else nested(depth - 1) + 1


@flow
def sleeper(seconds):
    sleep(seconds)
    return add(1)


@flow
def pausing():
    pause_flow_run(timeout=60)
    return "resumed"


@flow
def observed():
    first = str(uuid4())
    value = add.submit(1).result()
    return [first, str(uuid4()), value]


@flow
def unawaited():
    add.submit(5)
    return "ended"


@task
async def aadd(x, y=1):
    await asyncio.sleep(0)
    effects.append(f"aadd {x} {y}")
    return x + y


@flow
async def gathered(n):
    return await asyncio.gather(*(aadd(i) for i in range(n)))


@flow
async def branches(n):
    async def branch(i):
        first = await add.submit(i)
        return await aadd(first)

    return await asyncio.gather(*(branch(i) for i in range(n)))


@flow
def completed(n):
    return sorted(future.result() for future in as_completed([add.submit(i) for i in range(n)]))


attempts: dict[str, int] = {"count": 0}


@task(retries=2)
def flaky():
    attempts["count"] += 1
    if attempts["count"] < 3:
        raise RuntimeError("not yet")
    return attempts["count"]


@flow
def retried():
    return flaky()


@flow
def retried_submitted():
    return flaky.submit().result()


@flow(retries=1)
def flow_retried():
    first = add(1)
    effects.append("body")
    if effects.count("body") < 2:
        raise RuntimeError("first attempt")
    return first


@flow
def swallows():
    for i in range(2):
        try:
            add.submit(i).result()
        except:  # noqa: E722 - on purpose
            effects.append("swallowed")
    return "end"


switch = {"on": False}


@flow
def changes():
    add(1)
    if switch["on"]:
        total([1])
    add.submit(2).result()
    return "end"
