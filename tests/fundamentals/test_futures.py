"""Submitted tasks, their futures, and what depends on what."""

from __future__ import annotations

import threading

import pytest

from orchestra import allow_failure, as_completed, flow, quote, task, wait
from orchestra.errors import UpstreamFailed


@task
def add(left: int, right: int = 1) -> int:
    """A sum."""
    return left + right


@task
def fail() -> int:
    """Raise."""
    raise ValueError("broken")


def test_a_future_gives_the_value_when_it_is_there() -> None:
    """`.submit()` returns at once; `.result()` waits."""

    @flow
    def work() -> int:
        return add.submit(1, 2).result()

    assert work() == 3


def test_futures_as_arguments_become_their_values() -> None:
    """Also inside lists, dicts and tuples; the task waits for them without holding a thread."""

    @task
    def total(groups: dict[str, list[int]], extra: tuple[int, ...]) -> int:
        return sum(sum(group) for group in groups.values()) + sum(extra)

    @flow
    def work() -> int:
        one, two = add.submit(0), add.submit(1)
        return total.submit({"a": [one, 10], "b": [two]}, (two,)).result()

    assert work() == 15


def test_submitted_tasks_run_side_by_side() -> None:
    """Two tasks that wait for each other both end."""
    barrier = threading.Barrier(2, timeout=10)

    @task
    def meet() -> int:
        return barrier.wait()

    @flow
    def work() -> set[int]:
        return {future.result() for future in (meet.submit(), meet.submit())}

    assert work() == {0, 1}


def test_wait_for_orders_tasks_that_share_no_data() -> None:
    """A task begins when those in its `wait_for` have succeeded."""
    order: list[str] = []

    @task
    def note(name: str) -> None:
        order.append(name)

    @flow
    def work() -> None:
        first = note.submit("first")
        second = note.submit("second", wait_for=[first])
        note("third", wait_for=[second])

    work()

    assert order == ["first", "second", "third"]


def test_a_task_is_not_run_if_its_upstream_failed() -> None:
    """Its state is `UpstreamFailed`, and names the culprit."""

    @flow
    def work() -> str:
        state = add.submit(fail.submit()).result(raise_on_failure=False)
        return str(state)

    @flow
    def direct() -> int:
        return add(fail.submit())  # type: ignore[arg-type]

    @flow
    def chained() -> str:
        return str(add.submit(add.submit(fail.submit())).result(raise_on_failure=False))

    assert work() == chained() == "not run, because 'fail-0' did not succeed: ValueError: broken"
    with pytest.raises(UpstreamFailed, match="fail-0"):
        direct()


def test_allow_failure_hands_over_the_exception() -> None:
    """The task runs all the same, and sees what went wrong."""

    @task
    def describe(value: object) -> str:
        return type(value).__name__

    @flow
    def work() -> str:
        return describe.submit(allow_failure(fail.submit())).result()

    assert work() == "ValueError"


def test_quote_keeps_orchestra_from_looking_inside() -> None:
    """A quoted value reaches the task as it is."""

    @task
    def count(values: list[object]) -> str:
        return f"{len(values)} {type(values[0]).__name__}"

    @flow
    def work() -> str:
        return count(quote([add.submit(1)]))  # type: ignore[arg-type]

    assert work() == "1 LocalFuture"


def test_as_completed_gives_futures_in_the_order_of_their_ends() -> None:
    """A slow task holds up no faster one."""
    gate = threading.Event()

    @task
    def slow() -> str:
        gate.wait(10)
        return "slow"

    @task
    def fast() -> str:
        return "fast"

    @flow
    def work() -> list[str]:
        seen = []
        for future in as_completed([slow.submit(), fast.submit()]):
            seen.append(future.result())
            gate.set()
        return seen

    assert work() == ["fast", "slow"]


def test_wait_parts_what_has_ended_from_what_has_not() -> None:
    """`wait(futures, timeout)` gives two sets, by place and by name."""
    gate = threading.Event()

    @task
    def slow() -> None:
        gate.wait(10)

    @flow
    def work() -> tuple[int, int, int]:
        futures = [slow.submit(), slow.submit()]
        done, open_ = wait(futures, timeout=0.01)
        gate.set()
        return len(done), len(open_), len(wait(futures).done)

    assert work() == (0, 2, 2)


def test_a_result_that_does_not_come_in_time_raises() -> None:
    """`TimeoutError`; the task goes on, and its value can be had later."""
    gate = threading.Event()

    @task
    def slow() -> str:
        gate.wait(10)
        return "here"

    @flow
    def work() -> str:
        future = slow.submit()
        with pytest.raises(TimeoutError, match="slow-0"):
            future.result(timeout=0.01)
        gate.set()
        return future.result()

    assert work() == "here"


def test_a_failed_submitted_task_fails_only_those_who_ask() -> None:
    """A flow that never looks at a failed future completes."""

    @flow
    def careless() -> str:
        fail.submit()
        return "fine"

    assert careless() == "fine"
