"""Futures and states inside arguments."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from orchestra.annotations import allow_failure, quote
from orchestra.engine.arguments import find_futures, replace_futures, settled
from orchestra.errors import UpstreamFailed
from orchestra.futures import Future
from orchestra.states import Completed, Failed, State

Point = namedtuple("Point", "x y")


class Ended(Future[Any]):
    """A future that is done."""

    def __init__(self, name: str, state: State[Any]) -> None:
        super().__init__(name, name, waiter=None)  # type: ignore[arg-type]  # never waited for
        self._state = state

    def peek(self) -> State[Any]:
        """The state."""
        return self._state

    @property
    def state(self) -> State[Any]:
        """The state."""
        return self._state

    def add_done_callback(self, callback: Callable[[Future[Any]], object]) -> None:
        """Call it."""
        callback(self)


@dataclass(frozen=True)
class Box:
    """A frozen holder."""

    inside: Any
    label: str = "box"


one, two = Ended("one", Completed(data=1)), Ended("two", Completed(data=2))
broken = Ended("broken", Failed("ValueError: no", data=ValueError("no")))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (one, 1),
        ([one, {"a": (two,)}], [1, {"a": (2,)}]),
        ({one, two}, {1, 2}),
        (Point(one, 5), Point(1, 5)),
        (Box([one]), Box([1])),
        (Completed(data=7), 7),
        ([quote(one)], [one]),
        (allow_failure(one), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_futures_and_states_become_values(given: object, expected: object) -> None:
    """At any depth of the usual containers, and not in quotes."""
    made = replace_futures(given, settled)

    assert made == expected
    assert type(made) is type(expected)


@pytest.mark.parametrize("value", [[1, {"a": (2,)}], Box([1]), {1, 2}, Point(1, 2), "text", None])
def test_what_holds_no_future_is_handed_on_as_it_is(value: object) -> None:
    """The very same object: nothing is copied."""
    assert replace_futures(value, settled) is value


def test_a_container_inside_itself_is_left_alone() -> None:
    """No endless walk."""
    loop: list[object] = [1]
    loop.append(loop)

    assert replace_futures(loop, settled) is loop
    assert find_futures(loop) == []


def test_futures_are_found_with_their_strictness() -> None:
    """What is inside `allow_failure` may fail."""
    assert find_futures([one, {"b": allow_failure([two])}]) == [(one, True), (two, False)]


def test_a_failed_upstream_names_itself() -> None:
    """Unless failure is allowed: then the exception is the value."""
    with pytest.raises(UpstreamFailed, match="'broken' did not succeed: ValueError: no"):
        replace_futures({"a": broken}, settled)
    with pytest.raises(UpstreamFailed):
        replace_futures([broken.state], settled)
    assert isinstance(replace_futures(allow_failure(broken), settled), ValueError)
