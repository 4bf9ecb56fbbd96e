"""The wake channel: hints that something has changed, for whoever waits for it in another process.

A hint says where to look, never what is there: the rows do. It is sent after the commit, by a thread of its own, many
at once. Whoever waits looks by itself now and then, so a hint that is lost costs that pause; and often, as long as
hints cannot be heard. Where nobody waits, nothing listens, and where no channel is, nothing is sent.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Self

from sqlalchemy.engine import Connection

from orchestra import clock
from orchestra.store.wake_channels import MOST_CHARACTERS, Channel, Deaf

logger = logging.getLogger("orchestra.store")

#: A flow run has come into another state, by its id.
RUN = "run"
#: Something in a flow run has: a step, a log line, an artifact; by the run's id.
STEP = "step"
#: A holder has the slots that it has waited for, by its key.
SLOT = "slot"
#: An event was written; without an id.
EVENT = "event"

#: A kind, and the id of what it is about.
Hint = tuple[str, str]
#: In the place of ids: any of them.
ANY = "*"

#: That something has happened: changes of state are events, too.
ANYTHING: tuple[Hint, ...] = ((RUN, ANY), (STEP, ANY), (EVENT, ANY))

#: How often one who can be woken looks by itself, in seconds.
BACKSTOP = 2.0
#: Ids that one message may hold: they are 36 characters long, or somewhat more.
_MOST_IDS = 150
#: Shortest time from one sending to the next, in seconds: what comes meanwhile goes together.
_GAP = 0.02
#: A thread with nothing to do ends after so many seconds.
_IDLE = 10.0
#: For how long a listener waits before it sees what else it is to do, in seconds.
_SLICE = 0.2
#: How often a listener sends itself a hint, to know that it hears; how long it waits for it; and when it sends another
#: one meanwhile, in seconds.
_PROVE_EVERY, _PROOF, _AGAIN = 30.0, 5.0, 0.5
#: Pause after a failure, and after it was found that nothing can be heard, in seconds.
_RETRY, _RETRY_DEAF = 1.0, 60.0
#: For how long a process that ends tries to send its last hints, and to close the connection by which it hears, in
#: seconds.
_LAST = 0.5
#: For how long who closes waits for a sending that is under way, in seconds.
_UNDER_WAY = 5.0
#: Where a connection keeps the hints of its transaction.
_NOTED = "orchestra_hints"
_NOTHING: set[Hint] = set()


def note(connection: Connection, kind: str, id: str = "") -> None:
    """Have a hint sent once the transaction of this connection is committed."""
    connection.info.setdefault(_NOTED, set()).add((kind, id))


def noted(connection: Connection) -> set[Hint]:
    """Take what was noted on a connection, within the transaction; to be told after its commit."""
    hints: set[Hint] = connection.info.pop(_NOTED, _NOTHING)
    return hints


class WakeChannel:
    """Hints over one database, for one process. Safe to use from any thread."""

    def __init__(self, channel: Callable[[], Channel | None]) -> None:
        """Prepare; no thread and no connection before the first hint, or the first who waits.

        Args:
            channel: Gives what hints travel on, the same one each time while it is the same; None: nothing.
        """
        self._channel = channel
        self.forget()
        _instances.add(self)

    def tell(self, hints: Iterable[Hint]) -> None:
        """Send hints; returns at once. What they are about is committed."""
        if (channel := self._channel()) is not None:
            self._teller.add(channel, hints)

    def bell(self, *hints: Hint, ring: Callable[[], object] | None = None) -> Bell:
        """What rings when one of these hints comes; used in a `with`, or closed.

        Args:
            hints: Kinds and ids; `ANY` for every id.
            ring: Called in another thread in place of waking `Bell.wait`; it must not wait.
        """
        return Bell(self._listener, hints, ring)

    def close(self) -> None:
        """Send what is left, end the threads and close their connections; the next use begins anew."""
        self._teller.close()
        self._listener.close()
        self.forget()

    def flush(self) -> None:
        """Send what is left; gives up soon."""
        self._teller.flush()

    def end(self) -> None:
        """Send what is left and hear no more: the process ends. Gives up soon."""
        self._teller.flush()
        self._listener.close(_LAST)

    def forget(self) -> None:
        """Begin anew: after a fork, threads, connections and those who waited are the parent's."""
        self._teller = _Teller()
        self._listener = _Listener(self._channel)


class Bell:
    """Rings when a hint comes, and when hints begin, or cease, to be heard. For one who waits."""

    def __init__(self, listener: _Listener, hints: Iterable[Hint], ring: Callable[[], object] | None) -> None:
        """As `WakeChannel.bell`."""
        self._listener = listener
        self._rung = threading.Event()
        self._kinds: set[str] = set()
        self.ring = ring or self._rung.set
        for hint in hints:
            self.add(*hint)

    def add(self, kind: str, id: str = ANY) -> None:
        """Ring for this, too."""
        self._kinds.add(kind)
        self._listener.add(self, (kind, id))

    def discard(self, kind: str, id: str = ANY) -> None:
        """Ring no more for this."""
        self._listener.discard(self, (kind, id))

    def close(self) -> None:
        """Ring no more. Safe to repeat."""
        self._listener.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def is_live(self) -> bool:
        """Whether the hints that it is for are heard now."""
        return bool(self._kinds) and self._kinds <= self._listener.heard

    def wait(self, often: float, seldom: float = BACKSTOP, *, least: float = 0.0) -> None:
        """Return when it has rung since the last time, though not before `least` seconds.

        Args:
            often: After so many seconds it returns in any case, where hints are not heard.
            seldom: Likewise where they are.
            least: In seconds.
        """
        if least:
            time.sleep(least)
        self._rung.wait(max((seldom if self.is_live else often) - least, 0.0))
        self._rung.clear()


class AsyncBell:
    """A bell for one who waits in the running event loop, which is not held up; used in an `async with`."""

    def __init__(self, wake: WakeChannel, *hints: Hint) -> None:
        """As `WakeChannel.bell`."""
        self._wake, self._hints = wake, hints
        self._rung = asyncio.Event()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()

        def ring() -> None:
            # The loop may be over by now.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._rung.set)

        self._bell = self._wake.bell(*self._hints, ring=ring)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._bell.close()

    async def wait(self, often: float, seldom: float = BACKSTOP, *, least: float = 0.0) -> None:
        """As `Bell.wait`."""
        await asyncio.sleep(least)
        longest = seldom if self._bell.is_live else often
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._rung.wait(), max(longest - least, 0.0))
        self._rung.clear()


# -- sending -----------------------------------------------------------------------------------------------------


class _Teller:
    """Sends hints in a thread of its own: the first at once, those that come within `_GAP` together."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._channel: Channel | None = None
        self._waiting: dict[str, set[str]] = {}
        self._runs = self._is_idle = False
        #: Set while there is nothing left to be sent.
        self._done = threading.Event()
        self._done.set()

    def add(self, channel: Channel, hints: Iterable[Hint]) -> None:
        with self._changed:
            if self._stopping.is_set():
                return
            self._channel = channel
            for kind, id in hints:
                ids = self._waiting.setdefault(kind, set())
                # What is too much for one message says "any": so that memory is bounded, too.
                ids.add(id if len(ids) < _MOST_IDS else ANY)
            self._done.clear()
            if not self._runs:
                self._start()
            elif self._is_idle:
                self._changed.notify()

    def flush(self) -> None:
        self._done.wait(_LAST)

    def close(self) -> None:
        self.flush()
        self._stopping.set()
        with self._changed:
            self._changed.notify()
            channel, thread = self._channel, self._thread
        if thread is not None:
            # A connection that it gave back to a pool which was disposed of would stay open.
            thread.join(_UNDER_WAY)
        if channel is not None:
            channel.close()

    def _start(self) -> None:
        try:
            thread = threading.Thread(target=self._run, name="orchestra-hints", daemon=True)
            thread.start()
            self._thread, self._runs = thread, True
        except RuntimeError:
            # The interpreter shuts down, and starts no threads any more.
            self._done.set()

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            channel, waiting = batch
            pause = _GAP
            try:
                channel.send({kind: _text(ids) for kind, ids in waiting.items()})
            # Whatever a driver raises: who waits looks by itself.
            except Exception:
                logger.debug("hints could not be sent", exc_info=True)
                pause = _RETRY
            self._stopping.wait(pause)

    def _next(self) -> tuple[Channel, dict[str, set[str]]] | None:
        """What is to be sent, once there is something; None: the thread ends."""
        with self._changed:
            if not self._waiting:
                self._done.set()
                self._is_idle = True
                self._changed.wait_for(lambda: self._waiting or self._stopping.is_set(), _IDLE)
                self._is_idle = False
            if not self._waiting or self._channel is None:
                self._runs = False
                return None
            waiting, self._waiting = self._waiting, {}
            return self._channel, waiting


def _text(ids: set[str]) -> str:
    text = " ".join(ids)
    return ANY if ANY in ids or len(text) > MOST_CHARACTERS else text


# -- hearing -----------------------------------------------------------------------------------------------------


class _Listener:
    """Hears for all who wait in this process, by one thread and one connection, which end when nobody waits."""

    def __init__(self, channel: Callable[[], Channel | None]) -> None:
        self._channel = channel
        self._changed = threading.Condition()
        self._bells: dict[Hint, set[Bell]] = {}
        self._idle_since = clock.monotonic()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._deaf_until = float("-inf")
        #: The kinds of hints that are heard now.
        self.heard: frozenset[str] = frozenset()

    def add(self, bell: Bell, hint: Hint) -> None:
        with self._changed:
            self._bells.setdefault(hint, set()).add(bell)
            if self._thread is None and self._may_hear():
                self._thread = threading.Thread(target=self._run, name="orchestra-wake", daemon=True)
                self._thread.start()

    def discard(self, bell: Bell, hint: Hint | None = None) -> None:
        """Forget what a bell is for; without a hint, all of it."""
        with self._changed:
            for each in [hint] if hint is not None else list(self._bells):
                bells = self._bells.get(each, set())
                bells.discard(bell)
                if not bells:
                    self._bells.pop(each, None)
            if not self._bells:
                self._idle_since = clock.monotonic()
                self._changed.notify()

    def close(self, patience: float = _SLICE * 5) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(patience)

    def _may_hear(self) -> bool:
        return not self._closed and clock.monotonic() >= self._deaf_until and self._channel() is not None

    def _run(self) -> None:
        while True:
            pause = _RETRY
            try:
                self._hear()
            except Deaf as error:
                logger.info("who waits looks by itself, as hints are not heard here: %s", error)
                pause = _RETRY_DEAF
            # Whatever a driver raises: the connection is made anew, and meanwhile who waits looks often.
            except Exception:
                logger.debug("hints are not heard now", exc_info=True)
            self._set_heard(frozenset())
            with self._changed:
                if pause == _RETRY_DEAF:
                    self._deaf_until = clock.monotonic() + pause
                if self._changed.wait_for(lambda: self._closed or not self._bells, pause):
                    self._thread = None
                    return

    def _hear(self) -> None:
        """Hear until nobody has waited for a while.

        Raises:
            Deaf: Nothing can be heard.
        """
        channel = self._channel()
        if channel is None:
            raise Deaf("neither the database nor a broker that this process knows carries them")
        with channel.open() as ears:
            proof = _Proof(frozenset())
            while not self._is_over():
                wanted = self._wanted() | proof.kinds
                if wanted != proof.kinds:
                    ears.listen(wanted - proof.kinds)
                    proof = _Proof(wanted)
                proof.ask(channel)
                for kind, text in ears.hear(_SLICE):
                    if proof.hears(kind, text):
                        self._set_heard(proof.kinds)
                    else:
                        self._ring(kind, text)

    def _is_over(self) -> bool:
        with self._changed:
            return self._closed or (not self._bells and clock.monotonic() - self._idle_since > _IDLE)

    def _wanted(self) -> frozenset[str]:
        with self._changed:
            return frozenset(kind for kind, _ in self._bells)

    def _set_heard(self, kinds: frozenset[str]) -> None:
        with self._changed:
            if kinds == self.heard:
                return
            self.heard = kinds
            bells = {bell for each in self._bells.values() for bell in each}
        # What came between their last look and now was not heard.
        for bell in bells:
            bell.ring()

    def _ring(self, kind: str, text: str) -> None:
        ids = text.split(" ")
        with self._changed:
            if ANY in ids:
                found = [bells for hint, bells in self._bells.items() if hint[0] == kind]
            else:
                found = [self._bells.get((kind, id), set()) for id in (*ids, ANY)]
            rung = set().union(*found)
        for bell in rung:
            bell.ring()


class _Proof:
    """Whether hints of these kinds come through: some of our own must come back."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self.kinds = kinds
        self._begin()

    def _begin(self) -> None:
        self._word = f"proof-{secrets.token_hex(8)}"
        self._open = set(self.kinds)
        self._begun, self._asked = clock.monotonic(), float("-inf")

    def ask(self, channel: Channel) -> None:
        """Send them, where it is time to.

        Raises:
            Deaf: They have not come back.
        """
        now = clock.monotonic()
        if not self._open and now - self._begun > _PROVE_EVERY:
            self._begin()
        if not self._open or now - self._asked < _AGAIN:
            return
        if now - self._begun > _PROOF:
            raise Deaf(f"a hint of our own did not come back within {_PROOF:g} s")
        self._asked = now
        channel.send(dict.fromkeys(self._open, self._word))

    def hears(self, kind: str, text: str) -> bool:
        """Whether this was the last of them."""
        if text != self._word or kind not in self._open:
            return False
        self._open.discard(kind)
        return not self._open


_instances: weakref.WeakSet[WakeChannel] = weakref.WeakSet()


def _end_all() -> None:
    for each in list(_instances):
        each.end()


atexit.register(_end_all)
