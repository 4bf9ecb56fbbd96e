"""User code that is only type-checked: decorators keep signatures, futures and states their types."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime, timedelta
from typing import Any, assert_type

from orchestra import (
    Flow,
    State,
    as_completed,
    flow,
    get_run_logger,
    now,
    once,
    pause_flow_run,
    random,
    resume_flow_run,
    suspend_flow_run,
    task,
    unmapped,
    wait,
)
from orchestra.futures import Future, FutureList
from orchestra.input import RunInput, receive_input, send_input


@task
def double(number: int) -> int:
    """Twice the number."""
    return number * 2


@task(name="spell", retries=3, retry_delay_seconds=[1, timedelta(seconds=2)], tags=["text"])
async def spell(number: int, upper: bool = False) -> str:
    """The number as text."""
    return str(number)


class Approval(RunInput):
    """What a person says."""

    approved: bool


class Scaler:
    """Methods may be tasks and flows."""

    factor: float = 2

    @task
    def scale(self, number: float) -> float:
        """Scale."""
        return number * self.factor


@flow
def pipeline(day: str, limit: int = 10) -> list[int]:
    """A sync flow."""
    assert_type(double(1), int)
    assert_type(double(1, return_state=True), State[int])
    assert_type(double.submit(1), Future[int])
    assert_type(double.submit(double.submit(1)).result(), int | Any)
    assert_type(double.map([1, 2]), FutureList[int])
    assert_type(double.map(unmapped(1), wait_for=[]).result(), list[int])
    assert_type(spell.submit(1), Future[str])
    assert_type(Scaler().scale(1.5), float)
    assert_type(now(), datetime)
    assert_type(random(), float)
    assert_type(once(lambda: 3), int)
    done, _ = wait([double.submit(1)])
    assert_type(done, set[Future[int]])
    for future in as_completed([double.submit(1)]):
        assert_type(future, Future[int])
    assert_type(pause_flow_run(), Awaitable[None])
    assert_type(pause_flow_run(wait_for_input=Approval).approved, Any)
    for approval in Approval.receive(timeout=None):
        assert_type(approval, Approval)
    assert_type(Approval.with_initial_data("May it?", approved=True), type[Approval])
    get_run_logger().info("done")
    return [1]


@flow(timeout_seconds=60, log_prints=True)
async def async_pipeline(day: datetime) -> str:
    """An async flow."""
    assert_type(await spell(1, upper=True), str)
    assert_type(await spell(1, return_state=True), State[str])
    assert_type(await double.submit(1), int)
    await suspend_flow_run()
    await resume_flow_run("id", {"approved": True})
    async for number in receive_input(int):
        await send_input(number, "id")
    return "done"


callable_by_name: int = double(number=1)
assert_type(pipeline("monday"), list[int])
assert_type(pipeline("monday", return_state=True), State[list[int]])
options: Flow[[str, int], list[int]] = pipeline.with_options(retries=1)
double.with_options(retries=0, timeout_seconds=None)

double("text")  # type: ignore[call-overload]  # the argument is checked
task(retriez=1)  # type: ignore[call-overload]  # so are options
