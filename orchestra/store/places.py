"""Where a page by time ended: the `next` of one call, and the `after` of the one behind it."""

from __future__ import annotations

from typing import NamedTuple

from orchestra.errors import ParameterError


class Place(NamedTuple):
    """The last row of a page, by its time and its key. It may be gone before the next page is asked for."""

    #: In seconds since the epoch.
    at: float
    key: str

    def __str__(self) -> str:
        return f"{self.at!r}/{self.key}"


def read(text: str | None) -> Place | None:
    """The place that a text names; None for none.

    Raises:
        ParameterError: No page has given it.
    """
    if text is None:
        return None
    at, _, key = text.partition("/")
    try:
        return Place(float(at), key)
    except ValueError as error:
        raise ParameterError(f"after={text!r} is not the `next` of a page") from error
