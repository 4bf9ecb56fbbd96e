"""Live pages: one look for all who watch, and none for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import pytest

from orchestra.errors import FlowRunNotFound
from orchestra.server import live
from orchestra.server.live import END, Hub, Seen
from orchestra.store.database import Database
from orchestra.store.wake import RUN, note
from tests import servers
from tests.helpers import wait_until


class Thing:
    """Something that changes, and counts how often it is looked at."""

    def __init__(self) -> None:
        self.stamps: dict[str, object] = {"state": 1, "logs": 1}
        self.is_over = self.is_gone = False
        self.looks = 0

    def look(self) -> Seen:
        """As a page's."""
        self.looks += 1
        if self.is_gone:
            raise FlowRunNotFound("gone")
        return Seen(dict(self.stamps), self.is_over)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other closely."""
    monkeypatch.setattr(live, "FAST", 0.005)
    monkeypatch.setattr(live, "SLOW", 0.01)
    monkeypatch.setattr(live, "LINGER", 0.02)


async def heard(names: AsyncIterator[str], number: int) -> list[str]:
    """The next so many events."""
    async with asyncio.timeout(10):
        return [await anext(names) for _ in range(number)]


def test_all_who_watch_hear_of_a_change() -> None:
    """Each hears everything once at first, then what has changed."""

    async def watch() -> None:
        thing, hub = Thing(), Hub()
        first, second = hub.follow("x", thing.look), hub.follow("x", thing.look)
        assert await heard(first, 2) == ["state", "logs"]
        assert await heard(second, 2) == ["state", "logs"]
        thing.stamps["logs"] = 2
        assert [await heard(each, 1) for each in (first, second)] == [["logs"], ["logs"]]
        assert hub.watched == ["x"]
        for each in (first, second):
            await each.aclose()  # type: ignore[attr-defined]
        assert hub.watched == []
        looks = thing.looks
        await asyncio.sleep(0.05)
        assert thing.looks <= looks + 1

    asyncio.run(watch())


@pytest.mark.parametrize("how", ["is_over", "is_gone"])
def test_what_is_over_is_looked_at_no_more(how: str) -> None:
    """Whoever watches is told, and so is who comes then."""

    async def watch() -> None:
        thing, hub = Thing(), Hub()
        names: Any = hub.follow("x", thing.look)
        await heard(names, 2)
        setattr(thing, how, True)
        assert await heard(names, 1) == [END]
        with pytest.raises(StopAsyncIteration):
            await anext(names)
        assert hub.watched == []

    asyncio.run(watch())


@pytest.fixture
def pair(postgres: servers.Postgres, postgres_template: str) -> Iterator[tuple[Database, Database]]:
    """A database as two processes have it."""
    name = postgres.create(template=postgres_template)
    with closing(Database(postgres.url(name))) as ours, closing(Database(postgres.url(name))) as theirs:
        yield ours, theirs
    postgres.drop(name)


@pytest.mark.services
def test_a_change_in_another_process_is_told_by_its_hint(
    pair: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks without one: a page that is open and quiet costs nothing."""
    monkeypatch.setattr(live, "SELDOM", 60.0)
    ours, theirs = pair

    async def watch() -> None:
        thing, hub = Thing(), Hub(ours.wake)
        names: Any = hub.follow("x", thing.look, None, [(RUN, "a")])
        with ours.wake.bell((RUN, "a")) as bell:
            await heard(names, 2)
            await asyncio.to_thread(wait_until, lambda: bell.is_live, "hints to be heard")
        looks = thing.looks
        for number in range(5):
            thing.stamps["state"] = f"changed {number}"
            await asyncio.to_thread(theirs.write, lambda connection: note(connection, RUN, "a"))
            assert await heard(names, 1) == ["state"]
        # Each by its hint, but one that may have been seen when hints began to be heard.
        assert thing.looks <= looks + 7
        await names.aclose()

    asyncio.run(watch())
