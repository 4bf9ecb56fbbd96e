"""The code of docs/howto/common-mistakes.md: each function makes one mistake, and prints the message that it gives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from orchestra import flow, get_run_logger, task


@task
def double(number: int) -> int:
    """Twice."""
    return number * 2


@task
def add(left: int, right: int) -> int:
    """A sum."""
    return left + right


@task
def fail() -> int:
    """Fail."""
    raise ValueError("no such row")


@flow
def load(day: int) -> int:
    """A flow."""
    return double(day)


def submit_outside_of_a_flow() -> None:
    """Nobody would wait for it."""
    double.submit(1)


def hand_on_what_failed() -> None:
    """A direct call with a future that fails."""

    @flow
    def whole() -> int:
        return double(fail.submit())

    whole()


def map_uneven_lists() -> None:
    """Two lists of different lengths."""

    @flow
    def whole() -> Any:
        return add.map([1, 2], [3])

    whole()


def map_a_single_value() -> None:
    """Nothing to go through."""

    @flow
    def whole() -> Any:
        return double.map(3)

    whole()


def misspell_an_option() -> None:
    """As if there were no checks."""
    task(retires=3)(double.fn)


def name_a_parameter_wait_for() -> None:
    """A name that calls keep for themselves."""

    @task
    def step(wait_for: int) -> None: ...


def give_a_wrong_value() -> None:
    """It does not fit its annotation."""
    load("today")


def forget_an_argument() -> None:
    """As in any call."""
    load()


def send_a_flow_that_no_worker_can_import() -> None:
    """No worker could import it."""

    @flow
    def whole() -> None: ...

    whole.delay()


def log_outside_of_a_run() -> None:
    """There is no run to log for."""
    get_run_logger().info("hello")


def ask_too_early() -> None:
    """The task has not ended."""
    gate = threading.Event()

    @task
    def slow() -> None:
        gate.wait(30)

    @flow
    def whole() -> None:
        future = slow.submit()
        try:
            future.result(timeout=0.01)
        finally:
            gate.set()

    whole()


def use_an_option_that_does_nothing_yet() -> None:
    """Of a part that is not there."""
    task(asset_deps=["s3://bucket/table"])(double.fn)


MISTAKES: list[Callable[[], None]] = [
    submit_outside_of_a_flow,
    hand_on_what_failed,
    map_uneven_lists,
    map_a_single_value,
    misspell_an_option,
    name_a_parameter_wait_for,
    give_a_wrong_value,
    forget_an_argument,
    send_a_flow_that_no_worker_can_import,
    log_outside_of_a_run,
    ask_too_early,
    use_an_option_that_does_nothing_yet,
]

if __name__ == "__main__":
    for mistake in MISTAKES:
        try:
            mistake()
        except Exception as error:
            print(f"{mistake.__name__}: {type(error).__name__}: {error}")
