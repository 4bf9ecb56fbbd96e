"""Waiting for what nobody tells of: look, again and again, until it is so or the time is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from orchestra import clock

#: How often is looked, in seconds.
_POLL = 0.02


def poll(look: Callable[[], bool], timeout: float | None) -> bool:
    """Come back once `look` gives true; false where `timeout` seconds (None: without an end) were over first."""
    end = end_of(timeout)
    while not look():
        if end is not None and clock.monotonic() >= end:
            return False
        time.sleep(_POLL)
    return True


async def poll_async(look: Callable[[], bool], timeout: float | None) -> bool:
    """As `poll`, holding up the calling coroutine only."""
    end = end_of(timeout)
    while not look():
        if end is not None and clock.monotonic() >= end:
            return False
        await asyncio.sleep(_POLL)
    return True


def end_of(timeout: float | None) -> float | None:
    """When a wait that begins now is over, on the monotonic clock; None: never."""
    return None if timeout is None else clock.monotonic() + timeout
