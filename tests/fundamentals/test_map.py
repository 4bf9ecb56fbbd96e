"""Map: one task run for each element."""

from __future__ import annotations

import pytest

from orchestra import flow, task, unmapped
from orchestra.errors import MappingLengthMismatch, MappingMissingIterable
from orchestra.task_runners import ThreadPoolTaskRunner


@task
def add(left: int, right: int = 1) -> int:
    """A sum."""
    return left + right


def test_map_runs_a_task_for_each_element() -> None:
    """Results come in the order of the elements."""

    @flow
    def work() -> list[int]:
        return add.map([1, 2, 3]).result()

    assert work() == [2, 3, 4]


def test_iterables_go_side_by_side_and_single_values_to_all() -> None:
    """As `zip` does; what is not iterable, or wrapped in `unmapped`, goes whole to every call."""

    @task
    def join(sep: str, words: list[str], number: int) -> str:
        return sep.join(words) + str(number)

    @flow
    def work() -> list[str]:
        return join.map("-", unmapped(["a", "b"]), number=range(2)).result()

    assert work() == ["a-b0", "a-b1"]


def test_maps_of_maps_go_element_by_element() -> None:
    """The second map does not wait for all of the first."""

    @flow
    def work() -> list[int]:
        return add.map(add.map([1, 2]), right=add.map([10, 20])).result()

    assert work() == [13, 24]


def test_a_future_of_a_list_can_be_mapped_over() -> None:
    """It is waited for, then taken apart."""

    @task
    def numbers() -> list[int]:
        return [1, 2]

    @flow
    def work() -> list[int]:
        return add.map(numbers.submit()).result()

    assert work() == [2, 3]


def test_what_cannot_be_mapped_is_an_error() -> None:
    """Different lengths, or nothing iterable."""

    @flow
    def uneven() -> None:
        add.map([1, 2], [1])

    @flow
    def flat() -> None:
        add.map(1)

    with pytest.raises(MappingLengthMismatch, match="different lengths"):
        uneven()
    with pytest.raises(MappingMissingIterable, match="give a list"):
        flat()


def test_a_bounded_pool_runs_nested_submits_too() -> None:
    """With one thread, a task that waits for another one does not stand in its way."""

    @task
    def outer(number: int) -> int:
        return add.submit(number).result()

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def work() -> list[int]:
        return outer.map([1, 2, 3]).result()

    assert work() == [2, 3, 4]
