"""The place of variables, which are not there yet."""

from __future__ import annotations

from orchestra.unbuilt import absent

__getattr__ = absent(
    __name__,
    "variables",
    """
    Variable
    """,
)
