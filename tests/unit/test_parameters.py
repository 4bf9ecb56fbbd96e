"""Binding parameters, taking them apart again, and making them fit."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from orchestra.engine.parameters import bind, bind_named, call_with, validate
from orchestra.errors import ParameterBindError, ParameterTypeError, SignatureMismatchError


class Engine:
    """Something that pydantic does not know."""


def everything(a: int, /, b: list[int], *c: int, d: str = "x", **e: float) -> Any:
    """One parameter of each kind."""
    return a, b, c, d, e


def test_bound_parameters_call_the_function_again() -> None:
    """`call_with` undoes `bind`, for parameters of every kind."""
    parameters = bind(everything, (1, [2], 3, 4), {"d": "y", "z": 0.5})
    args, kwargs = call_with(everything, parameters)

    assert parameters == {"a": 1, "b": [2], "c": (3, 4), "d": "y", "e": {"z": 0.5}}
    assert everything(*args, **kwargs) == (1, [2], (3, 4), "y", {"z": 0.5})


def test_parameters_of_every_kind_are_coerced() -> None:
    """Also those in `*args` and `**kwargs`."""
    parameters = validate(everything, bind(everything, ("1", ["2"], "3"), {"z": "0.5"}))

    assert parameters == {"a": 1, "b": [2], "c": (3,), "d": "x", "e": {"z": 0.5}}


def test_every_misfit_is_named() -> None:
    """Not only the first; long values are cut."""

    def load(count: int, day: str, rows: list[int]) -> None: ...

    with pytest.raises(ParameterTypeError) as caught:
        validate(load, {"count": "x" * 500, "day": 3, "rows": [1, "two"]})

    text = str(caught.value)
    assert all(name in text for name in ("'count'", "'day'", "'rows.1'"))
    assert len(text) < 600


def test_a_default_is_left_as_it_is() -> None:
    """`x: int = None` is what people write."""

    def load(x: int = None) -> None:  # type: ignore[assignment]  # noqa: RUF013
        ...

    assert validate(load, {"x": None}) == {"x": None}


def test_names_that_pydantic_keeps_for_itself_are_fine() -> None:
    """`schema`, `copy`, `_private`, `model_config`."""

    def load(schema: int, copy: int, _private: int, model_config: int) -> None: ...

    given = dict.fromkeys(("schema", "copy", "_private", "model_config"), "1")

    assert validate(load, given) == dict.fromkeys(given, 1)


def test_an_annotation_that_cannot_be_found_is_not_checked() -> None:
    """A name imported for type checkers only."""

    def load(frame: DataFrame, number: int) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert validate(load, {"frame": "anything", "number": "1"}) == {"frame": "anything", "number": 1}


def test_objects_of_any_class_keep_their_identity() -> None:
    """They are checked, not copied."""

    def load(engine: Engine, maybe: Optional[Engine]) -> None: ...  # noqa: UP045

    engine = Engine()

    assert validate(load, {"engine": engine, "maybe": engine})["engine"] is engine
    with pytest.raises(ParameterTypeError, match="'engine'"):
        validate(load, {"engine": 3, "maybe": None})


def test_unknown_names_are_refused() -> None:
    """With the signature, so that the right one is at hand."""

    def load(day: str) -> None: ...

    with pytest.raises(SignatureMismatchError, match=r"load\(day: 'str'\) -> 'None' has no parameter 'dya'"):
        bind_named(load, {"dya": "monday"})
    with pytest.raises(ParameterBindError, match="missing"):
        bind_named(load, {})
