"""Forms made of JSON schemas: what they show, and what is read back."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.datastructures import FormData

from orchestra.server import forms

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["day", "size", "place"],
    "properties": {
        "day": {"type": "string", "format": "date"},
        "size": {"type": "integer", "description": "How many."},
        "share": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
        "loud": {"type": "boolean", "default": True},
        "colour": {"$ref": "#/definitions/Colour", "default": "red"},
        "place": {"$ref": "#/definitions/Place"},
        "either": {"anyOf": [{"type": "integer"}, {"type": "string"}], "default": 3},
    },
    "definitions": {
        "Colour": {"enum": ["red", "green"], "type": "string"},
        "Place": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}


def sent(**given: str) -> forms.Sent:
    """A form that sends this."""
    return forms.Sent(FormData([(f"{forms.PREFIX}{name}", text) for name, text in given.items()]))


def test_fields_are_made_of_types() -> None:
    """Each type has the field that browsers have for it; what is composed is written as JSON."""
    found = {field.name: field for field in forms.fields(SCHEMA, {})}

    assert {name: field.kind for name, field in found.items()} == {
        "day": "date",
        "size": "number",
        "share": "number",
        "loud": "checkbox",
        "colour": "select",
        "place": "json",
        "either": "json",
    }
    assert (found["size"].required, found["size"].step, found["size"].hint) == (True, "1", "How many.")
    assert (found["loud"].on, found["colour"].text, found["either"].text) == (True, '"red"', "3")


def test_values_are_read_back_with_their_types() -> None:
    """A field that was left empty is left out."""
    given = sent(day="2026-01-31", size="3", share="", colour='"green"', place='{"town": "Ulm"}', either='"x"')

    assert forms.values(SCHEMA, given) == (
        {
            "day": "2026-01-31",
            "size": 3,
            "loud": False,
            "colour": "green",
            "place": {"town": "Ulm"},
            "either": "x",
        },
        {},
    )


@pytest.mark.parametrize(
    ("field", "text"), [("size", "many"), ("size", ""), ("place", "{"), ("place", "[NaN]"), ("place", "[" * 100_000)]
)
def test_what_cannot_be_read_is_named(field: str, text: str) -> None:
    """The others are read all the same."""
    given = {"day": "2026-01-31", "size": "3", "place": "{}"} | {field: text}

    _, wrong = forms.values(SCHEMA, sent(**given))

    assert list(wrong) == [field]


def test_references_in_a_circle_end() -> None:
    """A schema that refers to itself has a field for JSON."""
    schema = {"properties": {"tree": {"$ref": "#/definitions/T"}}, "definitions": {"T": {"$ref": "#/definitions/T"}}}

    assert [field.kind for field in forms.fields(schema, {})] == ["json"]
