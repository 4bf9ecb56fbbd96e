"""Whether an answer fits the JSON schema that a pause keeps. The only file that loads jsonschema.

What cannot be told here passes: the model in the flow's body checks it all once more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python
from referencing import Registry
from referencing.exceptions import Unresolvable

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
    # An empty registry: a schema that refers to one elsewhere is not fetched.
    validator = _Validator(schema, registry=Registry())
    try:
        errors = sorted(validator.iter_errors(value), key=_place)
    except Unresolvable:
        return []
    return [_sentence(error) for error in errors]


def _place(error: ValidationError) -> list[str]:
    return [str(part) for part in error.absolute_path]


def _sentence(error: ValidationError) -> str:
    path = ".".join(_place(error))
    text = error.message if len(error.message) <= _LONGEST else error.message[: _LONGEST - 1] + "…"
    return f"{path!r}: {text}" if path else text


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """As jsonschema's, but for patterns that Python does not know: pydantic's are those of another engine."""
    try:
        re.compile(pattern)
    except re.error:
        return
    yield from Draft202012Validator.VALIDATORS["pattern"](validator, pattern, instance, schema) or ()


_Validator: Any = validators.extend(Draft202012Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]
