"""Retries: of tasks and of whole flows."""

from __future__ import annotations

import pytest

from orchestra import exponential_backoff, flow, task
from orchestra.runtime import task_run


def test_a_task_is_tried_again() -> None:
    """`retries=2` allows three tries; each knows its number."""
    tries = []

    @task(retries=2)
    def flaky() -> str:
        tries.append(task_run.run_count)
        if len(tries) < 3:
            raise ConnectionError("away")
        return "there"

    @flow
    def work() -> str:
        return flaky()

    assert work() == "there"
    assert tries == [1, 2, 3]


def test_the_last_error_is_raised_when_no_retry_is_left() -> None:
    """The user's own exception, of the last try."""
    tries = []

    @task(retries=1)
    def broken() -> None:
        tries.append(1)
        raise ConnectionError(f"try {len(tries)}")

    @flow
    def work() -> None:
        broken()

    with pytest.raises(ConnectionError, match="try 2"):
        work()


def test_delays_may_be_a_number_a_list_or_a_function() -> None:
    """Seconds; the last of a list repeats; a function is asked with the retry's number, 1 first."""
    asked = []

    def delay(retry: int) -> float:
        asked.append(retry)
        return 0.0

    @task(retries=2, retry_delay_seconds=delay)
    def by_function() -> None:
        raise ValueError

    @task(retries=3, retry_delay_seconds=[0, 0.001])
    def by_list() -> None:
        raise ValueError

    @task(retries=2, retry_delay_seconds=exponential_backoff(0.0001), retry_jitter_factor=0.5)
    def by_backoff() -> None:
        raise ValueError

    @flow
    def work() -> list[bool]:
        return [each(return_state=True).is_failed() for each in (by_function, by_list, by_backoff)]

    assert work() == [True, True, True]
    assert asked == [1, 2]


def test_a_condition_decides_whether_to_try_again() -> None:
    """`retry_condition_fn` sees the task, its run and the failed state."""
    tries = []

    @task(retries=5, retry_condition_fn=lambda task, run, state: isinstance(state.data, ConnectionError))
    def picky() -> None:
        tries.append(1)
        raise ConnectionError if len(tries) < 3 else ValueError("no use")

    @flow
    def work() -> None:
        picky()

    with pytest.raises(ValueError, match="no use"):
        work()
    assert len(tries) == 3


def test_a_flow_is_run_again_without_what_has_ended_well() -> None:
    """The whole function runs again; tasks that completed give the result they had."""
    ran = []

    @task
    def step(name: str) -> str:
        ran.append(name)
        if ran.count("second") == 1 and name == "second":
            raise ConnectionError("away")
        return name

    @flow(retries=1)
    def work() -> list[str]:
        return [step("first"), step("second")]

    assert work() == ["first", "second"]
    assert ran == ["first", "second", "second"]
