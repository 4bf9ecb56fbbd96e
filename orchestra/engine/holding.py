"""Slots of limits that a flow body on a worker has for a block, and those that its inline calls need for their tags.

A block is two steps of the journal: one that waits for the slots, parked, and one that has given them back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from orchestra import serializers, states
from orchestra.awaitables import in_coroutine
from orchestra.engine import slots as engine_slots
from orchestra.engine.asking import Asking
from orchestra.engine.journaled import SegmentStart
from orchestra.engine.slots import NO_SLOTS, NoSlots, limits_of, too_late, warn_of_loop, warn_of_missing
from orchestra.engine.values import ending_of
from orchestra.engine.waiting import Shown
from orchestra.errors import ConcurrencySlotAcquisitionError, RunTimeout
from orchestra.questions import Slots
from orchestra.states import StateType
from orchestra.store import body_slots, slots
from orchestra.store.journal import Ending
from orchestra.store.slots import Asked, Holder
from orchestra.store.tables import Kind

#: The names of the two steps of a block.
_TAKE, _LEAVE = "slot", "slot-left"
#: How the second one ends.
LEFT = Ending(StateType.COMPLETED, "Completed", result=serializers.encode(None))


class Holding(Asking):
    """The slots of one segment."""

    def __init__(self, start: SegmentStart) -> None:
        """Begin a segment."""
        super().__init__(start)
        #: Of inline calls that run, by step key.
        self._tag_holders: dict[str, Holder] = {}

    @contextmanager
    def slots(self, wanted: Slots) -> Iterator[None]:
        """Have these slots while inside; no worker slot is held while the body waits for them.

        Raises:
            AcquireConcurrencySlotTimeoutError: They were not to be had in time.
            ConcurrencySlotAcquisitionError: They can never be had.
        """
        key = self._ask_slots(wanted)
        if key in self._open:
            warn_of_loop(wanted)
        try:
            self._wait_for_keys([key], shown=_shown(wanted))
        except RunTimeout:
            self._give_up_slots(wanted, key)
            raise
        self._check_had(wanted, key)
        try:
            yield
        finally:
            self._leave_slots(key)

    @asynccontextmanager
    async def slots_async(self, wanted: Slots) -> AsyncIterator[None]:
        """As `slots`, holding up the calling branch only."""
        key = self._ask_slots(wanted)
        try:
            await self._wait_for_keys_async([key], shown=_shown(wanted))
        except (RunTimeout, asyncio.CancelledError):
            self._give_up_slots(wanted, key)
            raise
        self._check_had(wanted, key)
        try:
            yield
        finally:
            self._leave_slots(key)

    def _ask_slots(self, wanted: Slots) -> str:
        """Ask for slots. The step is written at once: it has them then, or stands in line."""
        self.check("concurrency()")
        self._check_deadline()
        asked = self._line().ask(_TAKE)
        # A retry of the flow takes slots of its own.
        if self._answer(asked, None, self._of_attempt) is not None:
            return asked.key
        self.dispatch()
        step = self._plain(asked, Kind.SLOT)
        step.fingerprint, step.delay = self._of_attempt, wanted.timeout
        self._unwritten.append(step)
        self._open.add(asked.key)
        try:
            found = self._write_asking(wanted, asked.key)
        except ConcurrencySlotAcquisitionError as error:
            # Journaled as it is: in a replay somebody may have made the limit.
            step.ending, self._states[asked.key] = ending_of(states.from_exception(error), what="a slot")
            self._open.discard(asked.key)
            self._flush(dispatched=False)
            return asked.key
        warn_of_missing(found.missing)
        self._announce(found.announcements)
        self._learn_all([asked.key])
        return asked.key

    def _write_asking(self, wanted: Slots, key: str) -> Asked:
        refusal, _ = ending_of(states.from_exception(too_late(wanted)), what="a slot")
        with self._handed_over() as unwritten:
            return self.guard(
                lambda: body_slots.ask(
                    self.database, self.claim, wanted, key, unwritten, refusal=refusal, window=self.window
                )
            )

    def _check_had(self, wanted: Slots, key: str) -> None:
        state = self._state(key)
        # Whoever ended the wait in its time knew the step alone, and not what it waits for.
        if state.name == "TimedOut":
            raise too_late(wanted)
        state.result()

    def _leave_slots(self, key: str) -> None:
        """Give slots back, and journal that; a run that parks keeps them, and one that is ending has lost them."""
        if self.is_stopped:
            return
        asked = self._line().ask(_LEAVE)
        if self._answer(asked, None, self._of_attempt) is not None:
            return
        step = self._plain(asked, Kind.OBSERVATION)
        step.fingerprint, step.ending = self._of_attempt, LEFT
        self._unwritten.append(step)
        with self._handed_over() as unwritten:
            announcements = self.guard(
                lambda: body_slots.leave(self.database, self.claim, key, unwritten, window=self.window)
            )
        self._announce(announcements)

    def _give_up_slots(self, wanted: Slots, key: str) -> None:
        """Leave the line, or give back what was given just now: the body does not go into its block."""
        record = self._records.get(key)
        if self.is_stopped or (record is not None and record.done and record.state_type == StateType.CANCELLED):
            return
        with self._handed_over() as unwritten:
            announcements = self.guard(
                lambda: body_slots.give_up(self.database, self.claim, wanted, key, unwritten, window=self.window)
            )
        self._announce(announcements)
        self._learn_all([key])

    # -- of tags -------------------------------------------------------------------------------------------------

    def take_tag_slots(self, key: str, tags: tuple[str, ...]) -> bool:
        """Take the slots that an inline call needs for its tags, if they are free now."""
        names = limits_of(tags)
        if not names:
            return True
        holder = slots.of_claim(self.claim, engine_slots.TAGS, key)
        asked = self.guard(lambda: slots.acquire(self.database, holder, names, wait=False))
        if asked.granted:
            self._tag_holders[key] = holder
        return asked.granted

    def wait_for_tag_slots(self, key: str, tags: tuple[str, ...]) -> None:
        """Take these slots for a call that nobody else can carry out: waits in this worker slot.

        Raises:
            ConcurrencySlotAcquisitionError: In a coroutine, which would hold up the branches that have the slots.
        """
        if in_coroutine():
            raise ConcurrencySlotAcquisitionError(
                f"step {key!r} must wait for a slot of its tags, and cannot be sent to another process that does so: "
                "give it arguments that can be encoded, and define it at the top of a module"
            )
        slots_of_tags = self.tag_slots(key, tags)
        slots_of_tags.take()
        self._tag_holders[key] = slots.of_claim(self.claim, engine_slots.TAGS, key)

    def tag_slots(self, key: str | None, tags: tuple[str, ...]) -> NoSlots:
        """The slots that a call in this segment needs for its tags, to be waited for here; given back at its end."""
        return engine_slots.of_tags(tags, slots.of_claim(self.claim, engine_slots.TAGS, key)) if tags else NO_SLOTS

    def give_tag_slots(self, key: str) -> None:
        """Hand on the slots of an inline call whose end is written."""
        holder = self._tag_holders.pop(key, None)
        if holder is not None and not self.is_stopped:
            self._announce(self.guard(lambda: slots.release(self.database, holder)))


def _shown(wanted: Slots) -> Shown:
    return Shown(StateType.RUNNING, "AwaitingConcurrencySlot", f"waits for slots of {wanted.named}")
