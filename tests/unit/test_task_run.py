"""Attempts of a task's body."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from orchestra import states
from orchestra.context import TaskRunContext, task_run_context
from orchestra.engine.task_run import Ended, RetryLater, run_attempts, run_attempts_async
from orchestra.errors import Cancelled
from orchestra.specs import TaskSpec


def run(fn: Callable[..., Any], **options: Any) -> Ended | RetryLater:
    """The attempts of a task made of `fn`."""
    how = {key: options.pop(key) for key in ("longest_sleep", "on_retry", "contain", "attempt") if key in options}
    spec = TaskSpec(fn, "work", "tests:work", **options)
    context = TaskRunContext(spec, "id", "work-0", None, None, how.pop("attempt", 1), "key")
    if spec.is_async:
        return asyncio.run(run_attempts_async(spec, (), {}, context, **how))
    return run_attempts(spec, (), {}, context, **how)


def fail() -> None:
    """Raise."""
    raise ValueError("no")


async def fail_async() -> None:
    """Raise."""
    raise ValueError("no")


def test_a_value_ends_the_run_completed() -> None:
    """At the first attempt."""
    ended = run(lambda: 3)

    assert isinstance(ended, Ended)
    assert (ended.state.type, ended.state.data, ended.attempt) == (states.StateType.COMPLETED, 3, 1)


@pytest.mark.parametrize("fn", [fail, fail_async])
def test_short_delays_are_slept_through_and_long_ones_given_back(fn: Callable[..., Any]) -> None:
    """`RetryLater` names the attempt that failed and the delay."""
    later = run(fn, retries=3, retry_delay_seconds=(0.0, 0.001, 9.0), longest_sleep=1.0)

    assert isinstance(later, RetryLater)
    assert (later.attempt, later.delay, later.state.message) == (3, 9.0, "ValueError: no")


def test_attempts_go_on_from_where_they_stood() -> None:
    """A process that takes a task over does not begin at one."""
    ended = run(fail, retries=2, attempt=3)

    assert isinstance(ended, Ended)
    assert ended.attempt == 3


def test_each_retry_is_told() -> None:
    """With the failed state and the delay."""
    told: list[tuple[str | None, float]] = []
    run(fail, retries=2, on_retry=lambda state, delay: told.append((state.message, delay)))

    assert told == [("ValueError: no", 0.0)] * 2


def test_a_returned_state_is_used_as_it_is() -> None:
    """A failed one is tried again."""
    tries: list[int] = []

    def decide() -> states.State[Any]:
        tries.append(1)
        return states.Failed("not yet") if len(tries) < 2 else states.Completed("at last", data=5)

    ended = run(decide, retries=3)

    assert isinstance(ended, Ended)
    assert (ended.state.message, ended.state.result(), ended.attempt) == ("at last", 5, 2)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_leaving_the_program_fails_a_task_on_a_worker_and_leaves_it_here(error: BaseException) -> None:
    """By `contain`, which says what counts as a failure."""

    def leave() -> None:
        raise error

    ended = run(leave)

    assert isinstance(ended, Ended)
    assert ended.state.is_failed()
    with pytest.raises(type(error)):
        run(leave, contain=(Exception,))


def test_signals_of_orchestra_pass() -> None:
    """They are not the task's failure."""

    def cancelled() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        run(cancelled, retries=3)
    assert task_run_context.get() is None


def test_a_condition_or_delay_that_raises_means_no_retry() -> None:
    """It is logged; the task's own error stands."""

    def broken(*_: object) -> float:
        raise RuntimeError("in the rule")

    for option in ("retry_condition_fn", "retry_delay_seconds"):
        ended = run(fail, retries=3, **{option: broken})
        assert isinstance(ended, Ended)
        assert (ended.attempt, ended.state.message) == (1, "ValueError: no")
