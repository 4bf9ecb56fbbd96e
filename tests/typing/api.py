"""User code that is only type-checked: decorators keep signatures, futures and states their types."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, assert_type

from orchestra import (
    Flow,
    State,
    as_completed,
    flow,
    get_client,
    get_run_logger,
    now,
    once,
    random,
    tags,
    task,
    unmapped,
    wait,
)
from orchestra.client.schemas.objects import FlowRun, Log
from orchestra.futures import Future, FutureList
from orchestra.states import StateType


@task
def double(number: int) -> int:
    """Twice the number."""
    return number * 2


@task(name="spell", retries=3, retry_delay_seconds=[1, timedelta(seconds=2)], tags=["text"])
async def spell(number: int, upper: bool = False) -> str:
    """The number as text."""
    return str(number)


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
    get_run_logger().info("done")
    return [1]


@flow(timeout_seconds=60, log_prints=True)
async def async_pipeline(day: datetime) -> str:
    """An async flow."""
    assert_type(await spell(1, upper=True), str)
    assert_type(await spell(1, return_state=True), State[str])
    assert_type(await double.submit(1), int)
    return "done"


def ask() -> None:
    """A client for plain functions."""
    with get_client(sync_client=True) as client, tags("a", "b") as now_tagged:
        assert_type(now_tagged, frozenset[str])
        assert_type(client.read_flow_runs(limit=5), list[FlowRun])
        assert_type(client.count_flow_runs(), int)


async def ask_async() -> None:
    """A client for coroutines."""
    async with get_client() as client:
        assert_type(await client.read_flow_run("an id"), FlowRun)
        assert_type(await client.read_logs(limit=1), list[Log])
        await client.read_flow_run()  # type: ignore[call-arg]  # arguments are checked


callable_by_name: int = double(number=1)
assert_type(pipeline("monday"), list[int])
assert_type(pipeline("monday", return_state=True), State[list[int]])
options: Flow[[str, int], list[int]] = pipeline.with_options(retries=1)
double.with_options(retries=0, timeout_seconds=None)


@pipeline.on_failure
def page(flow: Any, flow_run: Any, state: State[Any]) -> None:
    """A hook stays the function that it was."""


page(pipeline, None, State(StateType.FAILED))
double.on_completion(page)
pipeline.with_options(on_failure=[page], on_crashed=page)
task(on_running=[page])(len)

double("text")  # type: ignore[call-overload]  # the argument is checked
task(retriez=1)  # type: ignore[call-overload]  # so are options
