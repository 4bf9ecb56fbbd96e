"""The loop that a thread of a worker keeps for its async bodies."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import multiprocessing
import socket
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import pytest

from orchestra.engine import loops
from orchestra.engine.branches import Waiters


@pytest.fixture
def kept() -> Iterator[None]:
    """This thread keeps its loop, as on a worker."""
    with loops.kept():
        yield
    loops.close()


async def here() -> asyncio.AbstractEventLoop:
    """The running loop."""
    return asyncio.get_running_loop()


def as_flow(body: Coroutine[Any, Any, Any]) -> Any:
    """Run it as the body of a flow."""
    return loops.run_branches(body, Waiters())


@pytest.mark.usefixtures("kept")
def test_bodies_of_a_thread_share_its_loop() -> None:
    """Those of tasks and of flows alike."""
    assert loops.run(here()) is as_flow(here()) is loops.run(here())


def test_elsewhere_each_body_has_a_loop_of_its_own() -> None:
    """It is closed when the body has ended."""
    first, second = loops.run(here()), as_flow(here())

    assert first is not second
    assert first.is_closed()
    assert second.is_closed()


@pytest.mark.usefixtures("kept")
def test_a_connection_lasts_from_body_to_body() -> None:
    """A client of the user's that belongs to a loop is of use in all of them."""
    near, far = socket.socketpair()

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(sock=near)

    async def ask() -> bytes:
        writer.write(b"ping\n")
        return await reader.readline()

    async def close() -> None:
        writer.close()
        await writer.wait_closed()

    reader, writer = loops.run(connect())
    for body in (as_flow, loops.run):
        far.sendall(b"pong\n")
        assert body(ask()) == b"pong\n"
        assert far.recv(10) == b"ping\n"
    loops.run(close())
    far.close()


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("run", [loops.run, as_flow])
def test_what_a_body_leaves_ends_with_it(run: Any) -> None:
    """Its Tasks are cancelled and awaited, its generators closed, its threads waited for."""
    ended: list[str] = []
    goes_on = threading.Event()

    async def forever(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            ended.append("generator")

    def in_a_thread() -> None:
        goes_on.wait(10)
        ended.append("thread")

    found: list[Any] = []

    async def body() -> None:
        found.append(asyncio.create_task(forever("task")))
        found.append(numbers())
        await anext(found[-1])
        found.append(asyncio.get_running_loop().run_in_executor(None, in_a_thread))
        await asyncio.sleep(0)
        threading.Timer(0.05, goes_on.set).start()

    for _ in range(2):
        run(body())
        assert sorted(ended) == ["generator", "task", "thread"]
        ended.clear()
        goes_on.clear()


@pytest.mark.usefixtures("kept")
def test_a_body_sees_the_context_it_is_called_in() -> None:
    """And not that of the first body of the loop."""
    variable = contextvars.ContextVar("variable", default=0)

    async def look() -> int:
        return variable.get()

    for value in (1, 2):
        variable.set(value)
        assert (loops.run(look()), as_flow(look())) == (value, value)


@pytest.mark.usefixtures("kept")
def test_a_deadline_is_of_one_body() -> None:
    """The next one on the loop has its own time."""

    async def slow() -> None:
        await asyncio.sleep(60)

    for _ in range(2):
        with pytest.raises(TimeoutError):
            loops.run_branches(slow(), Waiters(), seconds=0.01)
    assert as_flow(here()) is loops.run(here())


@pytest.mark.usefixtures("kept")
def test_an_exit_of_a_body_does_not_cost_the_loop() -> None:
    """SystemExit passes through the loop, and what was cut off is tidied up."""

    async def leave() -> None:
        asyncio.get_running_loop().call_soon(exit, 3)
        await asyncio.sleep(60)

    before = loops.run(here())
    with pytest.raises(SystemExit):
        loops.run(leave())

    assert loops.run(here()) is before
    assert not asyncio.all_tasks(before)


def test_the_loop_is_closed_with_its_thread() -> None:
    """Nothing is left open."""
    found: list[asyncio.AbstractEventLoop] = []

    def work() -> None:
        with loops.kept():
            found.append(loops.run(here()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    gc.collect()

    assert found[0].is_closed()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.usefixtures("kept")
def test_a_forked_child_makes_a_loop_of_its_own() -> None:
    """And leaves its parent's as it is."""
    before = loops.run(here())
    context = multiprocessing.get_context("fork")
    told, say = context.Pipe(duplex=False)

    def work() -> None:
        say.send(loops.run(here()) is before)
        loops.close()

    child = context.Process(target=work)
    child.start()
    child.join(20)

    assert (told.recv(), child.exitcode) == (False, 0)
    assert loops.run(here()) is before
    loops.run(asyncio.wait_for(asyncio.to_thread(lambda: None), 10))
