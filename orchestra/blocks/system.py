"""The place of the built-in blocks, which are not there yet."""

from __future__ import annotations

from orchestra.unbuilt import absent

__getattr__ = absent(
    __name__,
    "blocks",
    """
    Secret JSON String DateTime Webhook
    """,
)
