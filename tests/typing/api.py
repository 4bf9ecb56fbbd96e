"""User code that is only type-checked, by mypy and by pyright: decorators keep signatures, futures and states types."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from datetime import datetime, timedelta
from typing import Any, assert_type

from orchestra import (
    Flow,
    State,
    Task,
    allow_failure,
    as_completed,
    flow,
    get_client,
    get_run_logger,
    now,
    once,
    patched,
    pause_flow_run,
    quote,
    random,
    resume_flow_run,
    suspend_flow_run,
    tags,
    task,
    unmapped,
    wait,
)
from orchestra.artifacts import (
    MarkdownArtifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from orchestra.client.schemas.objects import FlowRun, Log
from orchestra.futures import Future, FutureList
from orchestra.input import RunInput, receive_input, send_input
from orchestra.states import Completed, Failed, StateType
from orchestra.variables import Variable


@task
def double(number: int) -> int:
    """Twice the number."""
    return number * 2


@task(name="spell", retries=3, retry_delay_seconds=[1, timedelta(seconds=2)], tags=["text"])
async def spell(number: int, upper: bool = False) -> str:
    """The number as text."""
    return str(number)


@task
def count(n: int) -> Generator[int, None, None]:
    """A generator."""
    yield n


@task
async def acount(n: int) -> AsyncGenerator[int, None]:
    """An async generator."""
    yield n


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
    def whole(self, number: float) -> float:
        """Scale, as a flow."""
        return self.scale(number)

    @task
    async def ascale(self, number: float) -> float:
        """Scale, async."""
        return number * self.factor

    @task
    @classmethod
    def named(cls, mark: str) -> str:
        """A class method."""
        return cls.__name__ + mark

    @task
    @staticmethod
    def third(number: float) -> float:
        """A static method, decorated above."""
        return number / 3

    @staticmethod
    @task
    def half(number: float) -> float:
        """A static method."""
        return number / 2


@flow
def pipeline(day: str, limit: int = 10) -> list[int]:
    """A sync flow."""
    assert_type(double(1), int)
    assert_type(double(1, return_state=True), State[int])
    assert_type(double(1, wait_for=[double.submit(1)]), int)
    assert_type(double(1, wait_for=double.submit(1)), int)
    assert_type(double.submit(1), Future[int])
    assert_type(double.submit(1, return_state=True), State[int])
    assert_type(double.submit(double.submit(1)).result(), int | Any)
    assert_type(double.submit(1, wait_for=double.submit(1)), Future[int])
    assert_type(double.map([1, 2]), FutureList[int])
    assert_type(double.map([1, 2], return_state=True), list[State[int]])
    assert_type(double.map(unmapped(1), wait_for=[]).result(), list[int])
    assert_type(double.submit(allow_failure(double.submit(1))), Future[int])
    assert_type(double.submit(quote(1)), Future[int])
    assert_type(spell.submit(1), Future[str])
    assert_type(spell.submit(1, return_state=True), State[str])
    assert_type(spell.map([1]), FutureList[str])
    assert_type(spell.map([1], return_state=True), list[State[str]])
    assert_type(count(1), Generator[int, None, None])
    assert_type(count(1, return_state=True), State[list[int]])
    assert_type(count.submit(1), Future[list[int]])
    assert_type(count.map([1]), FutureList[list[int]])
    assert_type(acount.submit(1), Future[list[int]])
    assert_type(Scaler().scale(1.5), float)
    assert_type(Scaler().scale.submit(1.5), Future[float])
    assert_type(Scaler().scale.map([1.5]), FutureList[float])
    assert_type(Scaler().whole(1.5), float)
    assert_type(Scaler().whole(1.5, return_state=True), State[float])
    assert_type(Scaler().ascale.submit(1.5), Future[float])
    assert_type(Scaler.half(3), float)
    assert_type(Scaler.third(3), float)
    assert_type(Scaler.named.submit("!"), Future[str])
    assert_type(double.with_options(retries=2)(1), int)
    assert_type(double.with_options(name="x").submit(1), Future[int])
    assert_type(double.fn(1), int)
    assert_type(now(), datetime)
    assert_type(random(), float)
    assert_type(once(lambda: 3), int)
    assert_type(patched("a-change"), bool)
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
    assert_type(await spell.submit(1), str)
    assert_type(await (await spell(1, return_state=True)).aresult(), str | Any)
    assert_type(await Scaler().ascale(1.5), float)
    assert_type(await async_child(1), int)
    assert_type(await async_child(1, return_state=True), State[int])
    assert_type(pipeline("monday"), list[int])
    async for number in acount(2):
        assert_type(number, int)
    async for page in apages(2):
        assert_type(page, str)
    assert_type(await acount(2, return_state=True), State[list[int]])
    await suspend_flow_run()
    await resume_flow_run("id", {"approved": True})
    async for number in receive_input(int):
        await send_input(number, "id")
    return "done"


def ask() -> None:
    """A client for plain functions."""
    with get_client(sync_client=True) as client, tags("a", "b") as now_tagged:
        assert_type(now_tagged, frozenset[str])
        assert_type(client.read_flow_runs(limit=5), list[FlowRun])
        assert_type(client.count_flow_runs(), int)
        client.read_flow_rnus()  # type: ignore[attr-defined]  # so are names


async def ask_async() -> None:
    """A client for coroutines."""
    async with get_client() as client:
        assert_type(await client.read_flow_run("an id"), FlowRun)
        assert_type(await client.read_logs(limit=1), list[Log])
        await client.read_flow_run()  # type: ignore[call-arg]  # arguments are checked


@flow
async def async_child(number: int) -> int:
    """A child flow."""
    return number


@flow
def pages(n: int) -> Generator[str, None, None]:
    """A generator flow."""
    yield str(n)


@flow
async def apages(n: int) -> AsyncGenerator[str, None]:
    """An async generator flow."""
    yield str(n)


@flow
def ends_as_it_says() -> State[int]:
    """A flow that returns a state."""
    return Failed("no rows") if random() < 0.5 else Completed(data=1)


callable_by_name: int = double(number=1)
assert_type(pipeline("monday"), list[int])
assert_type(pipeline("monday", limit=3), list[int])
assert_type(pipeline("monday", return_state=True), State[list[int]])
assert_type(list(pages(2)), list[str])
assert_type(pages(2, return_state=True), State[list[str]])
assert_type(pipeline.validate_parameters({"day": "monday"}), dict[str, Any])
assert_type(pipeline.fn("monday"), list[int])
coroutine: Coroutine[Any, Any, str] = async_pipeline(now())
options: Flow[[str, int], list[int]] = pipeline.with_options(retries=1)
a_task: Task[[int], int] = double.with_options(retries=0, timeout_seconds=None)


@pipeline.on_failure
def page(flow: Any, flow_run: Any, state: State[Any]) -> None:
    """A hook stays the function that it was."""


page(pipeline, None, State(StateType.FAILED))
double.on_completion(page)
pipeline.with_options(on_failure=[page], on_crashed=page)
task(on_running=[page])(len)

assert_type(create_table_artifact([{"a": 1}], key="a"), str)
assert_type(create_table_artifact({"a": [1]}), str)
assert_type(update_progress_artifact(create_progress_artifact(0), 50.5), str)
assert_type(MarkdownArtifact(key="a", markdown="b").create().data, Any)
assert_type(Variable.set("a", {"b": [1]}, overwrite=True), Variable)
create_table_artifact(5)  # type: ignore[arg-type]  # no table

double("text")  # type: ignore[call-overload]  # the argument is checked
double.delay("text")  # type: ignore[arg-type]  # in the background, too
double.delay(1).result()
(double.s(1) | pipeline.si("monday")).apply_async()
double()  # type: ignore[call-overload]  # so is that it is there
pipeline(3)  # type: ignore[call-overload]  # of flows, too
Scaler().scale("text")  # type: ignore[call-overload]  # and of methods
task(retriez=1)  # type: ignore[call-overload]  # so are options
flow(retries="many")  # type: ignore[call-overload]  # and their values
