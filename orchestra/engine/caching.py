"""Calls of tasks that are answered from the cache, and results that are kept there for later calls.

Of those who ask for one key at once, one computes and the others wait: locally in their threads, on a worker as rows
that are due when the lock is let go. Where the cache fails, a call is computed as if there were none.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from orchestra import clock, identifiers, results, serializers, settings, states
from orchestra.cache_policies import LockManager
from orchestra.context import TaskRunContext, transaction_here
from orchestra.engine import interrupts
from orchestra.engine import slots as process_slots
from orchestra.engine.cache_keys import CacheKey, key_of, policy_of, refreshes
from orchestra.engine.task_run import Ended, RetryLater
from orchestra.errors import MissingResult, OrchestraError, SerializationError, StoreError
from orchestra.locking.memory import MemoryLockManager
from orchestra.logging import engine_logger
from orchestra.results import Kept
from orchestra.states import State
from orchestra.store import cache, settle, slots
from orchestra.store.announcements import Announcement
from orchestra.store.cache import Keeping, NewEntry
from orchestra.store.claims import Claim
from orchestra.store.database import Database, database
from orchestra.store.journal import Ending

_logger = logging.getLogger("orchestra.engine")

#: First and longest pause between two looks of a thread that waits for another's result, in seconds.
_PAUSES = (0.01, 0.1)
#: How often it tries to take the lock itself, in seconds: whoever holds it may have died.
_TRY_EVERY = 0.25
#: After how many seconds a step is looked at again whose lock manager nobody hears of on a worker.
_ASK_AGAIN = 0.5

#: What the slot of a step is for that computes for others.
_PURPOSE = "cache"

#: What is being computed around the calling code: a call of the same inside of it must not wait for it.
_computing: ContextVar[frozenset[str]] = ContextVar("orchestra_computing", default=frozenset())


@dataclass(frozen=True, slots=True)
class Hit:
    """A result that answers a call."""

    state: State[Any]
    data: bytes
    blob: str | None

    def ending(self, start_time: float | None = None, attempt: int = 1) -> Ending:
        """How the step ends that is answered so."""
        state = self.state
        return Ending(state.type, state.name, state.message, self.data, start_time, None, attempt, blob=self.blob)


@dataclass(frozen=True, slots=True)
class Busy:
    """Another one computes just now what answers the call."""


@dataclass(frozen=True, slots=True)
class SetBack:
    """A claimed step waits for another one's result; its claim is given up."""

    announcements: list[Announcement]


@dataclass(slots=True)
class Cached:
    """A call that is computed here, for later calls as well."""

    context: TaskRunContext
    found: CacheKey
    #: Who holds its lock in the database; None: it holds none, or not yet.
    holder: slots.Holder | None = None
    #: Who holds that of its lock manager.
    token: str | None = None
    #: None: the database locks.
    manager: LockManager | None = None
    locks: bool = True
    #: The transaction in which it is made, by run attempt and key: until that is committed nobody else is answered.
    transaction: tuple[int, str] | None = None
    is_answered: bool = False
    #: The result as it is kept, once it is there.
    kept: Kept | None = None
    _is_unusable: bool = False

    @property
    def lock_name(self) -> str:
        """The name of the lock in the database."""
        return slots.LOCK + self.found.key

    def look(self, db: Database) -> Hit | None:
        """The result that answers the call; None: there is none that can be used."""
        if refreshes(self.context.task):
            return None
        try:
            found = cache.find(db, self.found.key)
            if found is None:
                return None
            value = serializers.decode(found.data)
        except (MissingResult, SerializationError) as error:
            if not self._is_unusable:
                self.say("computes anew: what is kept under its cache key cannot be used: %s", error)
            self._is_unusable = True
            return None
        self.is_answered, self.kept = True, Kept(found.data, found.blob)
        return Hit(states.Completed(data=value, name="Cached"), found.data, found.blob)

    def keeping(self, ending: Ending) -> Keeping | None:
        """What goes along with the write of its end; None: nothing."""
        is_new = not self.is_answered and ending.state_type == states.StateType.COMPLETED
        holder = None if self.holder is None else self.holder.key
        return Keeping(self.entry() if is_new else None, holder) if is_new or holder else None

    def entry(self) -> NewEntry:
        """What is kept of it, but for the value."""
        context = self.context
        return NewEntry(
            self.found.key,
            self.found.policy_key,
            context.task.path,
            context.task.name,
            context.flow_run_id,
            context.task_run_id,
            context.task.cache_expiration,
            self.transaction,
        )

    def let_go(self, db: Database) -> list[Announcement]:
        """Wake who waits, once the write of the end has given the lock up; returns what to announce."""
        self.let_go_managed()
        holder, self.holder = self.holder, None
        return [] if holder is None else slots.serve(db, [self.lock_name])

    def release(self, db: Database) -> list[Announcement]:
        """Give the lock up without a result; returns what to announce."""
        self.let_go_managed()
        holder, self.holder = self.holder, None
        return [] if holder is None else slots.release(db, holder)

    def try_managed(self) -> bool:
        """Take the lock of a lock manager, if it is free."""
        assert self.manager is not None
        token = f"{identifiers.process()}/{secrets.token_hex(8)}"
        if not self.manager.acquire_lock(self.found.key, token, 0):
            return False
        self.token = token
        return True

    def let_go_managed(self) -> None:
        """Give up the lock of a lock manager. Safe to repeat."""
        token, self.token = self.token, None
        if self.manager is None or token is None:
            return
        try:
            self.manager.release_lock(self.found.key, token)
        except ValueError as error:
            _logger.warning("the lock of a cache key was lost meanwhile: %s", error)

    def say(self, sentence: str, *facts: object) -> None:
        """Warn in the run's log."""
        engine_logger(self.context).warning(f"%s {sentence}", self.context.task_run_name, *facts)


def recognise(context: TaskRunContext) -> Cached | None:
    """A call as the cache knows it; None: it is not cached."""
    found = key_of(context)
    if found is None:
        return None
    policy = policy_of(context.task)
    assert policy is not None
    in_transaction = transaction_here() is not None or context.called_in is not None
    # A call of the same inside of one that is being computed would wait for itself; one in a transaction has nothing to
    # hand on before that is committed.
    locks = policy.locks and not in_transaction and found.key not in _computing.get()
    return Cached(context, found, manager=policy.lock_manager if locks else None, locks=locks)


@contextmanager
def _inside(call: Cached) -> Iterator[None]:
    token = _computing.set(_computing.get() | {call.found.key})
    try:
        yield
    except BaseException:
        # Left by a signal. What the database locks goes with the claim; of a lock manager nobody else knows.
        call.let_go_managed()
        raise
    finally:
        _computing.reset(token)


def computing(context: TaskRunContext) -> AbstractContextManager[None]:
    """To be held while the body of a call runs on a worker."""
    return nullcontext() if context.cached is None else _inside(context.cached)


# -- in this process ---------------------------------------------------------------------------------------------


def answered(context: TaskRunContext, run: Callable[[], Ended | RetryLater]) -> Ended | RetryLater:
    """How a call ends that runs here: answered from the cache, or by `run`, whose result is kept."""
    call = context.cached = recognise(context)
    if call is None:
        return run()
    with _Place(call) as place:
        for seconds in place.waits():
            time.sleep(seconds)
        if place.hit is not None:
            return Ended(place.hit.state, context.attempt)
        with _inside(call):
            ended = run()
        place.keep(ended.state)
        return ended


async def answered_async(
    context: TaskRunContext, run: Callable[[], Awaitable[Ended | RetryLater]]
) -> Ended | RetryLater:
    """As `answered`, for a coroutine function, in the running loop."""
    call = context.cached = recognise(context)
    if call is None:
        return await run()
    with _Place(call) as place:
        for seconds in place.waits():
            await asyncio.sleep(seconds)
        if place.hit is not None:
            return Ended(place.hit.state, context.attempt)
        with _inside(call):
            ended = await run()
        place.keep(ended.state)
        return ended


@dataclass(slots=True)
class _Place:
    """A call's place among those of this process and of others that ask for the same key."""

    call: Cached
    hit: Hit | None = None
    #: Under which the threads of this process take turns, and the process among others.
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    _is_first_here: bool = False
    _tries_at: float = 0.0
    _is_kept: bool = False
    _holder: slots.Holder | None = None

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *_: object) -> None:
        # The lock must not stay with a body that was interrupted; that is raised when it is given up.
        with interrupts.shielded():
            try:
                self._guarded(self._let_go)
            finally:
                if self._is_first_here:
                    _here.release_lock(self.call.lock_name, self.token)

    def waits(self) -> Iterator[float]:
        """Until the call is answered, or is this one's to compute: how long to wait before the next look."""
        self._guarded(self._look)
        pause = _PAUSES[0]
        while self.hit is None and self.call.locks and not self._guarded(self._try):
            yield pause
            pause = min(pause * 1.3, _PAUSES[1])
            self._guarded(self._look)

    def keep(self, state: State[Any]) -> None:
        """Keep the result for later calls, if it is one; where it cannot be kept, that is logged."""
        if not state.is_completed():
            return
        context = self.call.context
        flow = None if context.flow_run is None else context.flow_run.flow
        try:
            kept = self.call.kept = results.keep_local(database(), state.data, context.task, flow)
        except OrchestraError as error:
            self.call.say("is not kept for later calls: %s", error)
            return
        holder = None if self._holder is None else self._holder.key
        write = partial(self._guarded, lambda: self._write(Keeping(self.call.entry(), holder), kept))
        if (txn := transaction_here()) is not None:
            # Rolled back, it never happened.
            txn.when_committed.append(write)
            return
        with interrupts.shielded():
            write()

    def _write(self, keeping: Keeping, kept: Kept) -> bool:
        cache.keep(database(), keeping, kept.data, kept.blob)
        self._is_kept = True
        return True

    def _look(self) -> bool:
        self.hit = self.call.look(database())
        return True

    def _try(self) -> bool:
        """Take the lock; whether it was taken, the call being answered meanwhile or not."""
        with interrupts.shielded():
            taken = self.call.try_managed() if self.call.manager is not None else self._try_database()
        # Whoever had it until now may have kept its result since the last look.
        return taken and self._look()

    def _try_database(self) -> bool:
        # One thread of each process stands for all of its others.
        if not self._is_first_here:
            self._is_first_here = _here.acquire_lock(self.call.lock_name, self.token, 0)
        if not self._is_first_here or clock.monotonic() < self._tries_at:
            return False
        if self._tries_at:
            slots.expire_dead(database(), [self.call.lock_name])
        self._tries_at = clock.monotonic() + _TRY_EVERY
        lease = settings.current().lease_seconds
        holder = slots.of_process(self.token, lease_seconds=lease, run_id=self.call.context.flow_run_id)
        if not slots.acquire(database(), holder, [self.call.lock_name], wait=False).granted:
            return False
        self._holder = self.call.holder = holder
        process_slots.renew(holder)
        return True

    def _let_go(self) -> bool:
        if self._holder is not None:
            process_slots.renew_no_more(self._holder)
        release = self.call.let_go if self._is_kept else self.call.release
        process_slots.tell(release(database()))
        return True

    def _guarded(self, act: Callable[[], object]) -> bool:
        """Do it; where the database is away, say so, and let the call be computed without a cache."""
        try:
            return bool(act())
        except StoreError as error:
            self.call.say("goes on without the cache: %s", error)
            return True


#: By which the threads of this process take turns.
_here = MemoryLockManager()


# -- on a worker -------------------------------------------------------------------------------------------------


def meet_inline(db: Database, claim: Claim, context: TaskRunContext) -> Hit | Busy | None:
    """Before a direct call is run in its flow's segment: what answers it, or that another one computes it just now.

    Else its context has what is to be kept of it (`context.cached`).

    Args:
        claim: On the flow run.
    """
    call = context.cached = recognise(context)
    if call is not None and (txn := transaction_here()) is not None:
        call.transaction = claim.run_attempt, str(txn.row_key)
    if call is None or (hit := call.look(db)) is not None:
        context.cached = None
        return None if call is None else hit
    if not call.locks:
        return None
    if call.manager is not None:
        if not call.try_managed():
            return Busy()
    else:
        holder = slots.of_claim(claim, _PURPOSE, context.step_key)
        if not slots.acquire(db, holder, [call.lock_name], wait=False).granted:
            return Busy()
        call.holder = holder
    # Whoever had the lock until now may have kept its result since the first look.
    return call.look(db)


def meet_step(db: Database, claim: Claim, context: TaskRunContext) -> Hit | SetBack | None:
    """Before the body of a claimed step is run; as `meet_inline`, but where another one computes it, the step waits.

    Raises:
        ClaimLost: Another claim was made.
    """
    call = context.cached = recognise(context)
    if call is None:
        return None
    call.transaction = context.called_in
    hit = call.look(db)
    holder = slots.of_claim(claim, _PURPOSE)
    if hit is not None:
        if call.locks and call.manager is None and slots.is_granted(db, holder.key):
            # It has waited, and its turn has come: who waits behind it is next.
            call.holder = holder
        return hit
    if not call.locks:
        return None
    if call.manager is not None:
        return call.look(db) if call.try_managed() else SetBack(settle.wait(db, claim, _ASK_AGAIN, "AwaitingCache"))
    asked = slots.acquire_or_set_back(db, claim, holder, [call.lock_name])
    if not asked.granted:
        return SetBack(asked.announcements)
    call.holder = holder
    return call.look(db)
