"""Slots of limits against a small model: who has some, who waits, in which order; nothing leaks, nobody starves."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings, stateful
from hypothesis import strategies as st

from orchestra.store import limits, slots, tables
from orchestra.store.database import Database, create_schema
from orchestra.store.slots import Holder, Owner
from tests.exploring import tries

pytestmark = pytest.mark.slow

#: Limits, by how many slots they have at first; a lock, which has one always; and a name without a limit.
LIMITS = {"a": 2, "b": 1, "c": 3}
NAMES = st.sets(st.sampled_from([*LIMITS, "cache:x", "nothing"]), min_size=1, max_size=3)
HOLDERS = st.integers(0, 7)


@dataclass
class Model:
    """What slots are: lines, and who is in."""

    limits: dict[str, int | None] = field(default_factory=lambda: {**LIMITS, "cache:x": 1})
    #: Of each holder, what it asked for, in the order of asking.
    waiting: dict[int, tuple[set[str], int]] = field(default_factory=dict)
    having: dict[int, tuple[set[str], int]] = field(default_factory=dict)

    def taken(self, name: str) -> int:
        """How many slots of a limit are taken."""
        return sum(occupy for names, occupy in self.having.values() if name in names)

    def fits(self, names: set[str], occupy: int) -> bool:
        """Whether so many are free."""
        found = ((self.limits.get(name), self.taken(name)) for name in names)
        return all(limit is None or taken + occupy <= limit for limit, taken in found)

    def asks_too_much(self, holder: int) -> bool:
        """Whether a limit was lowered below what a holder waits for."""
        names, occupy = self.waiting[holder]
        return any((limit := self.limits.get(name)) is not None and limit < occupy for name in names)

    def is_first(self, holder: int) -> bool:
        """Whether a holder is first in each line of a limit that limits something, of those who can be served."""
        names = {name for name in self.waiting[holder][0] if self.limits.get(name) is not None}
        before = list(self.waiting)[: list(self.waiting).index(holder)]
        before = [each for each in before if not self.asks_too_much(each)]
        return not any(names & self.waiting[each][0] for each in before)

    def serve(self) -> None:
        """Let everybody in whose turn it is."""
        while turns := [h for h in self.waiting if self.is_first(h) and self.fits(*self.waiting[h])]:
            self.having[turns[0]] = self.waiting.pop(turns[0])


class Slots(stateful.RuleBasedStateMachine):
    """Processes ask, give back, and die; people change limits."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.database = Database(f"sqlite:///{Path(self._folder.name) / 'slots.db'}")
        create_schema(self.database)
        for name, limit in LIMITS.items():
            limits.create(self.database, name, limit)
        self.model = Model()

    def holder(self, number: int) -> Holder:
        """A process of its own."""
        return Holder(f"holder-{number}", Owner.PROCESS, f"host:{number + 1}:1", lease_seconds=3600.0)

    @stateful.rule(number=HOLDERS, names=NAMES, occupy=st.integers(1, 2), wait=st.booleans())
    def ask(self, number: int, names: set[str], occupy: int, wait: bool) -> None:
        """For slots of several limits; who has asked before is left as it is."""
        model = self.model
        if number in model.having or number in model.waiting:
            return
        limited = {name for name in names if model.limits.get(name) is not None}
        if any(0 < (model.limits[name] or 0) < occupy for name in limited):
            return
        model.waiting[number] = limited, occupy
        model.serve()
        expected = number in model.having
        if not expected and not wait:
            del model.waiting[number]
        asked = slots.acquire(self.database, self.holder(number), names, occupy, wait=wait)
        assert asked.granted == expected
        if not limited:
            del model.having[number]

    @stateful.rule(number=HOLDERS)
    def give_back(self, number: int) -> None:
        """Slots, or a place in the line."""
        self.model.having.pop(number, None)
        self.model.waiting.pop(number, None)
        self.model.serve()
        slots.release(self.database, self.holder(number))
        slots.sweep(self.database, lambda owner: False)

    @stateful.rule(number=HOLDERS)
    def die(self, number: int) -> None:
        """Without a word; the sweeper finds it."""
        self.model.having.pop(number, None)
        self.model.waiting.pop(number, None)
        self.model.serve()
        owner = self.holder(number).owner
        slots.expire_dead(self.database, [*LIMITS, "cache:x"], lambda each: each == owner)
        slots.sweep(self.database, lambda each: False)
        slots.purge(self.database)

    @stateful.rule(name=st.sampled_from(sorted(LIMITS)), limit=st.integers(0, 4))
    def change(self, name: str, limit: int) -> None:
        """How many slots a limit has; those who are in stay in."""
        self.model.limits[name] = limit
        self.model.serve()
        limits.update(self.database, name, {"slot_limit": limit, "active": True})

    @stateful.invariant()
    def has_what_the_model_has(self) -> None:
        """The same are in, and the same wait."""
        query = sa.select(tables.slots.c.holder, tables.slots.c.taken_at)
        rows = self.database.read(lambda connection: connection.execute(query).all())
        expected = {(f"holder-{number}", True) for number in self.model.having}
        expected |= {(f"holder-{number}", False) for number in self.model.waiting}
        assert {(row.holder, row.taken_at is not None) for row in rows} == expected

    def teardown(self) -> None:
        """Once all limits have room again, and whoever is in leaves, everybody has been in, and nothing is left."""
        for name in LIMITS:
            self.change(name, 2)
        while self.model.having or self.model.waiting:
            assert self.model.having, "nobody is in, and some wait"
            for number in list(self.model.having):
                self.give_back(number)
        self.has_what_the_model_has()
        self.database.close()
        self._folder.cleanup()


Slots.TestCase.settings = settings(max_examples=tries(30), stateful_step_count=30, deadline=None)
TestSlots = Slots.TestCase
