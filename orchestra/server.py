"""The place of the server, which is not there yet."""

from __future__ import annotations

from orchestra.unbuilt import absent

__getattr__ = absent(
    __name__,
    "the server",
    """
    create_app
    """,
)
