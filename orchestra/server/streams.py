"""Answers that do not end by themselves (SSE): they end with the server, and once who asked may be told no more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import anyio
from fastapi import Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from orchestra.errors import StoreError
from orchestra.server.doorkeeper import Doorkeeper

logger = logging.getLogger("orchestra.server")

#: Seconds between two looks at whether who follows a stream may still do so.
RECHECK = 5.0


def stream(request: Request, events: Callable[[anyio.Event], AsyncIterator[ServerSentEvent]]) -> Response:
    """The answer that sends these events as they come.

    Args:
        events: Gives them; ends once the event it is given is set.
    """
    closing = anyio.Event()

    async def watched() -> AsyncIterator[ServerSentEvent]:
        watching = asyncio.create_task(_close_when_out(request, closing))
        try:
            async for each in events(closing):
                yield each
        finally:
            watching.cancel()

    return EventSourceResponse(watched(), ping=15, shutdown_event=closing, shutdown_grace_period=1.0)


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Return when one of these is done; the others are cancelled."""
    tasks = {asyncio.create_task(each) for each in waits}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _close_when_out(request: Request, closing: anyio.Event) -> None:
    """End a stream once who follows it may not any more: the session is over, the key is gone, the scope another."""
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    principal = request.state.principal
    while not closing.is_set():
        await asyncio.sleep(RECHECK)
        try:
            is_out = await doorkeeper.identify(request) != principal
        except StoreError as error:
            # As requests are, streams are closed to whom we cannot know; the browser asks again.
            logger.warning("a stream is closed, as nobody can be known now: %s", error)
            is_out = True
        if is_out:
            closing.set()
