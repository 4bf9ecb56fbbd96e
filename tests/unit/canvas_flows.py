"""Flows whose canvases are drawn, and some that cannot be."""

from __future__ import annotations

import asyncio
import json

from orchestra import flow, now, sleep, task, unmapped
from orchestra.annotations import allow_failure
from orchestra.artifacts import create_markdown_artifact
from orchestra.flow_runs import pause_flow_run
from orchestra.futures import as_completed, wait
from orchestra.input import receive_input, send_input
from orchestra.variables import Variable


@task
def add(*terms: int) -> int:
    """The sum."""
    return sum(terms)


@task(queue="heavy", priority=7)
def total(numbers: list[int]) -> int:
    """The sum of a list, where there is room for it."""
    return sum(numbers)


@task
async def fetch(n: int) -> int:
    """The number itself."""
    return n


@task(persist_result=False)
def fleeting() -> int:
    """Not kept."""
    return 1


@flow
def straight(n: int = 3) -> int:
    """Direct calls."""
    x = 0
    for i in range(n):
        x = add(x, i)
    return x


@flow
def diamond(n: int = 1) -> int:
    """Two ways from one task to another."""
    top = add.submit(n)
    left, right = add.submit(top, 10), add.submit(top, 20)
    return add.submit(left, right).result()


@flow
def layered(width: int = 3) -> dict[str, object]:
    """Between two direct calls, submitted ones."""
    first = add(1)
    parts = add.map(range(width), unmapped(first))
    return {"sum": total(parts), "first": first, "parts": parts}


@flow
def ordered() -> int:
    """No data goes from the direct call to what follows it."""
    add(1)
    later = add.submit(2)
    add.submit(3)
    later.wait()
    return add(4)


@flow
def crossed() -> int:
    """An N."""
    a, b = add.submit(1), add.submit(2)
    return add(add.submit(a, b), add.submit(b))


@flow
def nested_groups() -> int:
    """Side by side, parts that end side by side."""
    tops = [add.submit(i) for i in range(2)]
    return total.submit([add.submit(top, i) for top in tops for i in range(2)]).result()


@flow
async def gathered(n: int = 2) -> int:
    """Branches of two steps each, and what follows them."""

    async def branch(i: int) -> int:
        return await fetch(await fetch(i))

    await asyncio.gather(*(branch(i) for i in range(n)))
    return await fetch(9)


@flow
def empty() -> str:
    """Asks for nothing."""
    return "nothing"


@flow
def lenient() -> object:
    """A failure is let through, by three ways."""
    bad = add.submit(1)
    seen = bad.result(raise_on_failure=False)
    state = add(allow_failure(bad), seen, return_state=True)
    return add.submit(state)


# -- bodies that look, each on the line that the comment marks ---------------------------------------------------


@flow
def branches() -> int:
    x = add(1)
    return 1 if x else 2  # bool


@flow
def compares() -> bool:
    return add(1) == 2  # ==


@flow
def counts() -> int:
    return len(add(1))  # len


@flow
def takes() -> int:
    return add.submit(1).result()[0]  # […]


@flow
def asks() -> str:
    return add(1).name  # .name


@flow
def loops() -> list[int]:
    return [x for x in add(1)]  # iteration


@flow
def computes() -> int:
    return 1 + add(1)  # +


@flow
def formats() -> str:
    return f"{add(1):>3}"  # format


@flow
def prints() -> str:
    return str(add(1))  # str


@flow
def checks() -> bool:
    return isinstance(add(1), int)  # isinstance


@flow
def dumps() -> str:
    return json.dumps([add(1)])  # json


@flow
def maps() -> object:
    return add.map(add(1))  # maps over


@flow
def passes_through_a_helper() -> int:
    return helped(add(1))


def helped(x: int) -> int:
    return x * 2  # *


@flow
def swallows() -> int:
    x = add(1)
    try:
        return 1 if x > 3 else 2  # >
    except Exception:
        return 0


@flow
def catches() -> int:
    try:
        return add(1)  # catches
    except ValueError:
        return 0


@flow
def cleans() -> None:
    try:
        add.submit(1).result()  # catches
    finally:
        add(2)


@flow
def peeks() -> bool:
    return add.submit(1).done()  # whether


@flow
def states() -> bool:
    return add(1, return_state=True).is_completed()  # state


@flow
def races() -> list[int]:
    return [future.result() for future in as_completed([add.submit(1)])]  # first


@flow
def sorts() -> object:
    return wait([add.submit(1)])  # 'wait'


@flow
def limits() -> int:
    return add.submit(1).result(timeout=1)  # timeout


@flow
def naps() -> None:
    sleep(5)  # sleeps


@flow
def halts() -> None:
    pause_flow_run()  # pauses


@flow
def listens() -> int:
    return int(receive_input(int).next())  # waits for input


@flow
def speaks() -> None:
    send_input(1, flow_run_id="x")  # sends input


@flow
def looks_at_the_clock() -> str:
    return str(now())  # 'now'


@flow
def shows() -> str:
    return create_markdown_artifact("x", key="traced")  # 'artifact'


@flow
def reads_a_variable() -> str:
    return str(Variable.get("traced"))  # 'variable'


@flow
def calls_a_flow() -> int:
    return straight(2)  # calls flow


@flow
def forgets() -> int:
    return fleeting()  # persist_result


@flow(timeout_seconds=5)
def hurries() -> int:
    """Has a deadline."""
    return add(1)
