"""The place of concurrency limits for plain functions, which are not there yet."""

from __future__ import annotations

from orchestra.unbuilt import absent

__getattr__ = absent(
    __name__,
    "concurrency limits",
    """
    concurrency rate_limit
    """,
)
