"""The place of cache policies, which are not there yet."""

from __future__ import annotations

from orchestra.unbuilt import absent

__getattr__ = absent(
    __name__,
    "caching",
    """
    CachePolicy INPUTS TASK_SOURCE RUN_ID FLOW_PARAMETERS NO_CACHE NONE DEFAULT
    """,
)
