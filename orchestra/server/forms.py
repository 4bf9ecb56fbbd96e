"""Forms made of JSON schemas, and what was typed into them read back as values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from starlette.datastructures import FormData

T = TypeVar("T")

#: Before the names of the schema's own fields in what a form sends.
PREFIX = "p."
#: Kinds of field whose text is the value itself.
_TEXTS = {"date": "date", "email": "email", "uri": "url"}
#: How deep what fits is looked for behind references.
_DEEPEST = 20
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Sent:
    """What a form sent."""

    data: FormData

    def one(self, name: str) -> str:
        """One field's text; empty where it was not sent."""
        found = self.data.get(name, "")
        return found if isinstance(found, str) else ""

    def shown(self) -> dict[str, str]:
        """What stood in the schema's fields, by their names, to be shown again."""
        ours = ((name, text) for name, text in self.data.multi_items() if name.startswith(PREFIX))
        return {name.removeprefix(PREFIX): text for name, text in ours if isinstance(text, str)}


async def read(request: Request) -> Sent:
    """What a form sent; files are refused."""
    data = await request.form(max_files=0)
    return Sent(data)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a form."""

    name: str
    label: str
    #: "text", "number", "checkbox", "select", "json", or a type of input that browsers know.
    kind: str
    required: bool
    hint: str
    #: What stands in it.
    text: str
    #: Whether a checkbox is set.
    on: bool = False
    step: str = ""
    #: Of a select: its values as JSON, and how they read.
    choices: tuple[tuple[str, str], ...] = ()


def fields(schema: Mapping[str, Any], shown: Mapping[str, str], values: Mapping[str, Any] | None = None) -> list[Field]:
    """The fields of an object that a schema describes.

    Args:
        shown: What was typed before, by name; goes before `values`.
        values: What stands there at first, beside the schema's defaults.
    """
    required = set(schema.get("required", ()))
    properties = schema.get("properties", {})
    return [
        _field(schema, name, each, name in required, shown, dict(values or {}))
        for name, each in properties.items()
        if isinstance(each, Mapping)
    ]


def _field(
    root: Mapping[str, Any],
    name: str,
    given: Mapping[str, Any],
    required: bool,
    shown: Mapping[str, str],
    values: dict[str, Any],
) -> Field:
    schema, optional = _plain(root, given)
    kind, choices = _kind(schema)
    start = values.get(name, given.get("default", _MISSING))
    text = shown.get(name, _written(start, kind))
    hint = str(given.get("description") or schema.get("description") or "")
    if optional or not required:
        hint = f"{hint} (optional)".strip()
    label = str(given.get("title") or name)
    step = "1" if schema.get("type") == "integer" else "any" if kind == "number" else ""
    is_on = shown.get(name) == "true" if shown else start is True
    return Field(name, label, kind, required and kind != "checkbox", hint, text, is_on, step, choices)


def _plain(root: Mapping[str, Any], schema: Mapping[str, Any], depth: int = 0) -> tuple[Mapping[str, Any], bool]:
    """A schema without its references, and whether null fits too; of one that leads to itself, any value."""
    if depth > _DEEPEST:
        return {}, False
    schema = _referred(root, schema)
    either = schema.get("anyOf") or schema.get("oneOf")
    if either:
        parts = [_referred(root, each) for each in either]
        real = [each for each in parts if each.get("type") != "null"]
        if len(real) == 1:
            return _plain(root, real[0], depth + 1)[0], len(real) < len(parts)
        return {}, len(real) < len(parts)
    if len(schema.get("allOf", ())) == 1:
        return _plain(root, schema["allOf"][0], depth + 1)
    return schema, False


def _referred(root: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    seen = 0
    while isinstance(reference, str) and reference.startswith("#/") and seen < 20:
        found: Any = root
        for part in reference[2:].split("/"):
            found = found.get(part, {}) if isinstance(found, Mapping) else {}
        schema = found if isinstance(found, Mapping) else {}
        reference, seen = schema.get("$ref"), seen + 1
    return schema


def _kind(schema: Mapping[str, Any]) -> tuple[str, tuple[tuple[str, str], ...]]:
    if isinstance(schema.get("enum"), list):
        codes = [(json.dumps(each), each) for each in schema["enum"]]
        return "select", tuple((code, each if isinstance(each, str) else code) for code, each in codes)
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return "number", ()
    if kind == "boolean":
        return "checkbox", ()
    if kind == "string":
        return _TEXTS.get(str(schema.get("format")), "text"), ()
    return "json", ()


def _written(value: Any, kind: str) -> str:
    """A value as its field shows it."""
    if value is _MISSING or value is None:
        return ""
    if kind in ("json", "select"):
        return json.dumps(value, ensure_ascii=False, indent=None if kind == "select" else 2)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def values(schema: Mapping[str, Any], sent: Sent) -> tuple[dict[str, Any], dict[str, str]]:
    """The values that were sent, and what is wrong, by name; a field left empty is left out."""
    found: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    required = set(schema.get("required", ()))
    for field in fields(schema, {}):
        text = sent.one(PREFIX + field.name)
        if field.kind == "checkbox":
            found[field.name] = text == "true"
        elif not text.strip() and field.name in required and field.kind != "text":
            wrong[field.name] = "is needed"
        elif not text.strip() and field.name not in required:
            # The default counts.
            continue
        else:
            try:
                found[field.name] = _value(field.kind, text)
            except ValueError as error:
                wrong[field.name] = str(error)
    return found, wrong


def _value(kind: str, text: str) -> Any:
    if kind == "number":
        return _number(text)
    if kind in ("json", "select"):
        return read_json(text)
    return text


def _number(text: str) -> float | int:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]!r} is no number")
    return number


def read_json(text: str) -> Any:
    """A value written as JSON.

    Raises:
        ValueError: It is none; says where.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("is nested too deep") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error}") from None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def one_object(text: str) -> dict[str, Any]:
    """An object written as JSON, as parameters are where no schema is known.

    Raises:
        ValueError: It is none; says why.
    """
    found = read_json(text or "{}")
    if not isinstance(found, dict):
        raise ValueError('must be an object, as {"day": "2026-01-31"}')
    return found


def as_text(value: Any) -> str:
    """A value as indented JSON, to be edited."""
    return json.dumps(value, ensure_ascii=False, indent=2)
