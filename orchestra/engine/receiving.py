"""Waiting for a message by looking again and again: outside of flow bodies on workers, which are woken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from orchestra import clock, serializers
from orchestra.errors import InputTimeout
from orchestra.questions import Receive
from orchestra.store import inputs
from orchestra.store.database import Database

#: How often to look, in seconds.
POLL = 0.1


async def receive(
    database: Database, run_id: str, wanted: Receive, taker: str, check: Callable[[], None] = lambda: None
) -> Any:
    """The next message to a run: a dictionary of `value`, `key` and `sender`.

    Args:
        run_id: The run that it was sent to.
        taker: The name under which it is taken; used for this message only.
        check: Called before each look; what it raises ends the wait.

    Raises:
        FlowRunNotFound: There is no such run.
        InputTimeout: None came in time.
    """
    end = clock.monotonic() + wanted.timeout
    while True:
        check()
        content = inputs.take(database, run_id, wanted, taker)
        if content is not None:
            return serializers.decode(content)
        left = end - clock.monotonic()
        if left <= 0:
            raise InputTimeout(f"flow run {run_id} was sent no input within {wanted.timeout:g} s")
        await asyncio.sleep(min(POLL, left))
