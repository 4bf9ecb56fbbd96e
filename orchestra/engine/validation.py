"""Make parameters fit their annotations, by pydantic. The only file of the engine that loads it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticSerializationError, to_jsonable_python

from orchestra.engine.parameters import hints, signature
from orchestra.errors import DefinitionError, ParameterTypeError

_Model = type[BaseModel]
#: Parameters that take what no other one does.
_VAR = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def validate(fn: Callable[..., Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """Some of the parameters of `fn`, coerced as pydantic does.

    Raises:
        ParameterTypeError: A value does not fit its annotation; every misfit is named.
    """
    model, fields = _model(fn, tuple(parameters))
    try:
        checked = model.model_validate(parameters)
    except ValidationError as error:
        raise ParameterTypeError(_sentence(fn, error)) from error
    return {name: getattr(checked, field) for field, name in fields.items()}


def schema(fn: Callable[..., Any]) -> dict[str, Any]:
    """The JSON schema of the parameters of `fn`, by its annotations; one that JSON cannot describe takes anything."""
    known = {name: each for name, each in signature(fn).parameters.items() if each.kind not in _VAR}
    definitions: Any = {}
    for index, (name, parameter) in enumerate(known.items()):
        default = ... if parameter.default is inspect.Parameter.empty else parameter.default
        field = Field(default, alias=name, title=name, json_schema_extra={"position": index})
        definitions[f"p{index}"] = (_describable(_annotation(fn, name)), field)
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in signature(fn).parameters.values())
    config = ConfigDict(arbitrary_types_allowed=True, extra="allow" if takes_any else "forbid")
    model = create_model("Parameters", __config__=config, **definitions)
    found: dict[str, Any] = model.model_json_schema(schema_generator=_Schema)
    return found


class _Schema(GenerateJsonSchema):
    """Defaults that JSON cannot hold are left out without a warning."""

    def render_warning_message(self, kind: Any, detail: str) -> None:
        """Nothing."""


def _describable(annotation: Any) -> Any:
    try:
        TypeAdapter(annotation).json_schema(schema_generator=_Schema)
    except Exception:
        # What has no schema, or cannot be built alone, is checked by the worker, which has the type.
        return Any
    return annotation


def serialize(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as JSON holds them.

    Raises:
        ParameterTypeError: A value has no such form; names its parameter.
    """
    made = {}
    for name, value in parameters.items():
        try:
            made[name] = to_jsonable_python(value)
        except (PydanticSerializationError, ValueError) as error:
            raise ParameterTypeError(f"parameter {name!r} cannot be written as JSON: {error}") from error
    return made


@lru_cache(maxsize=1024)
def _model(fn: Callable[..., Any], names: tuple[str, ...]) -> tuple[_Model, dict[str, str]]:
    # Fields are named p0, p1… with the parameter's name as alias: `schema` or `_x` are no names for pydantic fields.
    fields = {f"p{index}": name for index, name in enumerate(names)}
    definitions: Any = {field: (_annotation(fn, name), Field(alias=name)) for field, name in fields.items()}
    try:
        return create_model("Parameters", __config__=ConfigDict(arbitrary_types_allowed=True), **definitions), fields
    except Exception as error:
        raise DefinitionError(f"the annotations of {fn!r} cannot be validated: {error}") from error


def _annotation(fn: Callable[..., Any], name: str) -> Any:
    hint: Any = hints(fn).get(name, Any)
    kind = signature(fn).parameters[name].kind
    if kind is inspect.Parameter.VAR_POSITIONAL:
        return tuple.__class_getitem__((hint, ...))
    if kind is inspect.Parameter.VAR_KEYWORD:
        return dict.__class_getitem__((str, hint))
    return hint


def _sentence(fn: Callable[..., Any], error: ValidationError) -> str:
    problems = [
        f"{'.'.join(map(str, problem['loc']))!r}: {problem['msg']} (given {_short(problem['input'])})"
        for problem in error.errors(include_url=False)
    ]
    return f"parameters of {getattr(fn, '__name__', fn)!r} do not fit: " + "; ".join(problems)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
