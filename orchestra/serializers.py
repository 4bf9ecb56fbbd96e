"""How values become bytes and come back: an envelope whose first byte says what follows.

`j` is plain JSON. `t` (typed JSON), `p` (a pickle), `x` (an exception), `z` (another envelope, compressed) and `o` (a
serializer of one's own) are signed: 32 bytes of HMAC-SHA256, then the body. A signature is checked before anything
named in the body is imported, loaded or unpacked.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

from orchestra import lazy, typed_values
from orchestra.errors import DefinitionError, OrchestraError, ResultCorrupt, SerializationError
from orchestra.names import clean_text as clean_text
from orchestra.previews import preview as preview
from orchestra.signing import key_fingerprint as key_fingerprint
from orchestra.signing import secret_key as secret_key
from orchestra.signing import sign, verified
from orchestra.typed_values import StepRef as StepRef

#: The serializers that have a name.
NAMES = tuple(f"{before}{name}" for before in ("", "compressed/") for name in ("auto", "json", "pickle"))
#: Of zlib, from 1 (quick) to 9 (small).
_LEVEL = 3


@runtime_checkable
class Serializer(Protocol):
    """A serializer of one's own: a class without arguments, at the top level of a module that workers can import."""

    def dumps(self, obj: Any) -> bytes:
        """The object as bytes."""
        ...

    def loads(self, blob: bytes) -> Any:
        """The object that `dumps` was given; in any process, and in later versions of the class."""
        ...


_door: Callable[[str], Any] = lru_cache(maxsize=None)(lazy.load)


def encode(value: Any, *, what: str = "the result", serializer: str = "auto") -> bytes:
    """The value as bytes that `decode` gives back equal and of the same types.

    Args:
        what: What the value is, for error messages.
        serializer: One of `NAMES`, or the `module:qualname` of a class of the user's.

    Raises:
        SerializationError: Some part of it cannot be kept; names its type and place.
    """
    if serializer != "auto":
        return _encode_by(serializer, value, what)
    try:
        if typed_values.is_plain(value):
            return b"j" + typed_values.to_json(value)
    except ValueError:
        pass  # NaN, infinity or a huge int, which typed JSON holds
    try:
        return sign(b"t", typed_values.dumps(value, what))
    except typed_values.Unfit:
        return sign(b"p", _door("pickle_dumps")(value, what))
    except RecursionError as error:
        raise typed_values.too_deep(what) from error
    except RuntimeError as error:
        raise SerializationError(f"{what} was changed by another thread meanwhile: {error}") from error


def _encode_by(serializer: str, value: Any, what: str) -> bytes:
    """As `encode`, by another serializer than `auto`."""
    before, slash, inner = serializer.partition("compressed/")
    if slash and not before:
        return sign(b"z", zlib.compress(encode(value, what=what, serializer=inner), _LEVEL))
    if serializer == "pickle":
        return sign(b"p", _door("pickle_dumps")(value, what))
    if serializer == "json":
        return _encode_json(value, what)
    return _encode_own(serializer, value, what)


def _encode_json(value: Any, what: str) -> bytes:
    data = encode(value, what=what)
    if is_pickle(data):
        raise SerializationError(
            f"{what} holds what JSON, even with types, has no form for (its type is {type(value).__qualname__}): say "
            'result_serializer="auto" or "pickle", or return plain data'
        )
    return data


def _encode_own(path: str, value: Any, what: str) -> bytes:
    try:
        body = _own(path).dumps(value)
    except OrchestraError:
        raise
    except Exception as error:
        raise SerializationError(f"{what} cannot be encoded by {path}: {type(error).__name__}: {error}") from error
    if not isinstance(body, bytes):
        raise SerializationError(f"{what} cannot be encoded by {path}: its dumps() gave no bytes, but {type(body)!r}")
    name = path.encode()
    # Who can read it stands before it, so that a process that cannot says what it lacks.
    return sign(b"o", b"".join((len(name).to_bytes(2, "big"), name, body)))


def _decode_own(body: memoryview) -> Any:
    end = 2 + int.from_bytes(body[:2], "big")
    path = str(body[2:end], "utf-8")
    own = _own(path)
    try:
        return own.loads(bytes(body[end:]))
    except Exception as error:
        raise ResultCorrupt(f"a stored value cannot be read by {path}: {type(error).__name__}: {error}") from error


def _own(path: str) -> Serializer:
    try:
        found: Serializer = lazy.resolve(path)()
    except Exception as error:
        raise SerializationError(
            f"the serializer {path} cannot be had in this process ({type(error).__name__}: {error}): it must be a "
            "class that can be imported here and made without arguments"
        ) from error
    return found


def serializer_option(given: Any) -> str:
    """What `result_serializer=` means, as `encode` takes it.

    Args:
        given: One of `NAMES`, or a class with `dumps` and `loads`, or an instance without settings of its own.

    Raises:
        DefinitionError: It is none of these, or other processes could not find it.
    """
    if isinstance(given, str):
        if given in NAMES or ":" in given:
            return given
        raise DefinitionError(
            f"result_serializer={given!r} is none of {', '.join(NAMES)}: say one of them, or give a class that has "
            "dumps and loads"
        )
    own = given if isinstance(given, type) else type(given)
    if not (callable(getattr(own, "dumps", None)) and callable(getattr(own, "loads", None))):
        raise DefinitionError(f"result_serializer={given!r} has not both of dumps(obj) and loads(blob)")
    if own is not given and getattr(given, "__dict__", None):
        raise DefinitionError(
            f"result_serializer={given!r} has settings of its own, which a process that reads could not know: make a "
            "subclass that sets them, and give that"
        )
    if "<" in own.__qualname__ or own.__module__ == "__main__":
        raise DefinitionError(
            f"result_serializer={own.__qualname__} must be importable where results are read: put it at the top level "
            "of a module"
        )
    return f"{own.__module__}:{own.__qualname__}"


def is_json(data: bytes) -> bool:
    """Whether an encoded value is plain JSON."""
    return data[:1] == b"j"


def is_pickle(data: bytes) -> bool:
    """Whether an encoded value holds more than JSON, typed or not, can say."""
    return data[:1] not in (b"j", b"t")


def decode(data: bytes) -> Any:
    """The value that `encode` (or `encode_exception`) wrote.

    Raises:
        SignatureInvalid: It was signed with another key, or changed; nothing of it was loaded.
        ResultCorrupt: It is not what `encode` writes.
        SerializationError: A type that it needs cannot be imported here, or is another one now.
    """
    try:
        if data[:1] == b"j":
            return typed_values.from_json(data[1:])
        return _decode_signed(data)
    except OrchestraError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ResultCorrupt(f"a stored value of {len(data):,} bytes cannot be read: {error}") from error


def _decode_signed(data: bytes) -> Any:
    kind = data[:1]
    if kind not in (b"t", b"p", b"x", b"z", b"o"):
        raise ResultCorrupt(f"a stored value of {len(data):,} bytes begins with {kind!r}, which is no kind of value")
    body = verified(data)
    if kind == b"t":
        return typed_values.loads(body)
    if kind == b"o":
        return _decode_own(body)
    if kind == b"z":
        return decode(_unpacked(body))
    return _door("pickle_loads" if kind == b"p" else "exception_loads")(body)


def _unpacked(body: memoryview) -> bytes:
    try:
        return zlib.decompress(body)
    except zlib.error as error:
        raise ResultCorrupt(f"a stored value of {len(body):,} compressed bytes cannot be read: {error}") from error


def encode_exception(error: BaseException) -> tuple[bytes, BaseException]:
    """An exception as bytes, and as it will come back from them.

    One that does not survive pickling comes back as `TaskFailed` with its type, message and traceback as
    text. Else it keeps its causes and notes, and has its traceback as a note.
    """
    data = sign(b"x", _door("exception_dumps")(error))
    return data, decode_exception(data)


def decode_exception(data: bytes) -> BaseException:
    """The exception that `encode_exception` wrote; each call gives a new one.

    Raises:
        SignatureInvalid: It was signed with another key, or changed; nothing of it was loaded.
        ResultCorrupt: It is not what `encode_exception` writes.
    """
    found = decode(data)
    if not isinstance(found, BaseException):
        raise ResultCorrupt(f"an exception was expected, but a {type(found).__name__} is stored")
    return found
