"""What a server does before somebody asks: it looks at its own pages once, so that nobody waits for a first look.

Routes are built, templates compiled and statements put together when they are first needed: 200 to 400 ms of work of a
page that takes 20 from then on. What that leaves is kept out of the garbage collector's way, which would else go
through all of it every few hundred requests, and hold one of them up by 140 ms.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware

from orchestra.server import rendering
from orchestra.server.access import LOCAL

logger = logging.getLogger("orchestra.server")

_PAGES = (*(path for _, path in rendering.PARTS), "/?range=7d", "/?range=30d", "/metrics")
_LISTS = ("flow_runs", "task_runs", "flows", "deployments", "work_pools", "workers", "artifacts", "events")
#: What is looked at of a run and of a task run.
_OF_RUN = ("/runs/{}", "/runs/{}/graph.json", "/api/flow_runs/{}", "/api/flow_runs/{}/logs", "/api/flow_runs/{}/steps")
_OF_TASK_RUN = ("/task-runs/{}", "/api/task_runs/{}", "/api/task_runs/{}/logs")


@contextmanager
def warming(app: FastAPI) -> Iterator[None]:
    """Warm an application up, beside what it answers, as long as it serves."""
    is_over = threading.Event()
    # One that the end of the process does not wait for: the database may be away.
    threading.Thread(target=_warm_in_process, args=(app, is_over), name="warm-up", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def warm_up(app: FastAPI, is_over: threading.Event | None = None) -> None:
    """Look at the pages and lists of an application that has started; stops where `is_over` is set.

    Raises:
        Exception: What a page raises; the others are then not looked at.
    """
    asyncio.run(_look(app, is_over or threading.Event()))


def settle() -> None:
    """Keep all that is there now out of the garbage collector's way, for as long as the process lives."""
    gc.collect()
    gc.freeze()


def _warm_in_process(app: FastAPI, is_over: threading.Event) -> None:
    try:
        warm_up(app, is_over)
    # Nobody waits for it, and who asks for that page is told what is wrong with it.
    except Exception:
        logger.warning("the server's first look at its own pages failed", exc_info=True)
    settle()


async def _look(app: FastAPI, is_over: threading.Event) -> None:
    async def as_ourselves(scope: Any, receive: Any, send: Any) -> None:
        scope |= {"app": app, "state": {"principal": LOCAL}}
        await AsyncExitStackMiddleware(app.router)(scope, receive, send)

    # Behind the guard, since we ask ourselves.
    transport = httpx2.ASGITransport(app=as_ourselves)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        async for path in _paths(client):
            if is_over.is_set():
                return
            (await client.get(path)).raise_for_status()


async def _paths(client: httpx2.AsyncClient) -> AsyncIterator[str]:
    for path in _PAGES:
        yield path
    for kind, of_one in (("flow_runs", _OF_RUN), ("task_runs", _OF_TASK_RUN)):
        for newest in (await client.get(f"/api/{kind}?limit=1")).raise_for_status().json()["items"]:
            for path in of_one:
                yield path.format(newest["id"])
    for kind in _LISTS:
        yield f"/api/{kind}"
