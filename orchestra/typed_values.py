"""Typed JSON: values that JSON has no form for, written as `{"$": tag, …}` so that they come back equal and alike.

Written are the built-in kinds of `_LEAVES` and `_NESTS`, and enums, dataclasses, pydantic models and named tuples
that can be imported by `module:qualname`. Subclasses of built-in kinds, and objects with pickling rules of
their own, are `Unfit`. Reading imports the types named, so only signed text may be read.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from orchestra import lazy
from orchestra.errors import SerializationError
from orchestra.specs import path_of

#: The key that marks an object of ours; a user's dict that has it is written as pairs.
TAG = "$"
#: Deepest nesting of a value.
MAX_DEPTH = 200
#: Bytes above which base64 in JSON costs too much.
_BYTES_MAX = 64 * 1024
#: Bits up to which an int may stand as decimal digits (Python refuses to read over 4,300 of them).
_DECIMAL_BITS = 14_000
#: Containers that may occur again in one value before it is left to pickle, which writes each once.
_REPEATS_MAX = 10_000

_SCALARS = frozenset({type(None), bool, int, float, str})
_STR = frozenset({str})

Json = Any
Write = Callable[[Any], Json]
Node = dict[str, Any]


class Unfit(Exception):
    """The value has no typed form: a verdict, upon which it is pickled."""


@dataclass(frozen=True, slots=True)
class StepRef:
    """A future inside encoded arguments: the step whose value stands here once it is there."""

    step_key: str
    allow_failure: bool = False


# -- text --------------------------------------------------------------------------------------------------------

_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))
_decoder = json.JSONDecoder()


def to_json(value: Json) -> bytes:
    """Compact JSON; lone surrogates are kept as they are.

    Raises:
        ValueError: NaN, infinity or an int of too many digits is in it.
    """
    return _encoder.encode(value).encode("utf-8", "surrogatepass")


def from_json(data: bytes | memoryview) -> Json:
    """What `to_json` wrote.

    Raises:
        ValueError: It is not JSON.
        RecursionError: It is nested too deeply.
    """
    return _decoder.decode(str(data, "utf-8", "surrogatepass"))


def is_plain(value: Any) -> bool:
    """Whether JSON itself gives the value back alike (NaN, infinity and huge ints aside); by exact types."""
    if type(value) in _SCALARS:
        return True
    level, met = [value], {id(value)}
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for part in level:
            parts = _parts(part)
            if parts is None:
                return False
            if not _SCALARS.issuperset(map(type, parts)):
                below += [inner for inner in parts if type(inner) not in _SCALARS]
        if not below:
            return True
        before = len(met)
        met.update(map(id, below))
        if len(met) != before + len(below):
            return False  # shared or cyclic: `dumps` looks closer
        level = below
    return False


def _parts(part: Any) -> Iterable[Any] | None:
    if type(part) is list:
        return part
    if type(part) is dict and _STR.issuperset(map(type, part)):
        return part.values()
    return None


# -- writing -----------------------------------------------------------------------------------------------------


def dumps(value: Any, what: str) -> bytes:
    """The value as typed JSON.

    Raises:
        Unfit: Some part has no typed form, or the value refers to itself.
        SerializationError: It is nested too deeply; names it as `what`.
    """
    return to_json(_Writer(what).write(value))


class _Writer:
    def __init__(self, what: str) -> None:
        self.what = what
        self.open: set[int] = set()
        self.met: set[int] = set()
        self.repeats = 0

    def write(self, value: Any) -> Json:
        kind: Any = type(value)
        if leaf := _LEAVES.get(kind):
            return leaf(value)
        nest = _NESTS.get(kind) or _nest_of(kind)
        self._enter(value)
        form = nest(self.write, value)
        self.open.discard(id(value))
        return form

    def _enter(self, value: Any) -> None:
        key = id(value)
        if key in self.open:
            raise Unfit
        if key in self.met:
            self.repeats += 1
            if self.repeats > _REPEATS_MAX:
                raise Unfit
        if len(self.open) >= MAX_DEPTH:
            raise too_deep(self.what)
        self.open.add(key)
        self.met.add(key)


def too_deep(what: str) -> SerializationError:
    """The error for a value nested too deeply."""
    return SerializationError(
        f"{what} is nested more than {MAX_DEPTH} levels deep and cannot be kept; flatten it, or keep it as text"
    )


def _tagged(tag: str, value: Json, **more: Json) -> Node:
    return {TAG: tag, "v": value, **more}


def _same(value: Any) -> Json:
    return value


def _write_int(value: int) -> Json:
    return value if value.bit_length() < _DECIMAL_BITS else _tagged("int", hex(value))


def _write_float(value: float) -> Json:
    return value if math.isfinite(value) else _tagged("float", repr(value))


def _write_bytes(tag: str, value: bytes) -> Json:
    if len(value) > _BYTES_MAX:
        raise Unfit
    return _tagged(tag, base64.b64encode(value).decode())


def _write_zone(zone: tzinfo | None) -> Json:
    """None, a zone's key, or a fixed offset in microseconds."""
    if zone is None:
        return None
    if type(zone) is ZoneInfo and zone.key:
        return zone.key
    if type(zone) is timezone and zone.tzname(None) == timezone(zone.utcoffset(None)).tzname(None):
        return zone.utcoffset(None) // timedelta(microseconds=1)
    raise Unfit


def _write_moment(tag: str, value: datetime | time) -> Json:
    text = value.replace(tzinfo=None).isoformat()
    return _tagged(tag, text, z=_write_zone(value.tzinfo), f=value.fold)


def _write_list(write: Write, value: list[Any]) -> Json:
    return list(map(write, value))


def _write_dict(write: Write, value: dict[Any, Any]) -> Json:
    if _STR.issuperset(map(type, value)) and TAG not in value:
        return dict(zip(value, map(write, value.values()), strict=True))
    return _tagged("dict", [[write(key), write(part)] for key, part in value.items()])


def _write_series(tag: str, write: Write, value: Iterable[Any]) -> Json:
    return _tagged(tag, list(map(write, value)))


def _write_set(tag: str, write: Write, value: Iterable[Any]) -> Json:
    # Sorted, so that equal sets give equal bytes in every process.
    return _tagged(tag, sorted(map(write, value), key=to_json))


_LEAVES: dict[type, Callable[[Any], Json]] = {
    type(None): _same,
    bool: _same,
    str: _same,
    int: _write_int,
    float: _write_float,
    bytes: partial(_write_bytes, "bytes"),
    bytearray: partial(_write_bytes, "bytearray"),
    complex: lambda value: _tagged("complex", [_write_float(value.real), _write_float(value.imag)]),
    datetime: partial(_write_moment, "datetime"),
    time: partial(_write_moment, "time"),
    date: lambda value: _tagged("date", value.isoformat()),
    timedelta: lambda value: _tagged("timedelta", [value.days, value.seconds, value.microseconds]),
    Decimal: lambda value: _tagged("decimal", str(value)),
    UUID: lambda value: _tagged("uuid", str(value)),
    type(Path()): lambda value: _tagged("path", str(value)),
    StepRef: lambda value: _tagged("step", value.step_key, f=value.allow_failure),
}

_NESTS: dict[type, Callable[[Write, Any], Json]] = {
    list: _write_list,
    dict: _write_dict,
    tuple: partial(_write_series, "tuple"),
    set: partial(_write_set, "set"),
    frozenset: partial(_write_set, "frozenset"),
}


# -- families of types, by module:qualname -----------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _nest_of(kind: Any) -> Callable[[Write, Any], Json]:
    """How values of a class are written; the function raises `Unfit` where they are not."""
    path = path_of(kind)
    if is_importable(kind, path):
        for family, (belongs, nest) in _FAMILIES.items():
            if belongs(kind):
                return partial(nest, family, path)
    return _refuse


def is_importable(kind: type, path: str) -> bool:
    """Whether another process finds this very class at `path`."""
    if path.partition(":")[0] in ("__main__", "__mp_main__"):
        return False
    return lazy.loaded(path) is kind


def _refuse(write: Write, value: Any) -> Json:
    raise Unfit


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, enum.EnumMeta)


def _write_enum(family: str, path: str, write: Write, value: enum.Enum) -> Json:
    if type(value).__members__.get(value.name) is not value:
        raise Unfit  # a combination of flags
    return _tagged(family, value.name, t=path)


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields") and _pickles_plainly(kind)


def _write_named_tuple(family: str, path: str, write: Write, value: Any) -> Json:
    if getattr(value, "__dict__", None):
        raise Unfit
    return _tagged(family, list(map(write, value)), t=path)


def _is_model(kind: Any) -> bool:
    # A model can only exist where pydantic was imported already.
    pydantic = sys.modules.get("pydantic")
    base = getattr(pydantic, "BaseModel", None)
    return (
        base is not None
        and isinstance(kind, type)
        and issubclass(kind, base)
        and all(_inherits(kind, object, name) for name in ("__reduce__", "__reduce_ex__"))
        and all(getattr(kind, name).__module__.startswith("pydantic.") for name in ("__getstate__", "__setstate__"))
    )


def _write_model(family: str, path: str, write: Write, value: Any) -> Json:
    state = dict(value.__getstate__())
    fields, given = state.pop("__dict__"), state.pop("__pydantic_fields_set__")
    if not type(value).model_fields.keys() <= fields.keys():
        raise Unfit  # made by model_construct(): read back, it would be taken for one of an older class
    return _tagged(family, write(fields), t=path, s=sorted(given), m=write(state))


def _is_dataclass(kind: Any) -> bool:
    """Whether a class's values are their fields and nothing else."""
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__new__ is object.__new__):
        return False
    names = {field.name for field in dataclasses.fields(kind)}
    return _pickles_plainly(kind) and _slots(kind) <= names


def _slots(kind: type) -> set[str]:
    found: set[str] = set()
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        found.update([slots] if isinstance(slots, str) else slots)
    return found - {"__dict__", "__weakref__"}


def _write_dataclass(family: str, path: str, write: Write, value: Any) -> Json:
    names = [field.name for field in dataclasses.fields(value)]
    if not getattr(value, "__dict__", {}).keys() <= set(names):
        raise Unfit
    try:
        parts = [getattr(value, name) for name in names]
    except AttributeError:
        raise Unfit from None
    return _tagged(family, dict(zip(names, map(write, parts), strict=True)), t=path)


def _pickles_plainly(kind: type) -> bool:
    """Whether a class has no pickling rules of its own (those that `dataclass(slots=True)` adds do not count)."""
    states = (getattr(kind, name, None) for name in ("__getstate__", "__setstate__"))
    return all(_inherits(kind, object, name) for name in ("__reduce__", "__reduce_ex__")) and all(
        state is None or state is object.__getstate__ or getattr(state, "__module__", "") == "dataclasses"
        for state in states
    )


def _inherits(kind: type, base: type, name: str) -> bool:
    return getattr(kind, name, None) is getattr(base, name, None)


_FAMILIES: dict[str, tuple[Callable[[Any], bool], Callable[..., Json]]] = {
    "enum": (_is_enum, _write_enum),
    "namedtuple": (_is_named_tuple, _write_named_tuple),
    "model": (_is_model, _write_model),
    "dataclass": (_is_dataclass, _write_dataclass),
}


# -- reading -----------------------------------------------------------------------------------------------------


def loads(data: bytes | memoryview) -> Any:
    """The value that `dumps` wrote; imports the types it names, so its signature must have been checked.

    Raises:
        SerializationError: A type cannot be imported, is of another kind now, or has other fields.
        ValueError: It is not JSON.
    """
    return _reviver.decode(str(data, "utf-8", "surrogatepass"))


def _revive(node: Node) -> Any:
    tag = node.get(TAG)
    if tag is None:
        return node
    if reader := _READERS.get(tag):
        return reader(node)
    raise SerializationError(f"a stored value has a part of kind {tag!r}, which this version does not know")


_reviver = json.JSONDecoder(object_hook=_revive)


def _type_of(node: Node) -> Any:
    path = node["t"]
    try:
        kind = lazy.resolve(path)
    except (ImportError, AttributeError) as error:
        raise SerializationError(f"a stored value of type {path} cannot be read here: {error}") from error
    if not _FAMILIES[node[TAG]][0](kind):
        raise SerializationError(f"a stored value of type {path} cannot be read: that is no longer a {node[TAG]}")
    return kind


def _read_zone(zone: str | int | None) -> tzinfo | None:
    if zone is None:
        return None
    if isinstance(zone, str):
        return ZoneInfo(zone)
    return timezone(timedelta(microseconds=zone)) if zone else UTC


def _read_datetime(node: Node) -> datetime:
    return datetime.fromisoformat(node["v"]).replace(tzinfo=_read_zone(node["z"]), fold=node["f"])


def _read_time(node: Node) -> time:
    return time.fromisoformat(node["v"]).replace(tzinfo=_read_zone(node["z"]), fold=node["f"])


def _read_enum(node: Node) -> enum.Enum:
    kind, name = _type_of(node), node["v"]
    if name not in kind.__members__:
        raise SerializationError(f"a stored value cannot be read: {node['t']} has no member {name!r} any more")
    found: enum.Enum = kind.__members__[name]
    return found


def _read_named_tuple(node: Node) -> Any:
    kind, values = _type_of(node), node["v"]
    if len(values) != len(kind._fields):
        raise SerializationError(
            f"a stored value of type {node['t']} cannot be read: it has {len(values)} fields, the type now "
            f"{len(kind._fields)}"
        )
    return tuple.__new__(kind, values)


def _read_dataclass(node: Node) -> Any:
    kind, given = _type_of(node), node["v"]
    made = object.__new__(kind)
    for field in dataclasses.fields(kind):
        # Not by __init__, which may check, convert or have effects; and frozen ones refuse setattr.
        object.__setattr__(made, field.name, given[field.name] if field.name in given else _default(node, field))
    return made


def _default(node: Node, field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    if field.default is not dataclasses.MISSING:
        return field.default
    raise _no_value(node, field.name)


def _no_value(node: Node, name: str) -> SerializationError:
    return SerializationError(
        f"a stored value of type {node['t']} cannot be read: field {name!r} was added since, and has no default"
    )


def _read_model(node: Node) -> Any:
    kind, values = _type_of(node), node["v"]
    for name, field in kind.model_fields.items():
        if name not in values:
            if field.is_required():
                raise _no_value(node, name)
            values[name] = field.get_default(call_default_factory=True, validated_data=values)
    made = kind.__new__(kind)
    made.__setstate__({"__dict__": values, "__pydantic_fields_set__": set(node["s"]), **node["m"]})
    return made


_READERS: dict[str, Callable[[Node], Any]] = {
    "int": lambda node: int(node["v"], 16),
    "float": lambda node: float(node["v"]),
    "bytes": lambda node: base64.b64decode(node["v"]),
    "bytearray": lambda node: bytearray(base64.b64decode(node["v"])),
    "complex": lambda node: complex(*node["v"]),
    "datetime": _read_datetime,
    "time": _read_time,
    "date": lambda node: date.fromisoformat(node["v"]),
    "timedelta": lambda node: timedelta(*node["v"]),
    "decimal": lambda node: Decimal(node["v"]),
    "uuid": lambda node: UUID(node["v"]),
    "path": lambda node: Path(node["v"]),
    "step": lambda node: StepRef(node["v"], node["f"]),
    "dict": lambda node: {key: value for key, value in node["v"]},
    "tuple": lambda node: tuple(node["v"]),
    "set": lambda node: set(node["v"]),
    "frozenset": lambda node: frozenset(node["v"]),
    "enum": _read_enum,
    "namedtuple": _read_named_tuple,
    "model": _read_model,
    "dataclass": _read_dataclass,
}
