"""Digests of values: equal values give equal digests in every process, different ones different digests.

A value is written as canonical JSON, of which the SHA-256 is taken. Neither the hash seed, nor the order of a dict or
set, nor the identity of objects shows in it; types do, so that `1`, `1.0`, `True` and `"1"` differ. Objects of other
kinds count by the parts that pickle would keep; what cannot be told apart safely has no digest.
"""

from __future__ import annotations

import copyreg
import dataclasses
import enum
import functools
import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from types import CodeType, FunctionType, ModuleType
from typing import Any
from uuid import UUID

from orchestra import lazy
from orchestra.errors import NoDigest
from orchestra.specs import path_of
from orchestra.typed_values import is_plain

#: The key of an object that stands for a value which JSON has no form for; keys of users' own dicts never equal it.
_TAG = "$"

Form = Any


def digest(value: Any) -> str:
    """The SHA-256 of a value, hexadecimal.

    Raises:
        NoDigest: Some part of it cannot be told apart from others; says which, and why.
    """
    return hashlib.sha256(_text(value).encode("utf-8", "surrogatepass")).hexdigest()


def _text(value: Any) -> str:
    if is_plain(value):
        try:
            text = _to_json(value)
        except ValueError:
            pass  # an int of too many digits
        else:
            if f'"{_TAG}' not in text:
                return text
    try:
        return _to_json(_Writer().write(value))
    except RecursionError as error:
        raise NoDigest(f"a value of type {_name(type(value))} is nested too deeply") from error


#: Not as ASCII, in which half characters would read as the whole one that two of them make.
_to_json = json.JSONEncoder(ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":")).encode


class _Writer:
    """Writes one value; knows what it is inside of."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def write(self, value: Any) -> Form:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if leaf := _LEAVES.get(kind):
            return leaf(value)
        if id(value) in self._open:
            raise NoDigest(f"a value of type {_name(kind)} contains itself")
        self._open.add(id(value))
        form = self._nest(kind, value)
        self._open.discard(id(value))
        return form

    def _nest(self, kind: Any, value: Any) -> Form:
        if kind is list:
            return [self.write(part) for part in value]
        if kind is tuple:
            return _tagged("tuple", [self.write(part) for part in value])
        if kind is dict:
            return self._dict(value)
        if kind is set or kind is frozenset:
            return _tagged(kind.__name__, self._unordered(value))
        return self._other(kind, value)

    def _dict(self, value: dict[Any, Any]) -> Form:
        if all(type(key) is str for key in value):
            return {_TAG + key if key.startswith(_TAG) else key: self.write(part) for key, part in value.items()}
        return _tagged("dict", self._unordered(value.items()))

    def _unordered(self, parts: Iterable[Any]) -> Form:
        return sorted((self.write(part) for part in parts), key=_to_json)

    # -- objects -------------------------------------------------------------------------------------------------

    def _other(self, kind: Any, value: Any) -> Form:
        if isinstance(value, type):
            return _tagged("class", self._class(value))
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, enum.Enum):
            return _tagged("enum", [self._class(kind), value.name or self.write(value.value)])
        if isinstance(value, CodeType):
            return self._code(value)
        if isinstance(value, (ModuleType, type(len))) and not _is_method(value):
            return _tagged("global", _found(value, getattr(value, "__name__", "")))
        if special := _special_of(kind):
            base, parts = special
            # Which kind of index it is shows in its type of values alone.
            named = base.__name__ if base.__name__ == "Index" else self._class(kind)
            return _tagged("contents", [named, *map(self.write, (*parts(value), *_added(kind, base, value)))])
        return self._object(kind, value)

    def _object(self, kind: Any, value: Any) -> Form:
        """By its parts: the fields of a dataclass or model, else what pickle would keep."""
        if _reduces_plainly(kind) and dataclasses.is_dataclass(kind):
            return _tagged("object", [self._class(kind), self._fields(value)])
        if _is_model(kind):
            return _tagged("object", [self._class(kind), self._model(value)])
        return self._reduced(kind, value)

    def _fields(self, value: Any) -> Form:
        names = [field.name for field in dataclasses.fields(value)]
        parts = {name: getattr(value, name) for name in names if hasattr(value, name)}
        return self._dict(parts | _state(value))

    def _model(self, value: Any) -> Form:
        state = value.__getstate__()
        fields = {name: part for name, part in state["__dict__"].items() if name in type(value).model_fields}
        kept = (fields, state.get("__pydantic_extra__") or {}, state.get("__pydantic_private__") or {})
        return [self.write(part) for part in kept]

    def _reduced(self, kind: Any, value: Any) -> Form:
        try:
            reducer = copyreg.dispatch_table.get(kind)
            reduced = reducer(value) if reducer else value.__reduce_ex__(4)
        except Exception as error:
            raise NoDigest(f"a value of type {_name(kind)} has no parts to tell it by ({error})") from error
        if isinstance(reduced, str):
            return _tagged("global", [getattr(value, "__module__", None), reduced])
        make, arguments, state, items, pairs = (*reduced, None, None, None, None)[:5]
        if isinstance(state, dict):
            state = _without_cached(kind, state)
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], dict):
            state = (_without_cached(kind, state[0]), state[1])
        listed = None if pairs is None else list(pairs)
        ordered = kind.__name__ == "OrderedDict"
        return _tagged(
            "object",
            [
                self._class(kind),
                self.write(make),
                self.write(arguments),
                self.write(state or None),
                None if items is None else [self.write(item) for item in items],
                None if listed is None else self.write(listed) if ordered else self._unordered(listed),
            ],
        )

    # -- code ----------------------------------------------------------------------------------------------------

    def _class(self, kind: Any) -> Form:
        """A class by its name, if others find it there."""
        generic = getattr(kind, "__pydantic_generic_metadata__", None)
        if generic and generic["origin"] is not None:
            return [self._class(generic["origin"]), *map(self.write, generic["args"])]
        path = path_of(kind)
        # Types such as that of bound methods are known by name, and have none of their own there.
        return path if path.startswith("builtins:") else _found(kind, path)

    def _function(self, fn: FunctionType) -> Form:
        """A function by its name, if others find it there; else by its code and all that it was made with."""
        path = path_of(fn)
        if "<" not in path and lazy.loaded(path) is fn:
            return _tagged("function", path)
        try:
            cells = [cell.cell_contents for cell in fn.__closure__ or ()]
        except ValueError as error:
            raise NoDigest(f"{path} refers to a variable that has no value yet") from error
        return _tagged(
            "code",
            [self._code(fn.__code__), *map(self.write, (cells, fn.__defaults__, fn.__kwdefaults__, fn.__module__))],
        )

    def _code(self, code: CodeType) -> Form:
        named = (code.co_names, code.co_varnames, code.co_freevars, code.co_consts)
        return _tagged("bytecode", [code.co_code.hex(), code.co_exceptiontable.hex(), *map(self.write, named)])


def _tagged(tag: str, form: Form) -> Form:
    return {_TAG: tag, "v": form}


def _found(thing: Any, path: str) -> str:
    """`module:qualname`, or a module's name, under which just this thing is found.

    Raises:
        NoDigest: Something else, or nothing, stands there: others of that name may differ.
    """
    if isinstance(thing, ModuleType):
        return thing.__name__
    if ":" not in path:
        path = f"{getattr(thing, '__module__', None)}:{getattr(thing, '__qualname__', path)}"
    if lazy.loaded(path) is not thing:
        raise NoDigest(f"{path} is not found under its name, so that others of that name cannot be told apart")
    return path


def _is_method(value: Any) -> bool:
    """Whether a builtin belongs to an object, `[].append` say."""
    owner = getattr(value, "__self__", None)
    return owner is not None and not isinstance(owner, ModuleType)


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


@functools.lru_cache(maxsize=4096)
def _reduces_plainly(kind: Any) -> bool:
    """Whether a class has no pickling rules of its own: else those say which parts count."""
    inherited = all(getattr(kind, name) is getattr(object, name) for name in ("__reduce__", "__reduce_ex__"))
    state = getattr(kind, "__getstate__", None)
    plain = state is getattr(object, "__getstate__", None) or getattr(state, "__module__", "") == "dataclasses"
    return inherited and plain and not issubclass(kind, (dict, list, set, frozenset, tuple))


def _state(value: Any) -> dict[str, Any]:
    return _without_cached(type(value), getattr(value, "__dict__", {}))


def _without_cached(kind: type, state: dict[Any, Any]) -> dict[Any, Any]:
    """Attributes without those that `cached_property` has computed from the others."""
    return {
        name: part
        for name, part in state.items()
        if not (isinstance(name, str) and isinstance(getattr(kind, name, None), functools.cached_property))
    }


def _is_model(kind: type) -> bool:
    base = getattr(sys.modules.get("pydantic"), "BaseModel", None)
    return base is not None and issubclass(kind, base) and hasattr(kind, "model_fields")


# -- leaves ------------------------------------------------------------------------------------------------------


def _int(value: int) -> Form:
    # Python refuses to write over 4,300 decimal digits.
    return value if value.bit_length() < 14_000 else _tagged("int", hex(value))


def _zone(zone: tzinfo | None, at: datetime | time) -> Form:
    """A zone's key, or else its offset and name."""
    if zone is None:
        return None
    return getattr(zone, "key", None) or [str(at.utcoffset()), at.tzname()]


def _moment(value: datetime | time) -> Form:
    text = value.replace(tzinfo=None).isoformat()
    return _tagged(type(value).__name__, [text, _zone(value.tzinfo, value), value.fold])


def _bytes(value: bytes | bytearray) -> Form:
    return _tagged(type(value).__name__, [len(value), hashlib.sha256(value).hexdigest()])


_PLAIN = frozenset({type(None), bool, float, str})

_LEAVES: dict[Any, Callable[[Any], Form]] = {
    int: _int,
    bytes: _bytes,
    bytearray: _bytes,
    complex: lambda value: _tagged("complex", [value.real, value.imag]),
    datetime: _moment,
    time: _moment,
    date: lambda value: _tagged("date", value.isoformat()),
    timedelta: lambda value: _tagged("timedelta", [value.days, value.seconds, value.microseconds]),
    Decimal: lambda value: _tagged("decimal", str(value)),
    UUID: lambda value: _tagged("uuid", value.hex),
    type(Ellipsis): lambda value: _tagged("ellipsis", None),
    type(NotImplemented): lambda value: _tagged("not-implemented", None),
}


# -- arrays and frames -------------------------------------------------------------------------------------------


def _added(kind: type, base: type, value: Any) -> list[Any]:
    """What a class outside of a library adds to the library's own: a unit of measure, say."""
    if kind.__module__.partition(".")[0] == base.__module__.partition(".")[0]:
        return []
    # Pandas keeps those of a subclass that it names so, and no others.
    names = getattr(kind, "_metadata", None)
    return [_state(value) if names is None else {name: getattr(value, name, None) for name in names}]


def _array(value: Any) -> list[Any]:
    """A numpy array, or scalar, by its type, shape and contents, however it lies in memory."""
    return [_dtype(value.dtype), list(value.shape), _cells(sys.modules["numpy"].asarray(value))]


def _masked_array(value: Any) -> list[Any]:
    """What is masked counts by its being so."""
    return [value.filled(), sys.modules["numpy"].ma.getmaskarray(value), value.fill_value]


def _dtype(kind: Any) -> Any:
    if kind.names is not None:
        return [[name, _dtype(kind[name])] for name in kind.names]
    if kind.subdtype is not None:
        return [_dtype(kind.base), list(kind.shape)]
    return str(kind) if kind.hasobject else kind.newbyteorder("<").str


def _cells(array: Any) -> Any:
    """The contents in the order of rows, without the bytes between them that mean nothing."""
    kind = array.dtype
    if kind.names is not None:
        return [_cells(array[name]) for name in kind.names]
    if kind.hasobject:
        return array.ravel().tolist()
    if kind.char in "gG":  # long doubles, padded
        return list(map(str, array.ravel()))
    return array.astype(kind.newbyteorder("<"), order="C", copy=False).tobytes()


def _pandas_frame(value: Any) -> list[Any]:
    columns = [value.iloc[:, number] for number in range(value.shape[1])]
    return [value.columns, value.index, [_pandas_column(column) for column in columns], dict(value.attrs)]


def _pandas_series(value: Any) -> list[Any]:
    return [value.name, value.index, _pandas_column(value), dict(value.attrs)]


def _pandas_index(value: Any) -> list[Any]:
    many = value.nlevels > 1
    levels = [value.get_level_values(number) for number in range(value.nlevels)] if many else [value]
    return [list(value.names), *map(_pandas_column, levels)]


def _pandas_column(value: Any) -> list[Any]:
    """Its type and contents, as whole arrays where there are some: one by one a million moments take half a minute."""
    kind = value.dtype
    library = type(kind).__module__.partition(".")[0]
    if library == "numpy" and not kind.hasobject:
        return [str(kind), value.to_numpy()]
    if library not in ("numpy", "pandas"):
        # The name of another library's type need not tell all of it.
        return [str(kind), value.array]
    if hasattr(kind, "categories") and hasattr(kind, "ordered"):
        return [str(kind), kind.categories, bool(kind.ordered), value.array.codes]
    if (counted := getattr(value.array, "asi8", None)) is not None:  # moments in a zone, and periods
        return [str(kind), counted]
    if hasattr(kind, "numpy_dtype") and not hasattr(kind, "pyarrow_dtype"):  # numbers, some of which are missing
        return [str(kind), value.isna(), value.to_numpy(kind.numpy_dtype, na_value=kind.type())]
    return [str(kind), list(value)]


def _polars_frame(value: Any) -> list[Any]:
    return [_polars_series(column) for column in value.get_columns()]


def _polars_series(value: Any) -> list[Any]:
    name, kind = value.name, str(value.dtype)
    counted = value.to_physical() if value.dtype.is_temporal() else value
    if counted.dtype.is_numeric() and not counted.dtype.is_decimal():
        return [name, kind, counted.is_null().to_numpy(), counted.fill_null(0).to_numpy()]
    return [name, kind, value.to_list()]


#: By a base's module and name: kinds whose own way of pickling shows how they lie in memory.
_SPECIAL: dict[tuple[str, str], Callable[[Any], list[Any]]] = {
    ("numpy", "MaskedArray"): _masked_array,
    ("numpy", "ndarray"): _array,
    ("numpy", "generic"): _array,
    ("pandas", "DataFrame"): _pandas_frame,
    ("pandas", "Series"): _pandas_series,
    ("pandas", "Index"): _pandas_index,
    ("polars", "DataFrame"): _polars_frame,
    ("polars", "Series"): _polars_series,
    ("pathlib", "PurePath"): lambda value: [str(value)],
}


@functools.lru_cache(maxsize=4096)
def _special_of(kind: type) -> tuple[type, Callable[[Any], list[Any]]] | None:
    for base in kind.__mro__:
        parts = _SPECIAL.get((base.__module__.partition(".")[0], base.__name__))
        if parts is not None:
            return base, parts
    return None
