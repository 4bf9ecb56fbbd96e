"""The place of concurrency limits for coroutines, which are not there yet."""

from __future__ import annotations

from orchestra.unbuilt import absent

__getattr__ = absent(
    __name__,
    "concurrency limits",
    """
    concurrency rate_limit
    """,
)
