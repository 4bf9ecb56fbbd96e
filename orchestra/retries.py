"""When to try again: pure rules."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from orchestra import clock
from orchestra.errors import CommitHookFailed, ConfigurationError
from orchestra.states import State

#: Longest list of retry delays.
MAX_DELAYS = 50

#: Seconds; a sequence of them, the last one repeating; or a function of the retry's number.
Delay = float | tuple[float, ...] | Callable[[int], Any]


def delay_option(given: float | timedelta | Sequence[float | timedelta] | Callable[[int], Any] | None) -> Delay:
    """A `retry_delay_seconds` as it stands in a spec, in seconds.

    Raises:
        ConfigurationError: A list of more than 50 delays, or a negative delay.
    """
    if given is None:
        return 0.0
    if callable(given):
        return given
    if isinstance(given, (int, float, timedelta)):
        return _checked(clock.seconds(given))
    if len(given) > MAX_DELAYS:
        raise ConfigurationError(f"at most {MAX_DELAYS} retry delays can be given, not {len(given)}")
    return tuple(_checked(clock.seconds(delay)) for delay in given) or 0.0


def jitter_option(given: float | None) -> float | None:
    """A `retry_jitter_factor` as it stands in a spec.

    Raises:
        ConfigurationError: It is negative, or no number.
    """
    if given is None or (isinstance(given, (int, float)) and given >= 0):
        return given
    raise ConfigurationError(f"retry_jitter_factor={given!r} must be a number from 0: 0.5 makes 10 s into 5 to 15 s")


def next_delay(
    retries: int,
    delay: Delay,
    attempt: int,
    *,
    jitter: float | None = None,
    rng: random.Random | None = None,
) -> float | None:
    """Seconds to wait before the try after `attempt`; None: there is none.

    Args:
        retries: How many tries may follow the first.
        delay: A number; a sequence, whose last value repeats; or a function, asked with the number of the retry
            (1 first). A function that gives a list is asked with `retries`, and the list is the sequence.
        attempt: The try that failed, from 1.
        jitter: Spread of the delay, as a part of it: 0.5 makes 10 s into 5 to 15 s.
        rng: Where the jitter comes from.
    """
    if attempt > retries:
        return None
    seconds = max(0.0, _nominal(retries, delay, attempt))
    if jitter:
        seconds *= (rng or random).uniform(max(0.0, 1.0 - jitter), 1.0 + jitter)
    return seconds


def exponential_backoff(backoff_factor: float = 2.0) -> Callable[[int], list[float]]:
    """Delays that double: the factor, twice, four times that…, for `retry_delay_seconds`."""

    def delays(retries: int) -> list[float]:
        return [backoff_factor * 2.0**retry for retry in range(min(retries, MAX_DELAYS))]

    return delays


def _nominal(retries: int, delay: Delay, attempt: int) -> float:
    given = delay
    if callable(given):
        asked = given(attempt)
        given = tuple(given(retries)) if isinstance(asked, (list, tuple)) else asked
    if isinstance(given, tuple):
        return clock.seconds(given[min(attempt, len(given)) - 1]) if given else 0.0
    return clock.seconds(given)


def _checked(seconds: float) -> float:
    if not seconds >= 0:
        raise ConfigurationError(f"a retry delay cannot be {seconds} s; give 0 or more")
    return seconds


def may_retry_flow(state: State[Any]) -> bool:
    """Whether a flow run that ended so may be run again by itself.

    What could not be undone is for a person to look at first. So is a commit hook that failed: its block stays
    committed, so a retry would go on behind it, and end as if nothing had gone wrong. A task that was committed alone
    has failed by its hook, and is run again.
    """
    if not state.is_failed() or state.name == "RollbackFailed":
        return False
    error = state.data
    return not (isinstance(error, CommitHookFailed) and error.transaction is not None)
