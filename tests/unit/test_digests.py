"""Digests of values: equal where values are equal, in every process; different where they differ."""

from __future__ import annotations

import enum
import functools
import os
import subprocess
import sys
import time as time_of_process
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from orchestra.digests import digest
from orchestra.errors import NoDigest
from tests.exploring import tries
from tests.helpers import ROOT

T = TypeVar("T")
Pair = namedtuple("Pair", "a b")


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Flags(enum.Flag):
    A = 1
    B = 2


@dataclass
class Point:
    x: int
    y: int = 0
    tags: set[str] = field(default_factory=set)

    @functools.cached_property
    def length(self) -> float:
        return (self.x**2 + self.y**2) ** 0.5


@dataclass
class Other:
    x: int
    y: int = 0
    tags: set[str] = field(default_factory=set)


class Model(BaseModel):
    name: str
    price: Decimal = Decimal(1)


class Box(BaseModel, Generic[T]):
    value: T


class Plain:
    """An object with attributes, and nothing else."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


class Measured(np.ndarray):  # type: ignore[type-arg]
    """An array with an attribute, as libraries of units have them."""

    unit: str


def measured(unit: str) -> Any:
    found = np.arange(3).view(Measured)
    found.unit = unit
    return found


class Mapped(pd.DataFrame):
    """A frame that keeps more than its columns."""

    _metadata = ["projection"]  # noqa: RUF012 - as pandas documents it

    def __init__(self, projection: str) -> None:
        super().__init__({"n": [1, 2]})
        self.projection = projection


def without_second(given: pd.DataFrame) -> pd.DataFrame:
    """The frame without its second number, which may still lie under what says so."""
    given.loc[1, "n"] = pd.NA
    return given


def padded(filling: int) -> Any:
    """Records with bytes between their fields that mean nothing."""
    kind = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    found = np.full(2 * kind.itemsize, filling, dtype="u1").view(kind)
    found["a"], found["b"] = 1, 2.5
    return found


def named(x: int) -> int:
    return x


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"n": [1, 2], "s": ["a", "b"], **columns})


#: Values of which no two are the same, and what the digest of each is made from, anew in each process.
DIFFERENT: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "one": lambda: 1,
    "true": lambda: True,
    "float": lambda: 1.0,
    "text": lambda: "1",
    "text-wide": lambda: "\U0001f600",
    "text-in-halves": lambda: "\ud83d\ude00",
    "bytes": lambda: b"1",
    "bytearray": lambda: bytearray(b"1"),
    "decimal": lambda: Decimal(1),
    "decimal-2": lambda: Decimal("1.0"),
    "complex": lambda: 1 + 0j,
    "nan": lambda: float("nan"),
    "huge": lambda: 10**5000,
    "list": lambda: [1],
    "tuple": lambda: (1,),
    "looks-tagged": lambda: {"$": "tuple", "v": [1]},
    "looks-escaped": lambda: {"$$": "tuple", "v": [1]},
    "set": lambda: {1, 2, "a", "b"},
    "frozenset": lambda: frozenset({1, 2, "a", "b"}),
    "dict": lambda: {"b": 1, "a": [1, {"d": 2, "c": 3}]},
    "dict-of-ints": lambda: {2: "b", 1: "a"},
    "dict-of-texts": lambda: {"2": "b", "1": "a"},
    "ordered": lambda: OrderedDict(a=1, b=2),
    "ordered-2": lambda: OrderedDict(b=2, a=1),
    "counter": lambda: Counter("abracadabra"),
    "defaultdict": lambda: defaultdict(list, a=[1]),
    "deque": lambda: deque([1], maxlen=3),
    "datetime": lambda: datetime(2026, 1, 2, 3),  # noqa: DTZ001
    "datetime-utc": lambda: datetime(2026, 1, 2, 3, tzinfo=UTC),
    "datetime-zone": lambda: datetime(2026, 1, 2, 3, tzinfo=ZoneInfo("Europe/Vienna")),
    "datetime-offset": lambda: datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=1))),
    "date": lambda: date(2026, 1, 2),
    "time": lambda: time(1, 2),
    "timedelta": lambda: timedelta(seconds=1),
    "uuid": lambda: UUID(int=1),
    "path": lambda: Path("a/b"),
    "range": lambda: range(3),
    "slice": lambda: slice(1, 2),
    "enum": lambda: Colour.RED,
    "enum-2": lambda: Colour.GREEN,
    "flags": lambda: Flags.A | Flags.B,
    "class": lambda: Colour,
    "namedtuple": lambda: Pair(1, 2),
    "dataclass": lambda: Point(1, 2, {"x", "y", "z"}),
    "dataclass-2": lambda: Point(1, 2),
    "other-dataclass": lambda: Other(1, 2),
    "model": lambda: Model(name="a"),
    "model-2": lambda: Model(name="b"),
    "generic-model": lambda: Box[int](value=1),
    "generic-model-2": lambda: Box[str](value="1"),
    "object": lambda: Plain(a=1, b={"x", "y", "z"}),
    "object-2": lambda: Plain(a=2),
    "function": lambda: named,
    "builtin": lambda: len,
    "lambda": lambda: lambda x: x + 1,
    "lambda-2": lambda: lambda x: x + 2,
    "partial": lambda: functools.partial(named, 1),
    "partial-2": lambda: functools.partial(named, 2),
    "method": lambda: Point(1).__eq__,
    "array": lambda: np.arange(6).reshape(2, 3),
    "array-flat": lambda: np.arange(6),
    "array-float": lambda: np.arange(6.0),
    "array-objects": lambda: np.array(["a", None], dtype=object),
    "array-records": lambda: np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "array-measured": lambda: measured("m"),
    "array-measured-2": lambda: measured("km"),
    "array-masked": lambda: np.ma.array([1, 999_999], mask=[False, True]),
    "array-masked-2": lambda: np.ma.array([1, 999_999], mask=[False, False]),
    "array-long": lambda: np.array([np.longdouble(1) / 3]),
    "array-long-2": lambda: np.array([np.longdouble(1) / 3 + np.finfo(np.longdouble).eps]),
    "numpy-int": lambda: np.int64(1),
    "numpy-float": lambda: np.float64(1),
    "frame": lambda: frame(),
    "frame-2": lambda: frame(n=[1, 3]),
    "frame-float": lambda: frame(n=[1.0, 2.0]),
    "frame-index": lambda: frame().set_index("s"),
    "frame-category": lambda: frame(s=pd.Categorical(["a", "b"])),
    "frame-times": lambda: frame(t=pd.date_range("2026-01-01", periods=2, tz="UTC")),
    "frame-mapped": lambda: Mapped("north"),
    "frame-mapped-2": lambda: Mapped("south"),
    "frame-times-2": lambda: frame(t=pd.date_range("2026-01-01", periods=2, tz="Europe/Vienna")),
    "frame-times-3": lambda: frame(t=[pd.Timestamp("2026-01-01", tz="UTC"), pd.NaT]),
    "frame-periods": lambda: frame(t=pd.period_range("2026-01", periods=2, freq="M")),
    "frame-periods-2": lambda: frame(t=pd.period_range("2026-01", periods=2, freq="D")),
    "frame-missing": lambda: frame(n=pd.array([1, None], dtype="Int64")),
    "frame-missing-2": lambda: frame(n=pd.array([1, 0], dtype="Int64")),
    "frame-missing-3": lambda: frame(n=pd.array([True, None], dtype="boolean")),
    "frame-levels": lambda: frame().set_index(["n", "s"]),
    "frame-levels-2": lambda: frame().set_index(["s", "n"]),
    "frame-tuples": lambda: frame().set_axis(pd.Index([(1, "a"), (2, "b")], tupleize_cols=False)),
    "series": lambda: pd.Series([1, 2], name="n"),
    "polars": lambda: pl.DataFrame({"n": [1.0, None], "t": [datetime(2026, 1, 1, tzinfo=UTC), None]}),
    "polars-2": lambda: pl.DataFrame({"n": [1.0, 0.0], "t": [datetime(2026, 1, 1, tzinfo=UTC), None]}),
    "polars-3": lambda: pl.DataFrame({"n": [1.0, float("nan")], "t": [datetime(2026, 1, 1, tzinfo=UTC), None]}),
    "polars-4": lambda: pl.DataFrame({"n": [1.0, None], "t": [datetime(2026, 1, 1), None]}),  # noqa: DTZ001
    "polars-texts": lambda: pl.Series("s", ["a", None]),
    "polars-kinds": lambda: pl.Series("s", ["a", None], dtype=pl.Categorical),
    "polars-decimals": lambda: pl.Series("s", [Decimal("1.1"), None]),
    "timestamp": lambda: pd.Timestamp("2026-01-01"),
    "nat": lambda: pd.NaT,
}


def test_different_values_have_different_digests() -> None:
    """Not even 1, 1.0, True and "1" are taken for each other."""
    found = {name: digest(make()) for name, make in DIFFERENT.items()}

    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_value_made_again_has_the_same_digest(name: str) -> None:
    """What counts is the value, not the object."""
    assert digest(DIFFERENT[name]()) == digest(DIFFERENT[name]())


@pytest.mark.services
def test_another_process_has_the_same_digests() -> None:
    """Under another hash seed, too."""
    code = "from tests.unit.test_digests import *; print(*(digest(make()) for make in DIFFERENT.values()))"

    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, text=True, capture_output=True, cwd=ROOT, env=env
        )
        assert done.stdout.split() == [digest(make()) for make in DIFFERENT.values()]


#: As they are for good: another version of Python, or of orchestra, has the same.
GOLDEN = {
    "dict": "e23f8d4197e06fb14090fd7ae275b6f9f4e8449202851dab79c411cb3426d4a2",
    "set": "d5753fa1d3b10eebadbe04b439d15c4325252a4b8bcb3bec200b8644fc5cfb45",
    "dataclass": "fa31d0c00a756b4e5ba3be9a3ccaa4ec5d461afc0c3454602d88ee66c9c9b9a0",
    "model": "46ecb909f176f57c567e36dbf03dbae0adce5a9f8749f21759b9edbbd471278f",
    "datetime-zone": "98ae3515f8d29f05e008a431b4fb5fd522bd4277a36af2c9fad43f85cc2c6888",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_digests_stay_as_they_are(name: str) -> None:
    """An entry of the cache is found by the next version, too."""
    assert digest(DIFFERENT[name]()) == GOLDEN[name]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": (1,), "b": 2}, {"b": 2, "a": (1,)}),
        ({1: "a", 2: "b"}, {2: "b", 1: "a"}),
        ({3, 1, 2}, {1, 2, 3}),
        (Counter(a=1, b=2), Counter(b=2, a=1)),
        (Model(name="a"), Model(name="a", price=Decimal(1))),
        (np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))),
        (np.arange(3, dtype="<i4"), np.arange(3, dtype=">i4")),
        (np.arange(10)[::2], np.array([0, 2, 4, 6, 8])),
        (padded(0), padded(255)),
        (pd.Index([0, 1]), pd.RangeIndex(2)),
        (pl.concat([pl.Series([1]), pl.Series([None, 3])], rechunk=False), pl.Series([1, None, 3])),
        (frame().set_index(["n", "s"]), pd.concat([frame(), frame()]).set_index(["n", "s"]).iloc[:2]),
        (frame(n=pd.array([1, None], dtype="Int64")), without_second(frame(n=pd.array([1, 7], dtype="Int64")))),
        (frame(), pd.concat([frame()[["n"]], frame()[["s"]]], axis=1)),
    ],
)
def test_order_and_layout_do_not_count(one: Any, other: Any) -> None:
    """Dicts and sets in any order, arrays and frames however they lie in memory."""
    assert digest(one) == digest(other)


def test_a_frame_is_read_as_a_whole() -> None:
    """A million moments, missing numbers or pairs of an index are not looked at one by one: it takes half a minute."""
    many = 1_000_000
    times = pd.date_range("2026-01-01", periods=many, freq="s", tz="UTC")
    pairs = pd.MultiIndex.from_product([range(1000), range(1000)])
    large = pd.DataFrame({"at": times, "n": pd.Series([None], dtype="Int64").repeat(many).array}, index=pairs)

    began = time_of_process.process_time()
    digest(large)

    assert time_of_process.process_time() - began < 5


def test_shared_parts_count_as_equal_ones() -> None:
    """A list that holds one object twice is equal to one that holds two equal objects."""
    part = [1]

    assert digest([part, part]) == digest([[1], [1]])


def test_a_cached_property_does_not_count() -> None:
    """It is computed from what counts."""
    looked_at = Point(3, 4)
    assert looked_at.length == 5

    assert digest(looked_at) == digest(Point(3, 4))


def itself() -> Any:
    found: list[Any] = []
    found.append(found)
    return found


def local() -> Any:
    class Local:
        pass

    return Local()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (itself, "contains itself"),
        (local, "is not found under its name"),
        (lambda: (x for x in ()), "has no parts to tell it by"),
        (lambda: open(os.devnull), "has no parts to tell it by"),  # noqa: SIM115 - closed below
    ],
)
def test_what_cannot_be_told_apart_has_no_digest(make: Callable[[], Any], why: str) -> None:
    """Rather no digest than one that two values share."""
    value = make()
    with pytest.raises(NoDigest, match=why):
        digest([value])
    getattr(value, "close", lambda: None)()


_leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
_keys = st.text(max_size=3) | st.integers() | st.booleans()
_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=12,
)


def shown(value: Any) -> Any:
    """A value in a form in which equality tells types apart, and dicts by content."""
    if isinstance(value, dict):
        return ("dict", frozenset((repr(key), shown(part)) for key, part in value.items()))
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *map(shown, value))
    return (type(value).__name__, repr(value))


@settings(max_examples=tries(300), deadline=None)
@given(_values, _values)
def test_digests_are_equal_just_where_values_are(one: Any, other: Any) -> None:
    """For all nested values, types told apart."""
    assert (digest(one) == digest(other)) == (shown(one) == shown(other))
