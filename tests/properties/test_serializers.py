"""Whatever goes through the serialiser comes back alike."""

from __future__ import annotations

import contextlib
import enum
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from orchestra import settings
from orchestra.errors import ResultCorrupt, SerializationError, SignatureInvalid
from orchestra.serializers import StepRef, clean_text, decode, decode_exception, encode, encode_exception, preview


@pytest.fixture(autouse=True, scope="module")
def _key() -> Iterator[None]:
    """A key for all examples."""
    settings.override(secret_key="for these tests only")
    yield
    settings.reset()


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Box:
    content: Any


@dataclass(slots=True, eq=True)
class Slotted:
    content: Any


class Pair(NamedTuple):
    left: Any
    right: Any


class Model(BaseModel):
    content: Any
    other: Any = None


TEXT = st.text(st.characters(), max_size=8) | st.text(st.sampled_from('\0\ud800\udfff\ud83d\ude00$v😀"\\'), max_size=6)
HASHABLE_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT
    | st.binary(max_size=20)
    | st.decimals()
    | st.complex_numbers()
    | st.uuids()
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.timedeltas()
    | st.fractions()
    | st.sampled_from(Colour)
    | st.builds(Path, st.text("ab/\udcff", max_size=6))
    | st.builds(StepRef, TEXT, st.booleans())
)
HASHABLE = st.recursive(
    HASHABLE_LEAVES.filter(lambda value: not (hasattr(value, "is_snan") and value.is_snan())),
    lambda inner: (
        st.tuples(inner, inner)
        | st.frozensets(inner, max_size=3)
        | st.builds(Box, inner)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=4,
)
VALUES = st.recursive(
    HASHABLE_LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(TEXT, inner, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.sets(HASHABLE, max_size=3)
        | st.tuples(inner, inner)
        | st.builds(Box, inner)
        | st.builds(Slotted, inner)
        | st.builds(Pair, inner, inner)
        | st.builds(Model, content=inner)
    ),
    max_leaves=12,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=15,
)


def shape(value: Any) -> Any:
    """A value as text that tells types, NaN, signs of zero and lone surrogates apart, and sets in one order."""
    kind = type(value)
    if kind in (set, frozenset):
        inner: Any = sorted(map(shape, value))
    elif kind is dict:
        inner = [(shape(key), shape(part)) for key, part in value.items()]
    elif isinstance(value, (list, tuple)):
        inner = list(map(shape, value))
    elif kind in (Box, Slotted):
        inner = shape(value.content)
    elif kind is Model:
        inner = [shape(value.content), sorted(value.model_fields_set)]
    elif kind is float and math.isnan(value):
        inner = "nan"
    else:
        inner = ascii(value) + ascii(getattr(value, "tzinfo", "")) + ascii(getattr(value, "fold", ""))
    return f"{kind.__qualname__}:{inner}"


@given(VALUES)
def test_every_value_comes_back_equal_and_of_the_same_types(value: Any) -> None:
    """Decoding undoes encoding, down to types, NaN and lone surrogates."""
    assert shape(decode(encode(value))) == shape(value)


@given(JSON)
def test_plain_json_comes_back_unsigned(value: Any) -> None:
    """What JSON can say is plain JSON, and is shown as it is."""
    data = encode(value)

    assert data[:1] == b"j"
    assert shape(decode(data)) == shape(value)


@given(VALUES)
def test_encoding_is_repeatable(value: Any) -> None:
    """Encoding what was decoded gives the same bytes, so that fingerprints can be compared."""
    data = encode(value)

    if data[:1] != b"p":
        assert encode(decode(data)) == data


@given(VALUES)
def test_every_preview_is_strict_json_that_utf8_can_carry(value: Any) -> None:
    """A browser can read every preview."""
    json.dumps(preview(encode(value)), allow_nan=False, ensure_ascii=False).encode("utf-8")


@given(st.data(), VALUES.map(lambda value: (value,)))
def test_a_tampered_value_is_never_read(data: st.DataObject, value: Any) -> None:
    """Any one changed or missing byte is found."""
    encoded = encode(value)
    place = data.draw(st.integers(0, len(encoded) - 1))
    bits = data.draw(st.integers(1, 255))
    changed = encoded[:place] + bytes([encoded[place] ^ bits]) + encoded[place + 1 :]

    for damaged in (changed, encoded[:place]):
        with pytest.raises((SignatureInvalid, ResultCorrupt)):
            decode(damaged)


@given(st.binary(max_size=200))
def test_noise_is_never_more_than_a_clear_error(noise: bytes) -> None:
    """Arbitrary bytes in the database decode, or raise a SerializationError; and they have a preview."""
    preview(noise)
    with contextlib.suppress(SerializationError):
        decode(noise)


@given(st.sampled_from([ValueError, KeyError, OSError, RuntimeError]), st.lists(VALUES, max_size=3))
def test_exceptions_come_back_alike_now_and_later(kind: type[Exception], args: list[Any]) -> None:
    """What the body sees at first is what replay gives."""
    data, now = encode_exception(kind(*args))
    later = decode_exception(data)

    assert type(now) is type(later)
    assert shape(now.args) == shape(later.args)


@given(TEXT)
def test_clean_text_can_be_stored_and_is_stable(text: str) -> None:
    """Databases take it, and cleaning twice is cleaning once."""
    cleaned = clean_text(text)

    assert "\0" not in cleaned
    assert cleaned.encode("utf-8").decode("utf-8") == cleaned == clean_text(cleaned)
