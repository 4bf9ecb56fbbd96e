"""Verbs that work in plain functions and in coroutines alike: there they block, here they are awaited."""

from __future__ import annotations

import sys
from collections.abc import Generator


class Done:
    """An awaitable that has nothing left to wait for."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


def in_coroutine() -> bool:
    """Whether an event loop runs in this thread."""
    # Without asyncio loaded none can run; nothing is loaded just to learn that.
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None
