"""Futures and states inside arguments, and the wrappers that change how a task receives them."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from orchestra import allow_failure, flow, quote, task, unmapped
from orchestra.annotations import freeze, opaque
from orchestra.errors import UpstreamFailed
from orchestra.futures import Future
from tests.semantics.conftest import Run

Pair = namedtuple("Pair", "left right")


@dataclass
class Batch:
    """Holds a future until it is handed to a task."""

    size: Any
    parts: Any = None


@dataclass(frozen=True)
class Frozen:
    """As a batch, and cannot be changed."""

    size: Any


class Model(BaseModel, frozen=True):
    """A model whose fields may hold futures."""

    size: Any
    parts: dict[str, Any] = {}


@task
def one() -> int:
    """A value."""
    return 1


@task
def fails() -> int:
    """No value."""
    raise ValueError("broken")


@task
def show(value: Any) -> str:
    """What it is given."""
    return str(value)


@task
def kind_of(value: Any) -> str:
    """The type of what it is given."""
    return type(value).__name__


def nested(future: Any) -> list[Any]:
    """Values with a future somewhere in them."""
    return [
        future,
        [future, [future]],
        (future, 2),
        {"a": {"b": [future]}},
        {future},
        frozenset({future}),
        Pair(future, [future]),
        Batch(future, [Batch(future)]),
        Frozen(future),
        Model(size=future, parts={"x": [future]}),
    ]


SHOWN = [
    "1",
    "[1, [1]]",
    "(1, 2)",
    "{'a': {'b': [1]}}",
    "{1}",
    "frozenset({1})",
    "Pair(left=1, right=[1])",
    "Batch(size=1, parts=[Batch(size=1, parts=None)])",
    "Frozen(size=1)",
    "size=1 parts={'x': [1]}",
]


@flow
def shows_futures(submitted: bool) -> list[str]:
    values = nested(one.submit())
    if submitted:
        return show.map(values).result()
    return [show(value) for value in values]


@flow
def shows_states() -> list[str]:
    values = nested(one(return_state=True))
    return [show(value) for value in values if not isinstance(value, (set, frozenset))]


@flow
def shows_futures_by_name() -> list[str]:
    future = one.submit()
    return [show(value={"n": future}), show.submit(value=[future]).result()]


@flow
def leaves_values_alone() -> list[bool]:
    given = [Batch(1, [2]), Model(size=1)]
    return [kind_of(given[0]) == "Batch", given[1].size == 1, given[0] == Batch(1, [2])]


@flow
def fails_deep(submitted: bool) -> str:
    value = Model(size=1, parts={"x": [fails.submit()]})
    return show.submit(value).result() if submitted else show(value)


@flow
def allows_failure(submitted: bool) -> list[str]:
    bad, good = fails.submit(), one.submit()
    values = [allow_failure(bad), allow_failure([bad, good]), {"x": allow_failure(bad)}, allow_failure(good)]
    if submitted:
        return show.map(values[:1]).result() + [show.submit(value).result() for value in values[1:]]
    return [show(value) for value in values]


@flow
def allows_failure_of_a_state() -> str:
    return show(allow_failure(fails(return_state=True)))


@flow
def fails_by_a_state() -> str:
    return show(fails(return_state=True))


@flow
def quotes() -> list[str]:
    future = one.submit()
    return [kind_of(quote(future)), kind_of(quote([future])), show.submit(quote([1, 2])).result()]


@task
def first_kind(values: list[Any]) -> str:
    """Of the first element."""
    return "future" if isinstance(values[0], Future) else type(values[0]).__name__


@flow
def opaques() -> list[str]:
    future = one.submit()
    return [
        show(opaque(future)),
        show.submit(opaque(future)).result(),
        first_kind(opaque([future])),
        first_kind([future]),
        show(opaque([1, 2])),
    ]


@flow
def unmaps() -> list[str]:
    return [show(unmapped([1])), show.submit(unmapped(one.submit())).result(), show(freeze("x"))]


@flow
def child(value: Any, wait: Any = None) -> str:
    return str(value)


@flow
def hands_on_to_flows() -> list[str]:
    future = one.submit()
    return [child(future), child([future, {"x": future}]), child(Batch(future))]


@pytest.mark.parametrize("submitted", [False, True])
def test_futures_are_resolved_wherever_they_stand(run: Run, submitted: bool) -> None:
    """In lists, tuples, dicts, sets, dataclasses, named tuples and pydantic models, frozen or not, at any depth."""
    assert run.value(shows_futures, submitted=submitted) == SHOWN


def test_states_are_resolved_as_futures_are(run: Run) -> None:
    """A state becomes the value it carries."""
    assert run.value(shows_states) == [text for text in SHOWN if text not in ("{1}", "frozenset({1})")]


def test_futures_are_resolved_in_arguments_by_name(run: Run) -> None:
    """Called and submitted."""
    assert run.value(shows_futures_by_name) == ["{'n': 1}", "[1]"]


def test_values_without_futures_stay_as_they_are(run: Run) -> None:
    """Of whatever type."""
    assert run.value(leaves_values_alone) == [True, True, True]


@pytest.mark.parametrize("submitted", [False, True])
def test_a_failed_future_deep_in_an_argument_keeps_the_task_from_running(run: Run, submitted: bool) -> None:
    """The error names the culprit."""
    with pytest.raises(UpstreamFailed, match="fails-0' did not succeed"):
        run.value(fails_deep, submitted=submitted)


@pytest.mark.parametrize("submitted", [False, True])
def test_allow_failure_hands_over_exceptions(run: Run, submitted: bool) -> None:
    """Around one future, around a list, or somewhere inside; a good value stays a value."""
    values = ["broken", "[ValueError('broken'), 1]", "{'x': ValueError('broken')}", "1"]
    assert run.value(allows_failure, submitted=submitted) == values


def test_allow_failure_goes_for_states_too(run: Run) -> None:
    """Without it a failed state among the arguments counts."""
    assert run.value(allows_failure_of_a_state) == "broken"
    with pytest.raises(UpstreamFailed):
        run.value(fails_by_a_state)


def test_quote_hands_on_what_is_inside_as_it_is(run: Run) -> None:
    """Futures stay futures."""
    kinds = run.value(quotes)

    assert kinds[0].endswith("Future")
    assert kinds[1:] == ["list", "[1, 2]"]


def test_opaque_resolves_a_future_and_looks_no_deeper(run: Run) -> None:
    """For large structures that hold none."""
    assert run.value(opaques) == ["1", "1", "future", "int", "[1, 2]"]


def test_other_wrappers_are_taken_off(run: Run) -> None:
    """`unmapped` outside of a map, and `freeze`."""
    assert run.value(unmaps) == ["[1]", "1", "x"]


def test_subflows_get_values_too(run: Run) -> None:
    """Futures among the parameters of a flow are resolved, wherever they stand."""
    assert run.value(hands_on_to_flows) == ["1", "[1, {'x': 1}]", "Batch(size=1, parts=None)"]


@pytest.mark.parametrize("wrap", [unmapped, allow_failure, quote, opaque, freeze])
def test_wrappers_give_their_value_back(wrap: Any) -> None:
    """`.unwrap()`, and `.rewrap()` for another value."""
    wrapped = wrap([1])

    assert (wrapped.unwrap(), wrapped.rewrap(2).unwrap()) == ([1], 2)
    assert type(wrapped.rewrap(2)) is wrap
