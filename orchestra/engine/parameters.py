"""Parameters of a call: bind them to a signature, and take them apart again.

Validation is pydantic's, in engine/validation.py, loaded at the first value that is not plainly right.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from orchestra import callables, lazy
from orchestra.errors import ParameterBindError, SignatureMismatchError

_EMPTY = inspect.Parameter.empty
_PLAIN = (bool, int, float, str, bytes, list, tuple, dict, set)
#: Parameters that take part in `f(**parameters)` by name.
_VAR = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def bind(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by parameter name, defaults included.

    Raises:
        ParameterBindError: They do not fit the signature.
    """
    try:
        bound = signature(fn).bind(*args, **kwargs)
    except TypeError as error:
        raise ParameterBindError(f"{_name(fn)}{signature(fn)} cannot be called so: {error}") from error
    bound.apply_defaults()
    return dict(bound.arguments)


def bind_named(fn: Callable[..., Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """As `bind`, for parameters given by name, as a command line or a stored run gives them.

    Raises:
        SignatureMismatchError: A name is unknown.
        ParameterBindError: One is missing.
    """
    known = signature(fn).parameters
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values())
    unknown = [] if takes_any else sorted(set(parameters) - set(known))
    if unknown:
        raise SignatureMismatchError(f"{_name(fn)}{signature(fn)} has no parameter {', '.join(map(repr, unknown))}")
    return bind(fn, *call_with(fn, parameters))


def call_with(fn: Callable[..., Any], parameters: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The `(args, kwargs)` that hand `parameters` (by name) to `fn`."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    left = dict(parameters)
    for name, parameter in signature(fn).parameters.items():
        if name not in left:
            continue
        value = left.pop(name)
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY or (
            parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and _has_var_positional(fn)
        ):
            args.append(value)
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            args.extend(value)
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            kwargs.update(value)
        else:
            kwargs[name] = value
    return tuple(args), kwargs | left


def validate(fn: Callable[..., Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters, made to fit the annotations of `fn` ("7" becomes 7, a dict becomes its model).

    A value that is a parameter's own default is left as it is.

    Raises:
        ParameterTypeError: A value does not fit; names the parameter.
    """
    doubtful = [name for name, value in parameters.items() if not _plainly_fits(fn, name, value)]
    if not doubtful:
        return parameters
    return parameters | dict(lazy.load("validate_parameters")(fn, {name: parameters[name] for name in doubtful}))


@lru_cache(maxsize=4096)
def signature(fn: Callable[..., Any]) -> inspect.Signature:
    """The signature of `fn`, read once; of a builtin that does not tell it, one that takes anything."""
    try:
        return inspect.signature(fn)
    except ValueError:
        return inspect.signature(_anything)


def _anything(*args: Any, **kwargs: Any) -> None: ...


@lru_cache(maxsize=4096)
def hints(fn: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of `fn`, read once; those whose names cannot be found are left out."""
    code = callables.code_of(inspect.unwrap(fn))
    target = inspect.unwrap(inspect.getattr_static(code, "__init__") if isinstance(code, type) else code)
    scope = {**getattr(target, "__globals__", {}), **_nonlocals(target)}
    found = {}
    for name, hint in inspect.get_annotations(target).items():
        try:
            holder = type("Holder", (), {"__annotations__": {name: hint}})
            found[name] = typing.get_type_hints(holder, scope, scope, include_extras=True)[name]
        except (NameError, TypeError, SyntaxError, AttributeError):
            continue
    return found


def _nonlocals(fn: Any) -> dict[str, Any]:
    code, cells = getattr(fn, "__code__", None), getattr(fn, "__closure__", None) or ()
    found = {}
    for name, cell in zip(code.co_freevars if code else (), cells, strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _plainly_fits(fn: Callable[..., Any], name: str, value: Any) -> bool:
    parameter = signature(fn).parameters.get(name)
    if parameter is None or parameter.annotation is _EMPTY or value is parameter.default:
        return True
    hint = hints(fn).get(name, Any)
    if hint is Any or hint is object:
        return True
    return parameter.kind not in _VAR and hint in _PLAIN and type(value) is hint


@lru_cache(maxsize=4096)
def _has_var_positional(fn: Callable[..., Any]) -> bool:
    return any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in signature(fn).parameters.values())


def _name(fn: Callable[..., Any]) -> str:
    return callables.name_of(fn)
