"""Flows whose results are kept in one way or another."""

from __future__ import annotations

import enum
import pickle
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy
import pandas
import polars
from pydantic import BaseModel
from sqlalchemy import text

from orchestra import flow, task
from orchestra.transactions import db_transaction

MIB = 1024 * 1024

#: What bodies did, in order.
calls: list[Any] = []
#: Where the flows here keep results, by option.
PLACE: dict[str, Any] = {}


class Reversed:
    """A serializer of one's own: pickles, written backwards."""

    def dumps(self, obj: Any) -> bytes:
        return pickle.dumps(obj)[::-1]

    def loads(self, blob: bytes) -> Any:
        return pickle.loads(blob[::-1])


class Kinds:
    """A serializer that keeps of a value what kind it is: of any, also of those that nothing else can write."""

    def dumps(self, obj: Any) -> bytes:
        return type(obj).__name__.encode()

    def loads(self, blob: bytes) -> Any:
        return blob.decode()


class Unwilling:
    """A serializer that cannot write."""

    def dumps(self, obj: Any) -> bytes:
        raise ValueError("not today")

    def loads(self, blob: bytes) -> Any:
        raise ValueError("not today")


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    at: datetime


class Order(BaseModel):
    id: uuid.UUID
    price: Decimal
    tags: set[str]


WHEN = datetime(2026, 3, 29, 1, 30, tzinfo=timezone(timedelta(hours=2)))
#: Values of types that users return, by name.
VALUES: dict[str, Any] = {
    "model": Order(id=uuid.UUID(int=7), price=Decimal("1.10"), tags={"a"}),
    "dataclass": Point(1, WHEN),
    "datetime": WHEN,
    "date": date(2026, 1, 1),
    "timedelta": timedelta(days=1, microseconds=1),
    "decimal": Decimal("0.10"),
    "uuid": uuid.UUID(int=3),
    "bytes": b"\x00\xff",
    "set": {1, 2},
    "frozenset": frozenset({"a"}),
    "tuple": (1, "a", (2,)),
    "enum": Colour.RED,
    "none": None,
    "nested": {"points": [Point(2, WHEN.astimezone(UTC))], 1: (b"x", {Colour.RED})},
    "array": numpy.arange(6, dtype="float32").reshape(2, 3),
    "numpy scalar": numpy.float32(0.5),
    "pandas": pandas.DataFrame({"a": [1, 2], "t": pandas.to_datetime(["2026-01-01", "2026-01-02"])}),
    "series": pandas.Series([1.5, None], name="s"),
    "polars": polars.DataFrame({"a": [1, 2], "b": ["x", None]}),
}


def alike(one: Any, other: Any) -> bool:
    """Whether two values are of the same type, and equal."""
    if type(one) is not type(other):
        return False
    if isinstance(one, numpy.ndarray):
        return one.dtype == other.dtype and bool(numpy.array_equal(one, other))
    return bool(one.equals(other)) if hasattr(one, "equals") else bool(one == other)


@task
def give(name: str) -> Any:
    return VALUES[name]


@flow(persist_result=True)
def giving(name: str, submitted: bool) -> Any:
    return give.submit(name).result() if submitted else give(name)


@task
def noise(size: int) -> bytes:
    calls.append("noise")
    return bytes(range(256)) * (size // 256)


def placed(decorated: Any, **options: Any) -> Any:
    """A flow or task that keeps its results in the storage of this test."""
    return decorated.with_options(result_storage=PLACE["storage"], **options)


@flow
def keeping(size: int, submitted: bool = False) -> int:
    """A result in the storage, from a direct call or a submitted one."""
    kept = placed(noise)
    return len(kept.submit(size).result() if submitted else kept(size))


@flow(persist_result=True)
def large(size: int) -> bytes:
    return noise(size)


@task(persist_result=True)
def lock() -> Any:
    import threading

    return threading.Lock()


@flow
def locking() -> str:
    lock()
    return "went on"


@task(result_storage_key="out-{parameters[x]}.json")
def square(x: Any) -> Any:
    calls.append(x)
    return {"x": x, "square": x * x if isinstance(x, int) else None}


@flow
def squaring(x: Any, submitted: bool = False) -> Any:
    kept = placed(square)
    return kept.submit(x).result() if submitted else kept(x)


@task(result_storage_key="lock-{parameters[x]}")
def keyed_lock(x: int) -> Any:
    import threading

    return threading.Lock()


@flow
def keyed_locking() -> str:
    placed(keyed_lock)(1)
    return "went on"


@task(result_storage_key="committed")
def commit() -> int:
    with db_transaction() as session:
        session.execute(text("SELECT 1"))
    return 1


@flow
def committing() -> int:
    return int(placed(commit)())


@task
def value_of(value: Any) -> Any:
    calls.append("value_of")
    return value


@flow
def by(serializer: Any, value: Any) -> Any:
    """A result by some serializer."""
    return value_of.with_options(result_serializer=serializer)(value)


@flow
def unheld(size: int) -> list[Any]:
    future = noise.with_options(persist_result=True, cache_result_in_memory=False).submit(size)
    one, other = future.result(), future.result()
    return [len(one), len(other), one is other]


@flow
def held(size: int) -> bool:
    future = noise.with_options(persist_result=True).submit(size)
    return future.result() is future.result()


@flow
def sizes(storage: str, size: int) -> list[int]:
    """Results in a storage that is told, from a direct call and a submitted one, and read in another process."""
    kept = noise.with_options(result_storage=storage)
    direct = kept(size)
    submitted = kept.submit(2 * size)
    return [length(direct), length.submit(submitted).result(), len(submitted.result())]


@task
def length(value: bytes) -> int:
    return len(value)
