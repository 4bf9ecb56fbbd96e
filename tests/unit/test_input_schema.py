"""Answers are checked against the JSON schema of what was asked for."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field

from orchestra.engine.input_schema import problems


class Line(BaseModel):
    """Part of an order."""

    item: str = Field(pattern=r"^[a-z]+$")
    count: int = Field(ge=1)


class Order(BaseModel):
    """A model with models in it."""

    lines: list[Line]
    note: str = Field("", max_length=500)


class Named(BaseModel):
    """A pattern that pydantic's engine knows and Python's does not."""

    name: str = Field(pattern=r"^\p{L}+$")


@pytest.mark.parametrize(
    ("given", "faults"),
    [
        ({"lines": [{"item": "a", "count": 1}]}, []),
        ({"lines": [{"item": "a", "count": 0}]}, ["'lines.0.count': 0 is less than the minimum of 1"]),
        ({"lines": [{"item": "A", "count": 1}]}, ["'lines.0.item': 'A' does not match '^[a-z]+$'"]),
        ({"lines": [{}]}, ["'lines.0': 'item' is a required property", "'lines.0': 'count' is a required property"]),
        ([], ["[] is not of type 'object'"]),
    ],
)
def test_each_fault_is_named_with_its_place(given: Any, faults: list[str]) -> None:
    """In the words of the schema."""
    assert problems(Order.model_json_schema(), given) == faults


def test_a_long_value_is_not_repeated_whole() -> None:
    """The sentence is cut."""
    (fault,) = problems(Order.model_json_schema(), {"lines": [], "note": "x" * 100_000})

    assert len(fault) < 400


@pytest.mark.parametrize("schema", [Named.model_json_schema(), {"$ref": "https://example.com/schema.json"}])
def test_what_the_schema_cannot_tell_is_left_to_the_code(schema: dict[str, Any]) -> None:
    """A pattern of another engine; a schema elsewhere, which is not fetched."""
    assert problems(schema, {"name": "1"}) == []
