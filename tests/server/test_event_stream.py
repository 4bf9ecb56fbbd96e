"""Events as they come, by SSE."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from orchestra.server.api import events as api
from orchestra.store import events
from orchestra.store.database import Database
from orchestra.store.events import EventFilter


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other closely."""
    monkeypatch.setattr(api, "_FAST", 0.01)
    monkeypatch.setattr(api, "_SLOW", 0.02)


def tell(database: Database, name: str) -> None:
    """Something happens."""
    database.write(lambda connection: events.record(connection, events.new(name, {events.ID: "order.42"})))


async def heard(stream: AsyncIterator[Any]) -> Any:
    """The next event."""
    async with asyncio.timeout(10):
        return json.loads((await anext(stream)).data)


def test_what_happens_is_told(database: Database) -> None:
    """To who asked for such events, from now on."""
    tell(database, "order.before")

    async def listen() -> None:
        closing = anyio.Event()
        stream = api.follow(database, EventFilter(events=("order.*",)), database.now(), closing)
        tell(database, "parcel.sent")
        tell(database, "order.shipped")
        assert (await heard(stream))["event"] == "order.shipped"
        closing.set()
        assert [each async for each in stream] == []

    asyncio.run(listen())


def test_who_comes_back_misses_nothing(database: Database) -> None:
    """From the id of the last one on: some may come again."""

    async def listen() -> None:
        stream = api.follow(database, EventFilter(), database.now() - 60, anyio.Event())
        tell(database, "order.shipped")
        last = (await anext(stream)).id
        tell(database, "order.paid")
        again = api.follow(database, EventFilter(), float(str(last)), anyio.Event())
        assert {(await heard(again))["event"] for _ in range(2)} == {"order.shipped", "order.paid"}

    asyncio.run(listen())
