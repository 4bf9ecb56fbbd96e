"""`.map()`: one task run for each element."""

from __future__ import annotations

from typing import Any

import pytest

from orchestra import allow_failure, flow, task, unmapped
from orchestra.annotations import quote
from orchestra.errors import MappingLengthMismatch, MappingMissingIterable, ParameterBindError
from tests.semantics.conftest import Run


@task
def join(*parts: Any, sep: str = "") -> str:
    """Text."""
    return sep.join(map(str, parts))


@task
def add(left: int, right: int = 1) -> int:
    """A sum."""
    return left + right


@task
async def aadd(left: int, right: int = 1) -> int:
    """A sum, async."""
    return left + right


@task
def numbers(n: int) -> list[int]:
    """A list to map over."""
    return list(range(n))


@task
def check(x: int) -> int:
    """Fails for odd numbers."""
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x


@task
def kind(value: Any) -> str:
    """Its type's name."""
    return type(value).__name__


@flow
def zips() -> list[Any]:
    return [
        join.map([1, 2], ["a", "b"], sep=["-", "+"]).result(),
        join.map((1, 2), "ab", range(2)).result(),
        join.map([1, 2], sep=unmapped("-")).result(),
        join.map([1, 2], unmapped([3, 4]), 5).result(),
        sorted(join.map({1, 2}).result()),
        join.map(x for x in (1, 2)).result(),
        join.map([1, 2], {"k": 1}).result(),
        join.map([[1], [2]], quote([3])).result(),
    ]


ZIPPED = [
    ["1-a", "2+b"],
    ["1ab0", "2ab1"],
    ["1", "2"],
    ["1[3, 4]5", "2[3, 4]5"],
    ["1", "2"],
    ["1", "2"],
    ["1{'k': 1}", "2{'k': 1}"],
    ["[1][3]", "[2][3]"],
]


@flow
def maps_of_maps(n: int) -> list[int]:
    return add.map(add.map(range(n)), right=add.map(range(n), unmapped(10))).result()


@flow
def maps_over_futures(n: int) -> list[Any]:
    return [add.map(numbers.submit(n)).result(), add.map(numbers(n, return_state=True)).result()]


@flow
def maps_nothing() -> list[Any]:
    return [add.map([]).result(), add.map([], return_state=True), list(add.map(numbers.submit(0)))]


@flow
def maps_coroutines() -> list[int]:
    return aadd.map([1, 2], right=unmapped(2)).result()


@flow
async def awaits_maps() -> list[int]:
    return [await future for future in aadd.map([1, 2])]


@flow
def maps_failures() -> list[str]:
    states = check.map([1, 2, 3], return_state=True)
    return [state.name for state in states]


@flow
def maps_over_failures() -> list[str]:
    return kind.map(allow_failure(check.map([1, 2]))).result()


@flow
def maps_over_what_failed() -> list[str]:
    futures = add.map(check.map([1, 2]))
    return [future.state.name for future in futures if not future.wait()]


@flow
def maps_wrongly(way: str) -> Any:
    ways: dict[str, Any] = {
        "lengths": lambda: add.map([1, 2], [1]),
        "nothing": lambda: add.map(1, 2),
        "text": lambda: add.map("12"),
        "arguments": lambda: add.map([1], wrong=[2]),
    }
    return ways[way]()


def test_iterables_go_side_by_side(run: Run) -> None:
    """Single values, texts, dicts and what is unmapped or quoted go whole to every call."""
    assert run.value(zips) == ZIPPED


def test_maps_of_maps_go_element_by_element(run: Run) -> None:
    """Lists of futures are mapped over like lists of values."""
    assert run.value(maps_of_maps, n=2) == [11, 13]


def test_futures_and_states_of_lists_are_taken_apart(run: Run) -> None:
    """Waited for first."""
    assert run.value(maps_over_futures, n=2) == [[1, 2], [1, 2]]


def test_a_map_over_nothing_gives_nothing(run: Run) -> None:
    """And is no error."""
    assert run.value(maps_nothing) == [[], [], []]


def test_coroutine_functions_are_mapped_alike(run: Run) -> None:
    """In flows and in async flows, where each future can be awaited."""
    assert run.value(maps_coroutines) == [3, 4]
    assert run.value(awaits_maps) == [2, 3]


def test_each_element_fails_for_itself(run: Run) -> None:
    """`return_state=True` gives the states in order."""
    assert run.value(maps_failures) == ["Failed", "Completed", "Failed"]
    assert run.value(maps_over_what_failed) == ["UpstreamFailed", "Completed"]


def test_allow_failure_goes_for_each_element(run: Run) -> None:
    """Of a list of futures."""
    assert run.value(maps_over_failures) == ["ValueError", "int"]


@pytest.mark.parametrize(
    ("way", "error", "message"),
    [
        ("lengths", MappingLengthMismatch, "different lengths: {'left': 2, 'right': 1}"),
        ("nothing", MappingMissingIterable, "give a list"),
        ("text", MappingMissingIterable, "give a list"),
        ("arguments", ParameterBindError, "unexpected keyword argument 'wrong'"),
    ],
)
def test_what_cannot_be_mapped_says_why(run: Run, way: str, error: type[Exception], message: str) -> None:
    """Before anything is submitted."""
    with pytest.raises(error, match=message):
        run.value(maps_wrongly, way=way)
