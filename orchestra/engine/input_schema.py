"""Whether an answer fits the JSON schema that a pause keeps. The only file that loads jsonschema."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

#: Longest sentence about one fault, in characters.
_LONGEST = 300


def as_json(value: Any) -> Any:
    """A value as JSON has it: models, dates and the like as pydantic writes them.

    Raises:
        ValueError: Some part of it cannot be written so.
    """
    try:
        return to_jsonable_python(value, by_alias=True)
    except PydanticSerializationError as error:
        raise ValueError(str(error)) from error


def problems(schema: dict[str, Any], value: Any) -> list[str]:
    """What is wrong with a value, a sentence a fault, each with its field; none where it fits."""
    errors = Draft202012Validator(schema).iter_errors(value)
    return [_sentence(error) for error in sorted(errors, key=lambda error: [str(part) for part in error.absolute_path])]


def _sentence(error: ValidationError) -> str:
    path = ".".join(str(part) for part in error.absolute_path)
    text = error.message if len(error.message) <= _LONGEST else error.message[: _LONGEST - 1] + "…"
    return f"{path!r}: {text}" if path else text
