"""Tasks: the steps of a flow."""

from __future__ import annotations

import pytest

from orchestra import flow, task


def test_a_task_is_called_like_a_function() -> None:
    """A direct call runs at once, in the caller's thread, and gives the value itself."""

    @task
    def double(number: int) -> int:
        return number * 2

    @flow
    def quadruple(number: int) -> int:
        return double(double(number))

    assert quadruple(3) == 12


def test_a_task_works_without_a_flow() -> None:
    """Called on its own, a task just runs."""

    @task
    def double(number: int) -> int:
        return number * 2

    assert double(4) == 8
    assert double.fn(4) == 8


def test_arguments_reach_a_direct_call_as_they_are() -> None:
    """Nothing is copied or coerced on the way."""
    rows = [1, 2]

    @task
    def same(given: list[int]) -> list[int]:
        return given

    @flow
    def check() -> bool:
        return same(rows) is rows

    assert check()


def test_a_task_may_call_and_submit_tasks() -> None:
    """Nested calls run in the same process."""

    @task
    def increment(number: int) -> int:
        return number + 1

    @task
    def twice(number: int) -> int:
        return increment.submit(increment(number)).result()

    @flow
    def nested() -> int:
        return twice(1) + twice.submit(1).result()

    assert nested() == 6


def test_an_error_can_be_caught_in_the_flow() -> None:
    """A failed direct call raises the task's own exception, in the flow's body."""

    @task
    def fail() -> int:
        raise LookupError("nothing there")

    @flow
    def careful() -> str:
        try:
            fail()
        except LookupError as error:
            return f"went on after: {error}"
        return "unreachable"

    assert careful() == "went on after: nothing there"


def test_a_task_run_is_named_by_its_template() -> None:
    """`task_run_name` is filled in with the arguments; by default runs are numbered."""
    from orchestra.runtime import task_run

    @task(task_run_name="go-{place}")
    def go(place: str = "home") -> str | None:
        return task_run.name

    @task
    def stay() -> str | None:
        return task_run.name

    @flow
    def travel() -> list[str | None]:
        return [go(), go("rome"), stay(), stay()]

    assert travel() == ["go-home", "go-rome", "stay-0", "stay-1"]


def test_submit_outside_of_a_flow_is_an_error() -> None:
    """Only a flow waits for what it submits."""

    @task
    def work() -> None: ...

    with pytest.raises(RuntimeError, match="inside a flow only"):
        work.submit()
