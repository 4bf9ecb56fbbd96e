"""Encoding, signing, keys, exceptions and previews, case by case."""

from __future__ import annotations

import enum
import fractions
import pickle
import stat
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pytest
from pydantic import BaseModel, ConfigDict, PrivateAttr, RootModel

from orchestra import results, settings, signing
from orchestra.errors import (
    ResultCorrupt,
    SerializationError,
    SignatureInvalid,
    TaskFailed,
    UpstreamFailed,
    ValueTooLarge,
)
from orchestra.serializers import (
    StepRef,
    clean_text,
    decode,
    decode_exception,
    encode,
    encode_exception,
    key_fingerprint,
    preview,
    secret_key,
)
from orchestra.states import Completed


@pytest.fixture(autouse=True)
def home(tmp_path: Path) -> Iterator[Path]:
    """A home of its own for every test."""
    settings.override(home=tmp_path, secret_key="")
    yield tmp_path
    settings.reset()


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.0


@dataclass(slots=True)
class Order:
    id: UUID
    lines: list[Point] = field(default_factory=list)


@dataclass
class Counted:
    made = 0
    n: int = 0

    def __post_init__(self) -> None:
        Counted.made += 1


class Pair(NamedTuple):
    left: Any
    right: Any


Bare = namedtuple("Bare", ["one"])


class Customer(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str
    orders: tuple[int, ...] = ()
    _secret: int = PrivateAttr(default=7)


class Rows(RootModel[list[int]]):
    pass


class Shouting(str):
    """A subclass of str, which JSON would flatten."""


class NoLoad:
    """Pickles, and fails at loading."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


class Link:
    def __init__(self, following: Any) -> None:
        self.following = following


class NeedsTwo(Exception):
    def __init__(self, code: int, text: str, *, sent: bool) -> None:
        super().__init__(f"{code}: {text}")
        self.code, self.sent = code, sent


class Doubled(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(f"it failed: {text}")


class FoundByCode(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "no such file", path)


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


VALUES: list[Any] = [
    None, True, 0, -1, 2**70, 1.5, -0.0, 1e300, "", "text", [], {}, [1, [2, [3]]], {"a": {"b": [None]}},
    "a\0b", "\ud800", "\ud83d\ude00", "😀", {"\udfff": "\0"},
    float("inf"), float("-inf"), 10**5000, -(10**5000),
    (), (1, (2,)), set(), {1, 2}, frozenset({"a"}), b"", b"\x00\xff", b"x" * 200_000, bytearray(b"ab"),
    {1: "a", (2, 3): "b", None: "c", 1.5: "d"}, {"$": 1}, {"$": "tuple", "v": [1]}, [{"$": {"$": ()}}],
    datetime(2026, 11, 22, 1, 2, 3, 4), datetime(2026, 11, 22, tzinfo=UTC),  # noqa: DTZ001 - a naive one, on purpose
    datetime(2026, 7, 1, tzinfo=ZoneInfo("Europe/Berlin")), datetime(2026, 7, 1, tzinfo=timezone(timedelta(hours=-3))),
    datetime(2026, 7, 1, tzinfo=timezone(timedelta(hours=1), "X")), date(1, 1, 1), time(23, 59, tzinfo=UTC),
    timedelta.min, timedelta(microseconds=1), Decimal("1.10"), Decimal("-Infinity"), Decimal("1E+1000"),
    UUID(int=5), Path("/tmp/\udcff"), complex(1, float("inf")), Colour.RED, Level.HIGH, Right.READ,
    Right.READ | Right.WRITE, Point(1, 2.5), [Order(UUID(int=1), [Point(1)])], Pair(1, (2,)), Bare({3}),
    Customer(name="Ann", orders=(1, 2), extra="more"), Rows([1, 2]), StepRef("main/load-0", allow_failure=True),
    fractions.Fraction(1, 3), Shouting("hey"), range(3), np.float64(1.5), slice(1, 2), {"mixed": (range(2), Point(1))},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_come_back_equal_and_of_the_same_type(value: Any) -> None:
    """What is decoded is what was encoded."""
    back = decode(encode(value))

    assert (type(back), back) == (type(value), value)


def test_nan_comes_back_as_nan() -> None:
    """NaN, also deep inside, and signed zeros keep what they are."""
    back = decode(encode([float("nan"), {"deep": (float("nan"),)}, Decimal("sNaN")]))

    assert back[0] != back[0]
    assert back[1]["deep"][0] != back[1]["deep"][0]
    assert back[2].is_snan()


def _frames() -> list[Any]:
    index = pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["letter", "number"])
    times = pd.date_range("2026-03-28", periods=4, freq="12h", tz="Europe/Paris")
    kinds = pd.Categorical(["x", "y", "x", None], categories=["y", "x", "z"], ordered=True)
    frame = pd.DataFrame({"n": [1, 2, 3, 4], "at": times, "kind": kinds, "maybe": [1.5, None, None, 2.0]}, index=index)
    return [frame, frame["kind"], frame.astype({"maybe": "Float64"}), frame.set_index("at"), pd.DataFrame()]


ARRAYS = [
    np.arange(6).reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
    np.array(["2026-01-01", "NaT"], dtype="M8[ns]"),
    np.array([(1, 2.5, "x")], dtype=[("a", "i4"), ("b", "f8"), ("c", "U3")]),
    np.array([1, "a", None, [2]], dtype=object),
    np.array(3.5),
    np.zeros((0, 3), dtype="f2"),
    np.array([1j, np.nan]),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.kind}{array.ndim}")
def test_arrays_come_back(array: Any) -> None:
    """Of whatever type and shape."""
    back = decode(encode({"array": array}))["array"]

    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("frame", _frames())
def test_pandas_frames_come_back(frame: Any) -> None:
    """With their indexes, categories and time zones."""
    back = decode(encode({"frame": frame}))["frame"]

    equal: Any = pd.testing.assert_series_equal if isinstance(frame, pd.Series) else pd.testing.assert_frame_equal
    equal(back, frame, check_exact=True)


def test_polars_frames_come_back() -> None:
    """With their schema, and null told from NaN."""
    frame = pl.DataFrame(
        {
            "n": [1.0, float("nan"), None],
            "l": [[1], [], None],
            "d": [Decimal("1.10"), None, None],
            "k": ["a", "b", "a"],
        },
        schema_overrides={"k": pl.Enum(["b", "a"])},
    )

    back = decode(encode([frame]))[0]

    assert back.schema == frame.schema
    assert back.equals(frame)


def test_functions_and_local_classes_come_back() -> None:
    """What cannot be imported is pickled by value."""

    @dataclass
    class Local:
        n: int

    assert decode(encode(lambda n: n + 1))(1) == 2
    assert decode(encode([Local(3)]))[0].n == 3


@pytest.mark.parametrize("value", [Customer(name="Ann"), Rows([1]), Point(1), Order(UUID(int=1)), Pair(1, 2)])
def test_types_that_can_be_imported_are_kept_as_readable_json(value: Any) -> None:
    """Not as pickles, so that people can see them."""
    assert encode(value)[:1] == b"t"


def test_models_keep_extra_private_and_unset_fields() -> None:
    """A pydantic model comes back with all that makes it up."""
    customer = Customer(name="Ann", nick="A")
    customer._secret = 9

    back = decode(encode(customer))

    assert (back.nick, back._secret, back.model_fields_set) == ("A", 9, {"name", "nick"})


def test_a_model_that_lacks_a_field_comes_back_so() -> None:
    """`model_construct` checks nothing."""
    back = decode(encode(Customer.model_construct(orders=(1,))))

    assert (vars(back), back.model_fields_set) == ({"orders": (1,)}, {"orders"})


def test_dataclasses_come_back_without_their_constructor() -> None:
    """Neither `__init__` nor `__post_init__` runs again."""
    data = encode(Counted(4))
    before = Counted.made

    assert decode(data).n == 4
    assert Counted.made == before


def test_a_value_that_holds_itself_comes_back_so() -> None:
    """Cycles are kept, by pickle, and take no time to find."""
    tree: dict[str, Any] = {"children": []}
    tree["children"] = [{"parent": tree} for _ in range(5)]

    back = decode(encode(tree))

    assert back["children"][4]["parent"] is back


def test_a_value_shared_many_times_over_is_not_written_many_times_over() -> None:
    """A list of two of a list of two of… has 2^60 leaves, and is encoded at once."""
    value: list[Any] = ["leaf"]
    for _ in range(60):
        value = [value, value]

    assert len(encode(value)) < 10_000


def test_equal_sets_give_equal_bytes() -> None:
    """Insertion order of a set does not show in its bytes."""
    assert encode({"a", "b", "c", "d"}) == encode({"d", "c", "b", "a"})


# -- what cannot be kept -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "type_name"), [(threading.Lock(), "lock"), ((n for n in "ab"), "generator")])
def test_what_cannot_be_serialised_is_named(value: Any, type_name: str) -> None:
    """The error names the type, the place in the value, and what the value is."""
    with pytest.raises(SerializationError, match=rf"the result, a dict, .*\['rows'\]\[1\] is a .*{type_name}"):
        encode({"rows": [1, value]})


def test_an_attribute_that_cannot_be_serialised_is_named() -> None:
    """Places inside objects are told too."""
    customer = Customer(name="x", handle=threading.Lock())

    with pytest.raises(SerializationError, match=r"the parameters, a tests.*Customer.*lock"):
        encode(customer, what="the parameters")


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"k": inner}, lambda inner: (inner,)])
@pytest.mark.parametrize("levels", [201, 100_000])
def test_deep_nesting_is_a_clear_error(wrap: Callable[[Any], Any], levels: int) -> None:
    """Beyond 200 levels the error says so, and the stack does not run over."""
    value: Any = 1
    for _ in range(levels):
        value = wrap(value)

    with pytest.raises(SerializationError, match="200 levels"):
        encode(value)


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: (inner,)])
def test_two_hundred_levels_come_back(wrap: Callable[[Any], Any]) -> None:
    """The depth that is promised is there."""
    value: Any = 1
    for _ in range(200):
        value = wrap(value)

    assert decode(encode(value)) == value


def test_an_object_nested_beyond_pickle_is_a_clear_error() -> None:
    """A linked list of 100,000 objects is refused, not a RecursionError."""
    chain: Any = None
    for _ in range(100_000):
        chain = Link(chain)

    with pytest.raises(SerializationError):
        encode(chain)


def test_what_fails_at_loading_is_a_clear_error() -> None:
    """An object whose pickle does not load says why."""
    with pytest.raises(SerializationError, match="invalid literal"):
        decode(encode(NoLoad()))


# -- what was tampered with --------------------------------------------------------------------------------------


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_signed_with_another_key_is_never_loaded(tmp_path: Path) -> None:
    """The signature is checked first, so the payload has no effect."""
    forged = b"p" + bytes(32) + pickle.dumps(Touch(tmp_path / "touched"))

    with pytest.raises(SignatureInvalid):
        decode(forged)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("kind", [b"t", b"x"])
def test_a_signed_pickle_is_not_read_as_another_kind_nor_the_reverse(tmp_path: Path, kind: bytes) -> None:
    """A signature holds for one kind of value only."""
    signed = signing.sign(kind, pickle.dumps(Touch(tmp_path / "touched")))

    with pytest.raises(SignatureInvalid):
        decode(b"p" + signed[1:])
    assert not (tmp_path / "touched").exists()


def test_an_unknown_type_is_not_imported_before_the_signature_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forged type name imports nothing."""
    (tmp_path / "gadget_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    body = b'{"$":"dataclass","t":"gadget_module:Gadget","v":{}}'

    with pytest.raises(SignatureInvalid):
        decode(b"t" + bytes(32) + body)
    assert "gadget_module" not in sys.modules


@pytest.mark.parametrize("path", ["os:system", "subprocess:Popen", "builtins:dict", f"{__name__}:Touch"])
@pytest.mark.parametrize("tag", ["dataclass", "model", "enum", "namedtuple"])
def test_a_signed_name_of_something_else_is_refused(tag: str, path: str) -> None:
    """Even signed, a name is only used for what its tag says."""
    with pytest.raises(SerializationError, match="no longer a"):
        decode(signing.sign(b"t", f'{{"$":"{tag}","t":"{path}","v":{{}}}}'.encode()))


@pytest.mark.parametrize("value", [(1, 2), fractions.Fraction(1, 2)])
def test_every_changed_byte_is_found(value: Any) -> None:
    """No byte of a signed value can be changed."""
    data = encode(value)

    for place in range(len(data)):
        with pytest.raises((SignatureInvalid, ResultCorrupt)):
            decode(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


@pytest.mark.parametrize("data", [b"", b"j", b"t", b"p123", b"z{}", b"j{", b"j\xff", b"j" + b"[" * 100_000])
def test_damaged_values_are_called_corrupt(data: bytes) -> None:
    """What `encode` cannot have written is a clear error."""
    with pytest.raises(ResultCorrupt):
        decode(data)


def test_a_field_that_was_removed_or_added_with_a_default_is_bridged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of a dataclass that has changed are read where that is safe."""
    data = encode(Point(1, 2.0))

    @dataclass(frozen=True)
    class Newer:
        x: int
        z: list[int] = field(default_factory=list)

    Newer.__qualname__ = "Point"
    monkeypatch.setattr(sys.modules[__name__], "Point", Newer)

    assert decode(data) == Newer(1, [])


# -- keys --------------------------------------------------------------------------------------------------------


def test_the_key_is_made_readable_by_its_owner_only(home: Path) -> None:
    """The first use makes it, mode 0600, and leaves nothing else."""
    key = secret_key()

    assert stat.S_IMODE((home / "secret.key").stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == ["secret.key"]
    assert len(key) == 64


def test_processes_that_start_together_agree_on_one_key(home: Path) -> None:
    """Whoever is second takes the key of the first."""
    code = "from orchestra.serializers import key_fingerprint; input(); print(key_fingerprint())"
    environ = {"ORCHESTRA_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

    assert {process.communicate(timeout=60)[0].strip() for process in started} == {key_fingerprint()}
    assert [path.name for path in home.iterdir()] == ["secret.key"]


def test_another_key_reads_nothing_that_was_signed() -> None:
    """Values of another installation are refused; plain data is not signed."""
    signed, plain = encode((1, 2)), encode([1, 2])
    fingerprint = key_fingerprint()

    settings.override(secret_key="another")

    with pytest.raises(SignatureInvalid, match="ORCHESTRA_SECRET_KEY"):
        decode(signed)
    assert decode(plain) == [1, 2]
    assert key_fingerprint() != fingerprint


def test_the_key_of_a_file_is_the_key_of_the_setting(home: Path) -> None:
    """What stands in the file may be given to another host as ORCHESTRA_SECRET_KEY."""
    fingerprint = key_fingerprint()

    settings.override(secret_key=(home / "secret.key").read_text().strip())

    assert key_fingerprint() == fingerprint


# -- exceptions --------------------------------------------------------------------------------------------------


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """The error, once it was raised."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def test_exceptions_come_back_with_cause_notes_and_traceback() -> None:
    """What a debugger needs is kept."""
    error = raised(KeyError("k"), cause=ValueError("v"))
    error.add_note("for order 7")

    data, now = encode_exception(error)

    for back in (now, decode_exception(data)):
        assert (type(back), back.args) == (KeyError, ("k",))
        assert isinstance(back.__cause__, ValueError)
        assert back.__notes__[0] == "for order 7"
        assert "in raised" in back.__notes__[1]


def test_an_exception_journaled_twice_keeps_its_first_traceback_only() -> None:
    """A task's exception that its flow raises again does not grow."""
    _, once = encode_exception(raised(ValueError("v")))
    _, twice = encode_exception(raised(once))

    assert len(twice.__notes__) == 1


@pytest.mark.parametrize("error", [NeedsTwo(3, "no", sent=True), Doubled("no")])
def test_an_exception_comes_back_whatever_its_class_is_called_with(error: Exception) -> None:
    """A class of the user's own, as most are written, is caught by its type; what it carries is there."""
    error.add_note("for order 7")
    data, now = encode_exception(raised(error))

    for back in (now, decode_exception(data)):
        assert (type(back), str(back), back.args) == (type(error), str(error), error.args)
        assert back.__notes__[0] == "for order 7"
        assert {**vars(back), "__notes__": []} == {**vars(error), "__notes__": []}


@pytest.mark.parametrize("error", [FoundByCode("a"), ValueError(threading.Lock())])
def test_an_exception_that_does_not_survive_pickling_becomes_text(error: Exception) -> None:
    """Both now and from the journal it is a TaskFailed with type, message and traceback."""
    data, now = encode_exception(raised(error))
    back = decode_exception(data)

    assert isinstance(now, TaskFailed)
    assert isinstance(back, TaskFailed)
    assert now.args == back.args
    assert now.type_name.endswith(type(error).__name__)
    assert "in raised" in now.traceback
    assert now.message == str(error)


def test_an_exception_without_text_is_kept() -> None:
    """An exception whose `__str__` fails does no harm."""
    assert type(encode_exception(raised(Silent("x")))[1]) is Silent


def test_a_cause_that_does_not_survive_becomes_text() -> None:
    """The exception itself comes back whole."""
    _, back = encode_exception(raised(ValueError("v"), cause=ValueError(threading.Lock())))

    assert type(back) is ValueError
    assert isinstance(back.__cause__, TaskFailed)


def test_exceptions_that_cause_each_other_end() -> None:
    """A circle of causes is kept once."""
    first, second = ValueError(1), ValueError(2)
    first.__cause__, second.__cause__ = second, first

    _, back = encode_exception(first)

    assert back.__cause__ is not None
    assert back.__cause__.__cause__ is None


def test_an_exception_of_a_class_that_is_gone_becomes_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot import the class still learns what happened."""
    data, _ = encode_exception(raised(UpstreamFailed("load", "no file")))
    monkeypatch.delattr("orchestra.errors.UpstreamFailed")

    back = decode_exception(data)

    assert isinstance(back, TaskFailed)
    assert "load" in back.message


def test_what_is_no_exception_is_refused_where_one_is_expected() -> None:
    """A value in an exception's place is damage."""
    with pytest.raises(ResultCorrupt, match="a list is stored"):
        decode_exception(encode([1]))


# -- for people --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        ({"a": [1, "x"], "$": 2}, {"a": [1, "x"], "$": 2}),
        ("a\0\ud800", "a\\x00\\ud800"),
        ((1, float("nan")), [1, "nan"]),
        ({1: Point(1), (2,): b"ab"}, {"1": {"x": 1, "y": 0.0}, "[2]": "<bytes, 2 bytes>"}),
        (Colour.RED, "Colour.RED"),
        (Customer(name="Ann"), {"name": "Ann", "orders": []}),
        (datetime(2026, 7, 1, tzinfo=UTC), "2026-07-01T00:00:00+00:00"),
        (timedelta(hours=1), "1:00:00"),
        (StepRef("main/load-0"), "<result of main/load-0>"),
    ],
)
def test_previews_are_plain_json(value: Any, shown: Any) -> None:
    """What people see has no tags, no NaN and no text that a browser refuses."""
    assert preview(encode(value)) == shown


def test_previews_load_nothing(tmp_path: Path) -> None:
    """A pickle, an unknown type, damage: each has a view, and none an effect."""
    forged = b"p" + bytes(32) + pickle.dumps(Touch(tmp_path / "touched"))

    assert preview(forged) == f"<pickle, {len(forged) - 33} bytes>"
    assert preview(b"t" + bytes(32) + b'{"$":"dataclass","t":"nowhere:X","v":{"a":1}}') == {"a": 1}
    assert preview(b"j{") == "<unreadable, 2 bytes>"
    assert preview(None) is None
    assert not (tmp_path / "touched").exists()


def test_previews_of_exceptions_show_type_message_and_traceback() -> None:
    """Also for the server, which may not unpickle."""
    shown = preview(encode_exception(raised(KeyError("k")))[0])

    assert (shown["type"], shown["message"]) == ("KeyError", "'k'")
    assert "in raised" in shown["traceback"]


def test_clean_text_changes_only_what_databases_refuse() -> None:
    """NUL and lone surrogates become text; all else stays."""
    assert clean_text("a\0b\ud800é😀\n") == "a\\x00b\\ud800é😀\n"


def test_states_come_back() -> None:
    """A state is a value like any other."""
    state = Completed(data={"n": (1,)})

    assert decode(encode(state)) == state


# -- sizes -------------------------------------------------------------------------------------------------------


def test_results_go_to_row_blob_or_error_by_size() -> None:
    """The caps of the settings decide."""
    settings.override(result_inline_max_bytes=10, result_max_bytes=20)

    assert results.split(b"x" * 10) == (b"x" * 10, False)
    assert results.split(b"x" * 11) == (None, True)
    with pytest.raises(ValueTooLarge, match="the result is 21 bytes"):
        results.split(b"x" * 21)


def test_parameters_have_a_cap() -> None:
    """Parameters beyond it are refused."""
    settings.override(parameters_max_bytes=10)

    with pytest.raises(ValueTooLarge, match="the set of parameters is 11 bytes"):
        results.check_parameters(b"x" * 11)
