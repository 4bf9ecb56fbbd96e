"""Schedules are checked when they are written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from datetime import timedelta
from typing import Any

import pytest

from orchestra.errors import ConfigurationError
from orchestra.schedules import Cron, Interval, RRule, Schedule


def test_each_kind_makes_a_schedule() -> None:
    """With what goes with it."""
    assert Cron("0 9 * * mon-fri", timezone="Europe/Berlin", slug="work").cron == "0 9 * * mon-fri"
    assert Interval(90).interval == timedelta(seconds=90)
    assert RRule("FREQ=WEEKLY;BYDAY=MO", parameters={"full": True}).parameters == {"full": True}


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Cron("every morning"), "every morning"),
        (lambda: Cron("0 9 * * *", timezone="Mars/Olympus"), "Mars/Olympus"),
        (lambda: Cron("0 9 * * *", timezone="../etc/passwd"), "passwd"),
        (lambda: Interval(0), "0:00:00"),
        (lambda: Interval(timedelta(days=-1)), "-1 day"),
        (lambda: RRule("FREQ=SOMETIMES"), "SOMETIMES"),
        (lambda: Cron("0 9 * * *", catchup="some"), "some"),
        (lambda: Interval(60, catchup="all", catchup_max=0), "at least 1"),
        (lambda: RRule("FREQ=DAILY", max_late=0), "above 0"),
        (lambda: Schedule(), "none"),
        (lambda: Schedule(cron="0 9 * * *", interval=timedelta(1)), "cron and interval"),
    ],
)
def test_one_that_cannot_be_read_is_refused(make: Callable[[], Any], named: str) -> None:
    """The error names what is wrong."""
    with pytest.raises(ConfigurationError, match=named):
        make()


def test_a_schedule_cannot_be_changed() -> None:
    """It is a value."""
    with pytest.raises(FrozenInstanceError):
        Cron("0 9 * * *").cron = "0 10 * * *"  # type: ignore[misc]
