"""Parameters of flows are made to fit their annotations."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from orchestra import flow
from orchestra.errors import ParameterBindError, ParameterTypeError, ReservedArgumentError


class Source(BaseModel):
    """Where rows come from."""

    name: str
    rows: int = 10


def test_parameters_are_coerced() -> None:
    """Text becomes a number, a dict its model."""

    @flow
    def load(number: int, source: Source, *more: float) -> tuple[int, int, tuple[float, ...]]:
        return number, source.rows, more

    assert load("7", {"name": "web"}, "1.5") == (7, 10, (1.5,))  # type: ignore[arg-type]


def test_a_value_that_does_not_fit_fails_the_run() -> None:
    """The error names the parameter; the function is not called."""

    @flow
    def load(number: int) -> None:
        raise AssertionError("called")

    with pytest.raises(ParameterTypeError, match="'number': Input should be a valid integer"):
        load("seven")  # type: ignore[arg-type]


def test_arguments_must_fit_the_signature() -> None:
    """As in a plain call, with the signature in the message."""

    @flow
    def load(number: int) -> None: ...

    with pytest.raises(ParameterBindError, match=r"load\(number: 'int'\).*missing a required argument"):
        load()  # type: ignore[call-arg]


def test_validation_can_be_switched_off() -> None:
    """`validate_parameters=False` hands values over as they are."""

    @flow(validate_parameters=False)
    def load(number: int) -> object:
        return number

    assert load("7") == "7"  # type: ignore[arg-type]


def test_names_that_calls_need_cannot_be_parameters() -> None:
    """`wait_for` and `return_state` are refused when the flow is declared."""
    with pytest.raises(ReservedArgumentError, match="wait_for"):

        @flow
        def load(wait_for: int) -> None: ...
