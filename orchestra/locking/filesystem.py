"""The place of the lock manager over files, which is not there yet."""

from __future__ import annotations

from orchestra.unbuilt import absent

__getattr__ = absent(
    __name__,
    "locks of caches",
    """
    FileSystemLockManager
    """,
)
