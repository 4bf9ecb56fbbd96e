"""Live pages: one loop looks at a thing for all who watch it, and tells them what has changed, not how.

Whoever hears of a change asks for that part of the page again, as their own filters have it. Nobody watches, nothing is
looked at; what has ended is looked at no more. Hints (`store.wake`) say when to look; without them it is looked now and
then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass

import anyio
from starlette.concurrency import run_in_threadpool

from orchestra import clock
from orchestra.errors import NotFound, StoreError
from orchestra.store.wake import AsyncBell, Hint, WakeChannel

logger = logging.getLogger("orchestra.server")

#: Tells a page that nothing more comes.
END = "end"
#: Seconds between two looks: while something changes, and the longest while nothing does.
FAST, SLOW = 0.4, 2.0
#: The longest while nothing does and hints are heard, in seconds.
SELDOM = 10.0
#: Seconds until the next look when the database did not answer.
_AWAY = 5.0
#: For how long a thing that has ended is looked at still, in seconds: log lines are written up to a second later.
LINGER = 1.5


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look saw."""

    #: By the name of an event, something that is another one whenever what it stands for is.
    stamps: Mapping[str, object]
    #: It has ended, and will not change.
    is_over: bool = False


class Hub:
    """Who watches what. It belongs to one event loop."""

    def __init__(self, wake: WakeChannel | None = None) -> None:
        """Prepare.

        Args:
            wake: Of the database that is looked at; None: there are no hints.
        """
        self._wake = wake or WakeChannel(lambda: None)
        self._watches: dict[str, _Watch] = {}

    async def follow(
        self, key: str, look: Callable[[], Seen], closing: anyio.Event | None = None, hints: Iterable[Hint] = ()
    ) -> AsyncIterator[str]:
        """The names of what changes, each once at first; ends with `END` when it is over or gone.

        Args:
            key: What is watched: the same for all who share a look.
            look: Looks at it; called in a thread.
            closing: When it is set, this ends, without a word: the server stops.
            hints: That it may have changed.
        """
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = _Watch(look, AsyncBell(self._wake, *hints))
            watch.start()
        heard = watch.join()
        try:
            while True:
                name = await _next(heard, closing)
                if name is None:
                    return
                yield name
                if name == END:
                    return
        finally:
            if watch.leave(heard) and self._watches.get(key) is watch:
                del self._watches[key]

    @property
    def watched(self) -> list[str]:
        """What somebody watches now."""
        return sorted(self._watches)


async def _next(heard: asyncio.Queue[str], closing: anyio.Event | None) -> str | None:
    """The next name; None if the server stops before there is one."""
    if closing is None:
        return await heard.get()
    name, stop = asyncio.ensure_future(heard.get()), asyncio.ensure_future(closing.wait())
    try:
        await asyncio.wait({name, stop}, return_when=asyncio.FIRST_COMPLETED)
        return name.result() if name.done() else None
    finally:
        name.cancel()
        stop.cancel()


class _Watch:
    """One thing, and the queues of those who watch it."""

    def __init__(self, look: Callable[[], Seen], bell: AsyncBell) -> None:
        self._look, self._bell = look, bell
        self._queues: list[asyncio.Queue[str]] = []
        self._stamps: dict[str, object] = {}
        self._is_over = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def join(self) -> asyncio.Queue[str]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        # Their page was made before: what has changed since then is not known.
        for name in self._stamps:
            queue.put_nowait(name)
        if self._is_over:
            queue.put_nowait(END)
        self._queues.append(queue)
        return queue

    def leave(self, queue: asyncio.Queue[str]) -> bool:
        """Forget one who watched; whether nobody does any more."""
        self._queues.remove(queue)
        if self._queues:
            return False
        if self._task is not None:
            self._task.cancel()
        return True

    async def _run(self) -> None:
        async with self._bell:
            await self._watch()
        self._is_over = True
        for queue in self._queues:
            queue.put_nowait(END)

    async def _watch(self) -> None:
        """Look until it is over."""
        pause, over_at = FAST, None
        while True:
            try:
                seen = await run_in_threadpool(self._look)
            except NotFound:
                return
            except Exception as error:
                # Those who watch wait on; a page that is loaded again says itself what is wrong.
                known = isinstance(error, StoreError)
                logger.warning("a live page could not be looked at: %s", error, exc_info=None if known else error)
                await asyncio.sleep(_AWAY)
                continue
            changed = self._tell(seen)
            if seen.is_over:
                over_at = over_at or clock.monotonic() + LINGER
                if clock.monotonic() >= over_at:
                    return
            pause = FAST if changed or seen.is_over else min(pause * 1.3, SLOW)
            await self._bell.wait(pause, FAST if seen.is_over else SELDOM, least=FAST)

    def _tell(self, seen: Seen) -> bool:
        changed = [name for name, stamp in seen.stamps.items() if self._stamps.get(name, self) != stamp]
        self._stamps.update(seen.stamps)
        for queue in self._queues:
            for name in changed:
                queue.put_nowait(name)
        return bool(changed)
