"""How values become bytes and come back: an envelope whose first byte says what follows.

`j` is plain JSON. `t` (typed JSON), `p` (a pickle) and `x` (an exception) are signed: 32 bytes of HMAC-SHA256,
then the body. A signature is checked before anything named in the body is imported or loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from orchestra import lazy, typed_values
from orchestra.errors import OrchestraError, ResultCorrupt, SerializationError
from orchestra.names import clean_text as clean_text
from orchestra.previews import preview as preview
from orchestra.signing import key_fingerprint as key_fingerprint
from orchestra.signing import secret_key as secret_key
from orchestra.signing import sign, verified
from orchestra.typed_values import StepRef as StepRef

_door: Callable[[str], Any] = lru_cache(maxsize=None)(lazy.load)


def encode(value: Any, *, what: str = "the result") -> bytes:
    """The value as bytes that `decode` gives back equal and of the same types.

    Args:
        what: What the value is, for error messages.

    Raises:
        SerializationError: Some part of it cannot be kept; names its type and place.
    """
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
    if kind not in (b"t", b"p", b"x"):
        raise ResultCorrupt(f"a stored value of {len(data):,} bytes begins with {kind!r}, which is no kind of value")
    body = verified(data)
    if kind == b"t":
        return typed_values.loads(body)
    return _door("pickle_loads" if kind == b"p" else "exception_loads")(body)


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
