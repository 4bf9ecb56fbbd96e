"""Slots of limits that code of this process has: for a block, or for a task while its body runs.

What runs under a claim of a worker has them as long as the claim; anything else (a script, a local run, a Celery task
of one's own) as long as one thread here renews its lease. Another thread looks whether those who wait have their turn.
"""

from __future__ import annotations

import asyncio
import concurrent.futures as pools
import logging
import os
import secrets
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Self, TypeVar

from orchestra import clock, settings
from orchestra.awaitables import in_coroutine
from orchestra.context import flow_run_context, task_run_context
from orchestra.engine import interrupts, operations
from orchestra.errors import AcquireConcurrencySlotTimeoutError, ConcurrencySlotLost, StoreError
from orchestra.questions import Slots
from orchestra.store import limits, slots
from orchestra.store.announcements import Announcement
from orchestra.store.claims import Claim
from orchestra.store.database import database
from orchestra.store.slots import Holder, Owner
from orchestra.store.wake import SLOT, Bell

T = TypeVar("T")

logger = logging.getLogger("orchestra.concurrency")

#: For how long this process goes by the tags' limits that it has read, in seconds: a new one holds after that.
TAGS_KNOWN = 2.0
#: What the slots of a step are for that it needs for its tags.
TAGS = "tags"
#: Shortest and longest pause between two looks whether a turn has come, in seconds.
_LOOKS = (0.003, 0.05)
#: How often it is looked for slots that nobody has handed on, in seconds.
_SWEEP_EVERY = 1.0
#: Renewals in one lease, and the longest pause between two, in seconds.
_BEATS, _LONGEST_BEAT = 6, 10.0
#: For how long the thread that renews leases stays when nothing is held: starting one costs more than a block.
_STAYS = 10.0

#: The claim on the step whose body runs here, on a worker.
step_claim: ContextVar[Claim | None] = ContextVar("orchestra_step_claim", default=None)


# -- blocks ------------------------------------------------------------------------------------------------------


@contextmanager
def held(wanted: Slots) -> Iterator[None]:
    """Have these slots while inside; waits for them in this thread.

    Raises:
        AcquireConcurrencySlotTimeoutError: They were not to be had in time.
        ConcurrencySlotAcquisitionError: They can never be had.
        ConcurrencySlotLost: At the end of a block that must hold its lease: it was over before.
    """
    taken = _Taken(_holder(wanted), wanted)
    try:
        taken.take()
        yield
    finally:
        taken.give()
    taken.check()


@asynccontextmanager
async def held_async(wanted: Slots) -> AsyncIterator[None]:
    """As `held`, without holding up the event loop."""
    taken = _Taken(_holder(wanted), wanted)
    try:
        await taken.take_async()
        yield
    finally:
        await _in_thread(taken.give)
    taken.check()


def reserve(names: tuple[str, ...], occupy: int, timeout: float, strict: bool) -> float:
    """Take slots of rate limits; gives the seconds until they may be used. As `limits.reserve`."""
    with interrupts.shielded():
        seconds, missing = limits.reserve(database(), names, occupy, timeout, strict=strict)
    warn_of_missing(missing)
    return seconds


def warn_of_loop(wanted: Slots) -> None:
    """Say so, where a plain `with concurrency()` in a coroutine must wait: what runs beside it cannot go on."""
    if in_coroutine():
        logger.warning(
            "a coroutine waits for slots of %s, and holds its event loop up: another one in this loop that has them "
            "cannot give them back. Use `async with` and orchestra.concurrency.asyncio; make a task with such a tag "
            "a coroutine function",
            wanted.named,
        )


def warn_of_missing(names: Iterable[str]) -> None:
    """Say that these limit nothing, as nobody has made them."""
    for name in names:
        logger.warning(
            "there is no concurrency limit %r, so it limits nothing: create it by `orchestra gcl create %s --limit N`",
            name,
            name,
        )


def _holder(wanted: Slots) -> Holder:
    """What the calling code takes slots as: under the claim that it runs under, else as this process."""
    token = secrets.token_hex(4)
    flow_run, task_run = flow_run_context.get(), task_run_context.get()
    if (claim := step_claim.get()) is not None:
        return replace(slots.of_claim(claim, f"block-{token}"), label=wanted.label)
    runs_claim = getattr(flow_run.runner, "claim", None) if flow_run is not None else None
    if isinstance(runs_claim, Claim) and task_run is not None and task_run.step_key is not None:
        return replace(slots.of_claim(runs_claim, f"block-{token}", task_run.step_key), label=wanted.label)
    run_id = flow_run.run_id if flow_run is not None else None
    return slots.of_process(token, lease_seconds=wanted.lease_seconds, run_id=run_id, label=wanted.label)


class _Taken:
    """The slots of one holder, from asking to giving back."""

    def __init__(self, holder: Holder, wanted: Slots, on_wait: Callable[[], object] = lambda: None) -> None:
        self.holder, self.wanted, self._on_wait = holder, wanted, on_wait
        self._lost: threading.Event | None = None
        #: Held while they are asked for: a coroutine may be cancelled meanwhile, and give back what is still to come.
        self._asking = threading.Lock()
        self._over = False

    def take(self) -> None:
        """Take them, or wait for them."""
        future = self._ask()
        if future is None:
            return
        warn_of_loop(self.wanted)
        try:
            future.result(self.wanted.timeout)
        except pools.TimeoutError:
            raise too_late(self.wanted) from None

    async def take_async(self) -> None:
        """As `take`, without holding up the event loop."""
        future = await _in_thread(self._ask)
        if future is None:
            return
        try:
            await asyncio.wait_for(asyncio.wrap_future(future), self.wanted.timeout)
        except TimeoutError:
            raise too_late(self.wanted) from None

    def _ask(self) -> pools.Future[None] | None:
        """Ask for them; gives what to wait for, None where they are had."""
        wanted, holder = self.wanted, self.holder
        with interrupts.shielded(), self._asking:
            if self._over:
                return None
            waits = wanted.timeout > 0
            asked = slots.acquire(database(), holder, wanted.names, wanted.occupy, wait=waits, strict=wanted.strict)
            if holder.kind is Owner.PROCESS and (asked.granted or waits):
                self._lost = _leases.add(holder)
            tell(asked.announcements)
            warn_of_missing(asked.missing)
            if asked.granted:
                return None
            if not waits:
                raise too_late(wanted)
            self._on_wait()
            return _watch.add(holder.key, wanted.names)

    def give(self) -> None:
        """Give them, or the place in the line, back. Safe to repeat."""
        with interrupts.shielded(), self._asking:
            self._over = True
            _watch.discard(self.holder.key)
            _leases.discard(self.holder.key)
            try:
                tell(slots.release(database(), self.holder))
            except StoreError:
                # They go with the claim or the lease; what was done under them is done.
                logger.warning("slots of %s could not be given back now", self.wanted.named, exc_info=True)
            _watch.look_now()

    def check(self) -> None:
        """Raise where the lease was lost meanwhile and must not be."""
        if self.wanted.must_hold and self._lost is not None and self._lost.is_set():
            raise ConcurrencySlotLost(
                f"the lease of {self.wanted.lease_seconds:g} s on slots of {self.wanted.named} was over before this "
                "block was: the process stood still, or the database was away; others may have had the slots meanwhile"
            )


def too_late(wanted: Slots) -> AcquireConcurrencySlotTimeoutError:
    """The error of those who waited in vain."""
    waited = f"within {wanted.timeout:g} s" if wanted.timeout > 0 else "at once, and nobody was to wait"
    return AcquireConcurrencySlotTimeoutError(
        f"{wanted.occupy} slots of {wanted.named} were not to be had {waited}; "
        "`orchestra gcl inspect` shows who has them"
    )


def tell(announcements: list[Announcement], announce: operations.Announce | None = None) -> None:
    """Announce steps and runs on workers whose turn has come.

    Args:
        announce: By what; None: through the configured app.
    """
    operations.tell(database(), announcements, announce)


async def _in_thread(work: Callable[[], T]) -> T:
    """Do `work` in a thread, to its end even where the caller is cancelled meanwhile."""
    return await asyncio.shield(asyncio.to_thread(work))


# -- tags --------------------------------------------------------------------------------------------------------


class NoSlots:
    """The slots of a task that no limit is for. As a block, it gives them back at its end."""

    def take(self) -> None:
        """Nothing to take."""

    def take_async(self) -> Awaitable[None] | None:
        """Nothing to take, or to wait for."""
        return None

    def give(self) -> None:
        """Nothing to give back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.give()


class TagSlots(NoSlots):
    """A slot of each limit that is for a task's tags, had while its body runs, and not between two tries."""

    def __init__(self, names: tuple[str, ...], holder: Holder | None, on_wait: Callable[[], object]) -> None:
        """Prepare.

        Args:
            names: The limits.
            holder: Who takes them; None: this process.
            on_wait: Called where there is none free.
        """
        self._wanted = Slots(names, lease_seconds=settings.current().lease_seconds)
        self._given_holder, self._on_wait = holder, on_wait
        self._taken: _Taken | None = None

    def take(self) -> None:
        """Take them; waits here where none are free."""
        if self._taken is None:
            self._begin().take()

    def take_async(self) -> Awaitable[None] | None:
        """As `take`, to be awaited."""
        return None if self._taken is not None else self._begin().take_async()

    def _begin(self) -> _Taken:
        self._taken = _Taken(self._given_holder or _holder(self._wanted), self._wanted, self._on_wait)
        return self._taken

    def give(self) -> None:
        """Give them back. Safe to repeat."""
        taken, self._taken = self._taken, None
        if taken is not None:
            taken.give()


NO_SLOTS = NoSlots()


def of_tags(
    tags: tuple[str, ...], holder: Holder | None = None, on_wait: Callable[[], object] = lambda: None
) -> NoSlots:
    """The slots that a task with these tags needs. A task without tags asks nobody."""
    names = limits_of(tags)
    return TagSlots(names, holder, on_wait) if names else NO_SLOTS


def limits_of(tags: tuple[str, ...]) -> tuple[str, ...]:
    """The limits that are for these tags; what this process has read of them may be `TAGS_KNOWN` seconds old."""
    if not tags:
        return ()
    known = _tag_limits()
    return tuple(name for tag in tags if (name := limits.TAG + tag) in known) if known else ()


def _tag_limits() -> frozenset[str]:
    global _known
    if _known is None or _known[0] != os.getpid() or clock.monotonic() - _known[1] > TAGS_KNOWN:
        with interrupts.shielded():
            _known = (os.getpid(), clock.monotonic(), limits.tag_limits(database()))
    return _known[2]


def forget() -> None:
    """Read the tags' limits anew at the next call: some have changed."""
    global _known
    _known = None


_known: tuple[int, float, frozenset[str]] | None = None


# -- leases ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Lease:
    seconds: float
    due: float
    lost: threading.Event


class _Leases:
    """Renews the leases of this process's holders; the thread ends some time after the last of them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: dict[str, _Lease] = {}
        self._runs = False
        #: Until when the thread sleeps.
        self._until = 0.0

    def add(self, holder: Holder) -> threading.Event:
        """Renew from now on; gives what is set if the lease is lost."""
        assert holder.lease_seconds is not None
        lease = _Lease(holder.lease_seconds, _next_beat(holder.lease_seconds), threading.Event())
        with self._changed:
            self._held[holder.key] = lease
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._run, name="orchestra-slots", daemon=True).start()
            elif lease.due < self._until:
                self._changed.notify()
        return lease.lost

    def discard(self, key: str) -> None:
        """Renew no more."""
        with self._changed:
            self._held.pop(key, None)

    def _run(self) -> None:
        while (due := self._wait()) is not None:
            try:
                self._tell_lost(slots.renew(database(), {key: lease.seconds for key, lease in due.items()}))
            except Exception:
                logger.warning("the leases of slots could not be renewed; trying again", exc_info=True)

    def _wait(self) -> dict[str, _Lease] | None:
        """Those that are due for renewal, once there are some; None: nothing was held for some time."""
        with self._changed:
            idle_since = clock.monotonic()
            while (now := clock.monotonic()) < idle_since + _STAYS or self._held:
                due = {key: lease for key, lease in self._held.items() if lease.due <= now}
                for lease in due.values():
                    lease.due = _next_beat(lease.seconds)
                if due:
                    return due
                self._until = min((lease.due for lease in self._held.values()), default=now + _STAYS)
                self._changed.wait(max(self._until - now, 0.001))
            self._runs = False
            return None

    def _tell_lost(self, lost: set[str]) -> None:
        with self._changed:
            for key in lost & self._held.keys():
                self._held.pop(key).lost.set()
                logger.warning("the lease of slots was over before it was renewed; others may have them now")


def renew(holder: Holder) -> None:
    """Renew the lease of a process's slots that were taken elsewhere, until `renew_no_more`."""
    _leases.add(holder)


def renew_no_more(holder: Holder) -> None:
    """Let the lease be over some time. Safe to repeat."""
    _leases.discard(holder.key)


def _next_beat(seconds: float) -> float:
    return clock.monotonic() + min(seconds / _BEATS, _LONGEST_BEAT)


# -- turns -------------------------------------------------------------------------------------------------------


class _Watch:
    """Looks for all who wait in this process whether they have their turn; the thread ends when nobody waits."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[str, tuple[pools.Future[None], tuple[str, ...]]] = {}
        self._pause = _LOOKS[0]
        self._sweep_at = 0.0
        self._is_called = False
        #: Rings when somebody here has their turn; there is one while the thread runs.
        self._bell: Bell | None = None

    def add(self, key: str, names: tuple[str, ...]) -> pools.Future[None]:
        """What is done once the holder has its slots."""
        future: pools.Future[None] = pools.Future()
        with self._changed:
            self._waiting[key] = future, names
            if self._bell is None:
                self._bell = database().wake.bell(ring=self._call)
                self._sweep_at = clock.monotonic() + _SWEEP_EVERY
                threading.Thread(target=self._run, name="orchestra-turns", daemon=True).start()
            self._bell.add(SLOT, key)
        self.look_now()
        return future

    def discard(self, key: str) -> None:
        """It waits no more."""
        with self._changed:
            self._take(key)

    def look_now(self) -> None:
        """Somebody here has given slots back."""
        with self._changed:
            self._pause = _LOOKS[0]
            self._call()

    def _call(self) -> None:
        with self._changed:
            self._is_called = True
            self._changed.notify()

    def _take(self, key: str) -> pools.Future[None] | None:
        if (found := self._waiting.pop(key, None)) is None:
            return None
        if self._bell is not None:
            self._bell.discard(SLOT, key)
        return found[0]

    def _run(self) -> None:
        while keys := self._keys():
            try:
                done: dict[str, BaseException | None] = dict.fromkeys(slots.granted(database(), keys))
            except Exception as error:
                done = dict.fromkeys(keys, error)
            self._end(done)
            self._sweep()

    def _keys(self) -> list[str]:
        """Those who wait, after a pause; none: the thread ends."""
        with self._changed:
            assert self._bell is not None
            if self._waiting:
                self._changed.wait_for(lambda: self._is_called, self._pause)
                self._is_called = False
                # By its hint each hears of its turn; the others are looked for as seldom as dead holders.
                self._pause = min(self._pause * 1.3, _SWEEP_EVERY if self._bell.is_live else _LOOKS[1])
            if not self._waiting:
                self._bell.close()
                self._bell = None
            return list(self._waiting)

    def _end(self, done: dict[str, BaseException | None]) -> None:
        with self._changed:
            taken = [(self._take(key), error) for key, error in done.items()]
            found = [(future, error) for future, error in taken if future is not None]
            if found:
                self._pause = _LOOKS[0]
        for future, error in found:
            if not future.set_running_or_notify_cancel():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    def _sweep(self) -> None:
        """Hand on what dead processes of this host have."""
        if clock.monotonic() < self._sweep_at:
            return
        self._sweep_at = clock.monotonic() + _SWEEP_EVERY
        with self._changed:
            names = {name for _, each in self._waiting.values() for name in each}
        try:
            slots.expire_dead(database(), names)
            tell(slots.serve(database(), names))
        except Exception:
            logger.warning("slots of dead processes could not be looked for; trying again", exc_info=True)


_leases = _Leases()
_watch = _Watch()


def _after_fork() -> None:
    global _leases, _watch
    _leases, _watch = _Leases(), _Watch()


os.register_at_fork(after_in_child=_after_fork)
