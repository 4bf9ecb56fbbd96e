"""When to try again: the pure rules."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from orchestra.errors import ConfigurationError
from orchestra.retries import delay_option, exponential_backoff, next_delay


def test_a_number_is_the_delay_of_each_retry() -> None:
    """As often as `retries` says."""
    assert [next_delay(2, 3.0, attempt) for attempt in (1, 2, 3)] == [3.0, 3.0, None]


def test_the_last_delay_of_a_list_repeats() -> None:
    """A list may be shorter than the number of retries."""
    assert [next_delay(3, (1.0, 5.0), attempt) for attempt in (1, 2, 3)] == [1.0, 5.0, 5.0]


def test_a_function_that_gives_a_number_is_asked_each_time() -> None:
    """With the number of the retry, 1 for the first."""
    assert [next_delay(3, lambda retry: 2**retry, attempt) for attempt in (1, 2, 3)] == [2.0, 4.0, 8.0]


def test_a_function_that_gives_a_list_is_asked_with_the_number_of_retries() -> None:
    """The list is the sequence of delays."""
    assert [next_delay(3, lambda retries: [retries, 1], attempt) for attempt in (1, 2)] == [3.0, 1.0]


def test_backoff_doubles() -> None:
    """From its factor on."""
    assert [next_delay(4, exponential_backoff(2), attempt) for attempt in (1, 2, 3, 4)] == [2.0, 4.0, 8.0, 16.0]


def test_jitter_spreads_around_the_delay_and_is_never_negative() -> None:
    """By its part of the delay at most."""
    rng = random.Random(7)
    found = [next_delay(1, 10.0, 1, jitter=0.5, rng=rng) or 0.0 for _ in range(200)]
    wide = [next_delay(1, 10.0, 1, jitter=3, rng=rng) or 0.0 for _ in range(200)]

    assert min(found) >= 5.0
    assert max(found) <= 15.0
    assert max(found) - min(found) > 5
    assert min(wide) >= 0.0


def test_timedeltas_are_read_as_seconds() -> None:
    """Alone, or in a list."""
    assert delay_option(timedelta(minutes=1)) == 60.0
    assert delay_option([timedelta(seconds=2), 3]) == (2.0, 3.0)


@pytest.mark.parametrize("wrong", [-1, float("nan"), [1, -1], [0] * 51])
def test_impossible_delays_are_refused(wrong: object) -> None:
    """When the task is declared, not when it fails."""
    with pytest.raises(ConfigurationError):
        delay_option(wrong)  # type: ignore[arg-type]
