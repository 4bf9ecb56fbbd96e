"""Pauses: a flow waits for a person."""

from __future__ import annotations

import asyncio
import threading

import pytest

from orchestra import apause_flow_run, aresume_flow_run, flow, pause_flow_run, resume_flow_run, runtime
from orchestra.errors import Conflict, PauseTimeout
from orchestra.input import RunInput
from tests.helpers import wait_until


def test_a_paused_flow_goes_on_when_it_is_resumed() -> None:
    """`resume_flow_run` may be called from anywhere, with the run's id."""
    ids: list[str | None] = []

    @flow
    def work() -> str:
        ids.append(runtime.flow_run.id)
        pause_flow_run(timeout=30)
        return "approved"

    person = somebody_resumes(ids)

    assert work() == "approved"
    person.join()


def test_a_paused_flow_is_given_what_it_asks_for() -> None:
    """As an instance of the model."""
    ids: list[str | None] = []

    class Approval(RunInput):
        approved: bool
        reason: str = "none given"

    @flow
    def work() -> tuple[bool, str]:
        ids.append(runtime.flow_run.id)
        answer = pause_flow_run(wait_for_input=Approval, timeout=30)
        return answer.approved, answer.reason

    person = somebody_resumes(ids, {"approved": True})

    assert work() == (True, "none given")
    person.join()


def test_coroutines_may_say_so_by_the_name() -> None:
    """As in Prefect, `apause_flow_run` and its like are coroutine functions."""
    ids: list[str | None] = []

    @flow
    async def work() -> int:
        ids.append(runtime.flow_run.id)
        first = await apause_flow_run(wait_for_input=int, timeout=30)
        await resuming
        return first

    async def resume() -> None:
        while True:
            try:
                return await aresume_flow_run(str(ids[0]), 3)
            except (IndexError, Conflict):
                await asyncio.sleep(0.01)

    async def both() -> int:
        nonlocal resuming
        resuming = asyncio.ensure_future(asyncio.to_thread(lambda: asyncio.run(resume())))
        return await work()

    resuming: asyncio.Future[None]

    assert asyncio.run(both()) == 3


def somebody_resumes(ids: list[str | None], run_input: dict[str, bool] | None = None) -> threading.Thread:
    """Resume the run whose id is put into the list, once it is paused."""

    def resume() -> bool:
        try:
            resume_flow_run(str(ids[0]), run_input)
        except (IndexError, Conflict):
            return False
        return True

    person = threading.Thread(target=wait_until, args=(resume, "the run to be paused"))
    person.start()
    return person


def test_a_pause_that_nobody_ends_fails_the_flow() -> None:
    """`timeout` is in seconds."""

    @flow
    def work() -> None:
        pause_flow_run(timeout=0.01)

    with pytest.raises(PauseTimeout, match="not resumed within"):
        work()
