"""Waiting: for steps that others run, for time. A segment that can only wait parks and frees its slot."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from orchestra import clock, serializers
from orchestra.context import task_run_context
from orchestra.engine.branches import BranchLoop
from orchestra.engine.future import JournalFuture
from orchestra.engine.journaled import LINGER, Awaited, Journaled, SegmentStart
from orchestra.engine.task_run import IN_PLACE
from orchestra.errors import (
    Cancelled,
    DefinitionError,
    Fenced,
    NonDeterministic,
    Parked,
    Signal,
)
from orchestra.futures import Future
from orchestra.states import State, StateType
from orchestra.store import runs, waits
from orchestra.store.journal import Ending, NewStep, StepRecord
from orchestra.store.tables import Kind
from orchestra.store.waits import Park

logger = logging.getLogger("orchestra.engine")

#: The state of a step in which its branch was cancelled, and the two reasons.
ABANDONED = "Abandoned"
_CANCELLED = "the branch of the flow that waited here was cancelled"
_OVER_TIME = "its flow was over its time"
_LINGER_POLL = 0.001
#: For how long steps announced just now may wait for another slot before this one is freed, in seconds.
OFFER = 0.008
#: For how long a slot is held that nothing else wants, so that a timer of the body's can end a wait, in seconds.
TIMER = 5.0
_NONE = serializers.encode(None)


class Shown(NamedTuple):
    """What people see of a run that waits."""

    type: StateType
    name: str
    message: str | None = None


_WAITING = Shown(StateType.RUNNING, "Waiting")


@dataclass(eq=False, slots=True)
class _Suspended:
    """A branch that waits for steps."""

    future: asyncio.Future[None]
    keys: list[str]
    first: bool
    #: What people see where the run waits for nothing else.
    shown: Shown
    #: The step in whose body it is, if it is a task's.
    inside: str | None


class Waiting(Journaled):
    """The waits of one segment."""

    def __init__(self, start: SegmentStart) -> None:
        """Begin a segment."""
        super().__init__(start)
        self._suspended: list[_Suspended] = []
        self._waiters = start.waiters
        self._warned_of_timers = False
        start.waiters.looks.append(self.look)

    def sleep(self, seconds: float) -> None:
        """Go on after `seconds`; under a second in place, else without holding a slot."""
        key, short = self._ask_sleep(seconds)
        if short is not None:
            self.dispatch()
            time.sleep(short.delay)
            self._end_sleep(short)
        self._wait_for_keys([key])

    async def sleep_async(self, seconds: float) -> None:
        """As `sleep`, holding up the calling branch only."""
        key, short = self._ask_sleep(seconds)
        if short is not None:
            await self._sleep_in_place(short)
        try:
            await self._wait_for_keys_async([key])
        except asyncio.CancelledError:
            self._stop_abandoned(key)
            raise

    async def _sleep_in_place(self, step: NewStep) -> None:
        self.dispatch()
        try:
            await asyncio.sleep(step.delay)
        except asyncio.CancelledError:
            if not self.is_stopped:
                self._end_sleep(step)
                self._abandon(Awaited([step.key], False))
            raise
        self.check("sleep")
        self._end_sleep(step)

    def _ask_sleep(self, seconds: float) -> tuple[str, NewStep | None]:
        """Ask for a sleep; gives the step, too, where it is new and short enough to be slept in place."""
        self.check("sleep")
        self._check_deadline()
        asked = self._line().ask("sleep")
        if self._answer(asked, None) is None:
            step = self._plain(asked, Kind.SLEEP)
            step.delay = max(seconds, 0.0)
            if seconds < IN_PLACE:
                return asked.key, step
            self._unwritten.append(step)
            self._open.add(asked.key)
        return asked.key, None

    def _end_sleep(self, step: NewStep) -> None:
        step.ending = Ending(StateType.COMPLETED, "Completed", result=_NONE)
        self._states[step.key] = State(StateType.COMPLETED)
        self._unwritten.append(step)

    def wait(self, futures: Sequence[Future[Any]], timeout: float | None, *, first: bool = False) -> None:
        """Return when all futures are done (`first`: when one is), or after `timeout` seconds."""
        self.check("wait")
        keys = [self.key_of(future) for future in futures]
        if timeout is None:
            self._wait_for_keys(keys, first=first)
            return
        timer = self._ask_timer(timeout, keys)
        while not self._satisfied(keys, first) and not self._is_done(timer):
            self._wait_for_keys([*keys, timer], first=True, beyond=True)
        self._stop_timer(timer)

    async def wait_async(self, futures: Sequence[Future[Any]], timeout: float | None, *, first: bool = False) -> None:
        """As `wait`, holding up the calling branch only."""
        self.check("wait")
        keys = [self.key_of(future) for future in futures]
        if timeout is None:
            await self._wait_for_keys_async(keys, first=first)
            return
        timer = self._ask_timer(timeout, keys)
        try:
            await self._abandon_again(Awaited([*keys, timer], True))
            while not self._satisfied(keys, first) and not self._is_done(timer):
                await self._wait_for_keys_async([*keys, timer], first=True, beyond=True)
        except asyncio.CancelledError:
            self._stop_abandoned(timer)
            raise
        self._stop_timer(timer)

    def _ask_timer(self, timeout: float, keys: Sequence[str]) -> str:
        """Ask for the step that ends a wait for `keys` after `timeout` seconds; at zero, only look."""
        asked = self._line().ask("timer")
        if self._answer(asked, None, self._of_attempt) is None:
            step = self._plain(asked, Kind.SLEEP)
            step.fingerprint, step.delay = self._of_attempt, max(timeout, 0.0)
            self._unwritten.append(step)
            self._open.add(asked.key)
            if timeout <= 0:
                self._stop_timer(asked.key)
                self.dispatch()
                self._refresh(keys)
        return asked.key

    def _stop_timer(self, key: str) -> None:
        """End a timer that is no longer needed: the run does not wait for it."""
        if self._is_done(key):
            return
        for step in self._unwritten:
            if step.key == key:
                step.ending = Ending(StateType.COMPLETED, "Completed", result=_NONE)
                self._states[key] = State(StateType.COMPLETED)
                self._open.discard(key)
                return
        announcements = self.guard(lambda: runs.end_step(self.database, self.claim, key, result=_NONE))
        self._announce(announcements)
        self._learn_all([key])

    def _stop_abandoned(self, key: str) -> None:
        """End a timer that was abandoned, so that the run does not end only after it."""
        if not self.is_stopped:
            self._stop_timer(key)

    def _wait_for_keys(
        self,
        keys: Sequence[str],
        *,
        first: bool = False,
        beyond: bool = False,
        shown: Shown = _WAITING,
    ) -> None:
        """Return when the steps are done; parks the segment where they are not.

        Args:
            first: One of them is enough; with `beyond`, one more than are done already.
        """
        self._check_deadline(Awaited(keys, first), replayed=True)
        self._refuse_in_flight(Awaited(keys, first), replayed=True)
        if not beyond and self._satisfied(keys, first):
            return
        missing = self._missing(keys)
        self._offer(missing)
        while True:
            self.check("wait")
            self._check_deadline(Awaited(keys, first))
            self._refresh(missing)
            left = self._missing(missing)
            if not left or (first and len(left) < len(missing)):
                return
            self._refuse_in_flight(Awaited(keys, first))
            if self._may_linger(left):
                time.sleep(_LINGER_POLL)
                continue
            self._park(left, 1 if first else len(left), shown)
            self._learn_all(left)

    def _refuse_in_flight(self, wait: Awaited, *, replayed: bool = False) -> None:
        """Refuse a wait that would hold up the inline calls of other branches, and throw them away where it parks.

        Args:
            replayed: Only if it was refused when this was first run.
        """
        name = f"refused-{wait.digest}"
        if self.replay.holds(self._line().peek(name)) or (not replayed and self._is_in_flight({_inside()})):
            self.observe(name, _refuse)

    async def _wait_for_keys_async(
        self,
        keys: Sequence[str],
        *,
        first: bool = False,
        beyond: bool = False,
        shown: Shown = _WAITING,
    ) -> None:
        """As `_wait_for_keys`, but lets the other branches go on; the loop parks when none can.

        A loop that the body runs by itself asks nobody when it is idle: there the wait parks by itself.
        """
        if not self._is_carried():
            self._wait_for_keys(keys, first=first, beyond=beyond, shown=shown)
            return
        wait = Awaited(keys, first)
        self._check_deadline(wait, replayed=True)
        await self._abandon_again(wait)
        if not beyond and self._satisfied(keys, first):
            return
        missing = self._missing(keys)
        if not missing:
            return
        self.check("wait")
        self._check_deadline(wait)
        suspended = _Suspended(asyncio.get_running_loop().create_future(), missing, first, shown, _inside())
        self._suspended.append(suspended)
        self._waiters.futures.add(suspended.future)
        try:
            await suspended.future
        except asyncio.CancelledError:
            self._abandon(wait)
            raise
        finally:
            self._waiters.futures.discard(suspended.future)
            self._suspended.remove(suspended)
        self.check("wait")

    def _abandon(self, wait: Awaited) -> None:
        """Keep that the branch was cancelled in this wait: so it is in a replay, be the steps done by then or not."""
        if self.is_stopped:
            return
        step = self._plain(self._line().ask(f"abandoned-{wait.digest}"), Kind.OBSERVATION)
        step.ending = abandoned()
        self._unwritten.append(step)

    async def _abandon_again(self, wait: Awaited) -> None:
        """Where this wait was abandoned: wait for whoever cancelled it."""
        name = f"abandoned-{wait.digest}"
        if self.replay.holds(self._line().peek(name)):
            record = self._answer(self._line().ask(name), None)
            assert record is not None
            await self._be_cancelled_again(record)

    async def _be_cancelled_again(self, record: StepRecord) -> None:
        """Where the branch was cancelled at this step: wait until a timer of the body's, or a branch, does so again."""
        # A state of that name that a task gives has a result: its exception.
        empty = record.result is None and not record.large
        if not empty or (record.state_type, record.state_name) != (StateType.CANCELLED, ABANDONED):
            return
        loop = asyncio.get_running_loop()
        if record.state_message == _OVER_TIME and isinstance(loop, BranchLoop):
            # Later, so that branches which began at the same time get as far as this one.
            loop.call_soon(loop.time_out)
        # Not among those that wait for steps: the timer would not be waited for.
        future = loop.create_future()
        self._waiters.abandoned[future] = NonDeterministic(record.branch, record.position, record.key, None)
        try:
            await future
        except NonDeterministic as error:
            self.mismatch = error
            raise
        finally:
            del self._waiters.abandoned[future]

    def _is_carried(self) -> bool:
        """Whether the running loop asks this segment when nothing is ready."""
        loop = asyncio.get_running_loop()
        return isinstance(loop, BranchLoop) and loop.waiters is self._waiters

    def look(self, stuck: bool) -> bool:
        """Wake branches whose steps are done; park if none can go on. Called by the loop when nothing is ready."""
        open_ = [each for each in self._suspended if not each.future.done()]
        if not open_:
            return False
        try:
            return self._look_for(open_, stuck)
        except Signal as signal:
            # Raised in the branches, not in the loop that asks.
            return self._fail_all(open_, signal)

    def _look_for(self, open_: Sequence[_Suspended], stuck: bool) -> bool:
        if self.parked:
            raise Parked
        if self.claim.lost:
            raise Fenced
        if self.claim.cancelled:
            raise Cancelled
        self.dispatch()
        keys = sorted({key for each in open_ for key in self._missing(each.keys)})
        self._refresh(keys)
        if self._wake(open_):
            return True
        if self._is_in_flight({each.inside for each in open_}) or not (stuck or self.carrier.stopping()):
            return False
        if stuck and (self._may_linger(keys) or self._may_await_timer()):
            return False
        paused = all(each.shown.type is StateType.PAUSED for each in open_)
        self._park(keys, 1, open_[0].shown if paused else _WAITING)
        self._learn_all(keys)
        return self._wake(open_)

    def _is_in_flight(self, waiting: set[str | None]) -> bool:
        """Whether inline calls go on, those that `waiting` names aside.

        On what, a thread or a process, the loop cannot see; parked, they would run twice. One that itself waits for
        steps, by way of a future that its body was not handed, goes on only after a park.
        """
        return not self._inline <= waiting

    def _wake(self, open_: Sequence[_Suspended]) -> bool:
        woken = False
        for each in open_:
            left = self._missing(each.keys)
            if not left or (each.first and len(left) < len(each.keys)):
                each.future.set_result(None)
                woken = True
        return woken

    def _fail_all(self, open_: Sequence[_Suspended], signal: BaseException) -> bool:
        for each in open_:
            each.future.set_exception(signal)
        return True

    def _may_linger(self, keys: Sequence[str]) -> bool:
        """Whether to wait a moment longer in this slot: others work on all of it, and nothing waits for the slot."""
        if self.row["streak_parks"] and self._linger_until is None:
            return False
        now = clock.monotonic()
        if self._linger_until is None:
            self._linger_until = now + LINGER
        if now >= self._linger_until or not {step.key for step in self._unwritten}.isdisjoint(keys):
            return False
        queues, offered = sorted(self.carrier.queues), now < self._offered_until
        return not self._read(lambda: waits.slot_is_wanted(self.database, self.claim, keys, queues, offered=offered))

    def _may_await_timer(self) -> bool:
        """Whether to stay in this slot for a timer of the body's that is due soon: after a park it would begin anew.

        Not where the slot is wanted, or the worker stops: then the timer waits for longer.
        """
        loop = asyncio.get_running_loop()
        left = loop.next_timer() if isinstance(loop, BranchLoop) else None
        if left is None or self.carrier.stopping():
            return False
        queues = sorted(self.carrier.queues)
        if left <= TIMER and not self._read(lambda: waits.slot_is_wanted(self.database, self.claim, (), queues)):
            return True
        self._warn_of_timers()
        return False

    def _warn_of_timers(self) -> None:
        if self._warned_of_timers or self.row["streak_parks"]:
            return
        self._warned_of_timers = True
        logger.warning(
            "flow run %s parks while a timer of its body runs (asyncio.timeout, asyncio.wait_for…), which begins anew "
            "when the run goes on; bound work by timeout_seconds, and a wait by wait([future], timeout=…)",
            self.claim.run_id,
        )

    def _offer(self, keys: Sequence[str]) -> None:
        """Announce new steps before parking, where other slots are there for all of them.

        A short task is then done in the time that a park and a wake-up would take.
        """
        wanted = set(keys)
        new = [step for step in self._unwritten if step.key in wanted and step.kind is Kind.TASK and not step.delay]
        if new and len(self._open) < self._read(lambda: self.carrier.slots(new[0].queue or "")):
            self.dispatch()
            self._offered_until = clock.monotonic() + OFFER

    def _park(self, keys: Sequence[str], count: int, shown: Shown) -> None:
        """Park, if what is needed is still not there.

        Raises:
            Parked: The run waits now.
        """
        needed = None if count == len(keys) and self._open <= set(keys) else tuple(keys)
        wanted = Park(needed, count, *shown, timed_out=self._timed_out)

        def park(unwritten: list[NewStep]) -> None:
            # A heartbeat that meets the park finds the claim gone, and says so once this is over: by then it is known
            # to be parked, and all is announced.
            parking = waits.park(self.database, self.claim, wanted, unwritten, window=self.window)
            self.parked = parking.parked
            self._announce(parking.announcements)

        with self._handed_over() as unwritten:
            self.guard(lambda: park(unwritten))
        if self.parked:
            raise Parked

    def key_of(self, future: Future[Any]) -> str:
        """The step key of a future of this run.

        Raises:
            DefinitionError: It is another run's.
        """
        if not isinstance(future, JournalFuture) or future.waiter is not self:
            raise DefinitionError(f"{future!r} belongs to another run; hand on its result instead")
        return future.key


def abandoned() -> Ending:
    """How a step ended in which the branch that runs was just cancelled."""
    loop = asyncio.get_running_loop()
    over_time = isinstance(loop, BranchLoop) and loop.expired
    return Ending(StateType.CANCELLED, ABANDONED, _OVER_TIME if over_time else _CANCELLED)


def _refuse() -> None:
    raise DefinitionError(
        "a call that is not awaited waits here for a step, while async tasks of other branches of this flow run; it "
        "would stop them: write `await future` for `future.result()` and `future.wait()`, and `await t.submit(x)` for "
        "`t(x)` where t is no async task; in place of `asyncio.run(…)` in a plain flow, make the flow async"
    )


def _inside() -> str | None:
    """The step in whose body this is called, if it is a task's."""
    context = task_run_context.get()
    return None if context is None else context.step_key
