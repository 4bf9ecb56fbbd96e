"""Tasks in tasks, flows in flows, and tasks outside of flows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestra import flow, task
from orchestra.errors import MissingContextError
from orchestra.runtime import flow_run, task_run
from tests.semantics.conftest import Run


@task
def leaf(x: int) -> int:
    """The innermost."""
    return x + 1


@task
async def aleaf(x: int) -> int:
    """The innermost, async."""
    return x + 1


@task
def branch(x: int) -> int:
    """Calls, submits and maps tasks."""
    return leaf(x) + leaf.submit(x).result() + sum(leaf.map([x, x]).result())


@task
async def abranch(x: int) -> int:
    """Awaits tasks."""
    return await aleaf(x) + sum(await asyncio.gather(aleaf(x), aleaf(x)))


@flow
def below(x: int) -> list[Any]:
    return [leaf(x), flow_run.parent_flow_run_id is not None]


@flow
def nests() -> list[Any]:
    return [branch(1), branch.submit(1).result(), branch(leaf.submit(0))]


@flow
async def nests_async() -> list[Any]:
    return [await abranch(1), await abranch.submit(1), branch(1)]


@task
def whose() -> list[Any]:
    """Its run, and the flow run around it."""
    return [task_run.id is not None, flow_run.id]


@flow
def knows() -> list[Any]:
    ids = [whose()[1], whose.submit().result()[1]]
    return [ids == [flow_run.id, flow_run.id], task_run.id]


@flow
def grandchild() -> list[Any]:
    return [flow_run.root_flow_run_id, flow_run.parent_flow_run_id]


@flow
def child() -> list[Any]:
    return [*grandchild(), flow_run.id]


@flow
def family() -> bool:
    root, parent, child_id = child()
    return bool(root == flow_run.id and parent == child_id)


@flow
async def async_child(x: int) -> int:
    return await aleaf(x)


@flow
async def async_family() -> list[int]:
    return [await async_child(1), *await asyncio.gather(async_child(2), async_child(3)), below(1)[0]]


def test_tasks_call_submit_and_map_tasks(run: Run) -> None:
    """In their own process, with futures among the arguments resolved."""
    assert run.value(nests) == [8, 8, 8]


def test_coroutines_await_tasks_in_tasks(run: Run) -> None:
    """Side by side, too."""
    assert run.value(nests_async) == [6, 6, 8]


def test_a_task_knows_its_run_and_its_flows(run: Run) -> None:
    """A flow's body is in no task run."""
    assert run.value(knows) == [True, None]


def test_child_runs_know_their_parents_and_the_outermost_run(run: Run) -> None:
    """At any depth."""
    assert run.value(family) is True


def test_async_flows_call_flows_of_both_kinds(run: Run) -> None:
    """Side by side."""
    assert run.value(async_family) == [2, 3, 4, 2]


def test_a_task_outside_of_flows_just_runs() -> None:
    """Sync and async, with what it calls; it may submit, too, for it waits for them."""
    assert leaf(1) == 2
    assert asyncio.run(abranch(1)) == 6
    assert branch(1) == 8
    assert leaf(1, return_state=True).result() == 2


@pytest.mark.parametrize("call", [lambda: leaf.submit(1), lambda: leaf.map([1])])
def test_submit_and_map_need_a_flow(call: Any) -> None:
    """The error says what else there is."""
    with pytest.raises(MissingContextError, match=r"inside a flow only.*directly.*delay"):
        call()
