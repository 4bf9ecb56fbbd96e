"""Results: where an encoded value is kept, by its size."""

from __future__ import annotations

from orchestra import settings
from orchestra.errors import ValueTooLarge
from orchestra.unbuilt import absent

__getattr__ = absent(__name__, "result storage", "ResultStore ResultRecord ResultRecordMetadata get_result_store")


def split(data: bytes, *, what: str = "the result") -> tuple[bytes | None, bool]:
    """What goes into the row: `(data, False)`, or `(None, True)` where it belongs into the blobs table.

    Args:
        data: An encoded value.
        what: How an error names it.

    Raises:
        ValueTooLarge: It is over the `result_max_bytes` of the settings.
    """
    caps = settings.current()
    check_size(data, what, caps.result_max_bytes)
    fits = len(data) <= caps.result_inline_max_bytes
    return (data, False) if fits else (None, True)


def check_parameters(data: bytes, *, what: str = "the set of parameters") -> bytes:
    """Encoded parameters, if they are small enough to be kept.

    Raises:
        ValueTooLarge: They are over the `parameters_max_bytes` of the settings.
    """
    return check_size(data, what, settings.current().parameters_max_bytes)


def check_size(data: bytes, what: str, cap: int) -> bytes:
    """`data`, if it has at most `cap` bytes.

    Raises:
        ValueTooLarge: It has more.
    """
    if len(data) > cap:
        raise ValueTooLarge(what, len(data), cap)
    return data
