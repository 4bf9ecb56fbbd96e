"""Timeouts: bodies that take too long."""

from __future__ import annotations

import time

import pytest

from orchestra import flow, task


def test_a_task_over_its_time_is_stopped() -> None:
    """Also in a blocking call; its state is `TimedOut`."""

    @task(timeout_seconds=0.05)
    def hang() -> None:
        time.sleep(60)

    @flow
    def work() -> str:
        return hang(return_state=True).name

    assert work() == "TimedOut"


def test_a_submitted_task_over_its_time_holds_nobody_up() -> None:
    """Its future fails at once, though its thread cannot be stopped."""

    @task(timeout_seconds=0.05)
    def hang() -> None:
        time.sleep(1)

    @flow
    def work() -> str:
        future = hang.submit()
        future.wait()
        return future.state.name

    assert work() == "TimedOut"


def test_a_flow_over_its_time_is_stopped() -> None:
    """Whatever its function swallows."""

    @flow(timeout_seconds=0.05)
    def stubborn() -> str:
        try:
            time.sleep(60)
        except Exception:
            return "swallowed"
        return "slept"

    with pytest.raises(TimeoutError, match=r"'stubborn' ran longer than its timeout_seconds=0\.05"):
        stubborn()


def test_each_try_has_its_own_time() -> None:
    """A retry starts the clock anew."""
    tries = []

    @task(retries=1, timeout_seconds=0.05)
    def slow_at_first() -> int:
        tries.append(1)
        if len(tries) == 1:
            time.sleep(60)
        return len(tries)

    @flow
    def work() -> int:
        return slow_at_first()

    assert work() == 2
