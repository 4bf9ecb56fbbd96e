"""Slots of limits on both databases: never more than the limit, in the order of asking, and none that stays behind."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra.store import claims, due, interventions, limits, settle, slots
from orchestra.store.claims import Claim
from orchestra.store.database import Database
from orchestra.store.slots import Holder
from orchestra.store.tables import Phase, steps
from tests.store.test_races import DONE, claimed, dispatch, key, lapse, new_run, phases, race, rounds, task

_numbers = itertools.count()


def process(lease_seconds: float = 60.0) -> Holder:
    """A holder of its own, outside of any run."""
    return slots.of_process(f"test-{next(_numbers)}", lease_seconds=lease_seconds)


def acquire(database: Database, holder: Holder, *names: str, occupy: int = 1, wait: bool = True) -> bool:
    """Ask for slots; gives whether they are had."""
    return slots.acquire(database, holder, names or ("db",), occupy, wait=wait).granted


def taken(database: Database, name: str = "db") -> int:
    """How many slots are taken, by the same count as everybody's."""
    return database.read(lambda connection: slots.taken(connection, name))


def rows(database: Database) -> list[Any]:
    """All rows of slots."""
    return database.read(lambda connection: connection.execute(sa.select(slots.slots)).all())


def step_claims(database: Database, count: int) -> list[Claim]:
    """Claimed steps of a run of their own."""
    run = new_run(database)
    dispatch(database, run, *(task(number) for number in range(count)))
    return claimed(database, run, *range(count))


@pytest.fixture(autouse=True)
def limit(database: Database) -> None:
    """A limit of 2 named `db`."""
    limits.create(database, "db", 2)


def test_a_limit_gives_so_many_slots_and_no_more(database: Database) -> None:
    """The next one waits until one is given back; asking again changes nothing."""
    first, second, third = process(), process(), process()
    assert [acquire(database, each) for each in (first, second, third, third, first)] == [
        True,
        True,
        False,
        False,
        True,
    ]

    slots.release(database, first)
    assert slots.is_granted(database, third.key)
    assert taken(database) == 2


def test_those_who_wait_are_served_in_the_order_of_asking(database: Database) -> None:
    """Nobody overtakes, neither one who needs less nor one who comes when something is free."""
    holder, big, small = process(), process(), process()
    assert acquire(database, holder)
    assert not acquire(database, big, occupy=2)
    assert not acquire(database, small)

    slots.release(database, holder)
    assert [slots.is_granted(database, each.key) for each in (big, small)] == [True, False]
    slots.release(database, big)
    assert slots.is_granted(database, small.key)


def test_slots_of_several_limits_are_had_together_or_not_at_all(database: Database) -> None:
    """One who waits holds nothing."""
    limits.create(database, "api", 1)
    holder, both = process(), process()
    assert acquire(database, holder, "api")
    assert not acquire(database, both, "db", "api")
    assert (taken(database), taken(database, "api")) == (0, 1)

    slots.release(database, holder)
    assert (taken(database), taken(database, "api")) == (1, 1)


def test_one_who_does_not_wait_leaves_nothing(database: Database) -> None:
    """And asking for what has no limit gives it, and says so."""
    limits.update(database, "db", {"slot_limit": 0})
    assert not acquire(database, process(), occupy=3, wait=False)
    assert rows(database) == []
    asked = slots.acquire(database, process(), ["nothing"])
    assert (asked.granted, asked.missing) == (True, ("nothing",))


def test_a_lock_needs_no_limit_of_its_own(database: Database) -> None:
    """It is a limit of 1, whoever asks for it."""
    first, second = process(), process()
    assert [acquire(database, each, "cache:key") for each in (first, second)] == [True, False]
    slots.release(database, first)
    assert slots.is_granted(database, second.key)


def test_a_dead_process_is_passed_over(database: Database) -> None:
    """Once its lease is over: its slots are free, and its place in the line is gone."""
    gone, gone_too, waits = process(0.0), process(0.0), process()
    acquire(database, gone, occupy=2)
    acquire(database, gone_too, occupy=2)
    assert acquire(database, waits)
    assert slots.renew(database, {gone.key: 9.0, waits.key: 9.0}) == {gone.key}
    assert slots.purge(database) == 2


def test_a_sweep_frees_what_a_process_of_this_host_has_that_is_dead(database: Database) -> None:
    """Whatever its lease says."""
    holder, waits = process(), process()
    acquire(database, holder, occupy=2)
    assert not acquire(database, waits)

    slots.sweep(database, lambda owner: False)
    assert not slots.is_granted(database, waits.key)
    dead = Holder("dead", slots.Owner.PROCESS, "elsewhere:1:2", lease_seconds=60.0)
    slots.release(database, holder, waits)
    assert acquire(database, dead, occupy=2)
    assert not acquire(database, waits)
    slots.sweep(database, lambda owner: owner == dead.owner)
    assert slots.is_granted(database, waits.key)


# -- steps -------------------------------------------------------------------------------------------------------


def test_a_step_has_its_slots_as_long_as_its_claim(database: Database) -> None:
    """The transaction that ends it frees them; nothing need be given back."""
    first, *others = step_claims(database, 3)
    for each in others:
        assert acquire(database, slots.of_claim(each, "tags"))
    assert not acquire(database, slots.of_claim(first, "tags"))

    settle.complete(database, others[0], DONE)
    assert taken(database) == 1
    slots.sweep(database)
    assert taken(database) == 2
    lapse(database, others[1])
    assert taken(database) == 1


def test_a_step_that_must_wait_is_set_back_and_called_in_its_turn(database: Database) -> None:
    """It shows that it waits for a slot; then it is due, announced, and finds its slots."""
    first, second, third = step_claims(database, 3)
    for each in (first, second):
        assert slots.acquire_or_set_back(database, each, slots.of_claim(each, "tags"), ["db"]).granted
    asked = slots.acquire_or_set_back(database, third, slots.of_claim(third, "tags"), ["db"])
    run = Claim("flow", third.run_id, 1, None, "", 1, 30.0, 0.0)
    assert (asked.granted, phases(database, run)[key(2)]) == (False, (Phase.READY, "AwaitingConcurrencySlot"))
    assert claims.claim_step(database, third.run_id, 1, key(2)) is None
    assert [each for each in due.take_due(database) if each.step_key == key(2)] == []

    settle.complete(database, first, DONE)
    found = slots.release(database, slots.of_claim(first, "tags"))
    assert [each.step_key for each in found] == [key(2)]
    again = claims.claim_step(database, third.run_id, 1, key(2))
    assert again is not None
    assert slots.acquire_or_set_back(database, again.claim, slots.of_claim(again.claim, "tags"), ["db"]).granted
    assert taken(database) == 2


def test_a_claim_taken_over_has_the_slots_of_the_one_before(database: Database) -> None:
    """Unless another one was given them meanwhile."""
    first, second = step_claims(database, 2)
    assert acquire(database, slots.of_claim(first, "tags"), occupy=2)
    lapse(database, first)
    again = claims.claim_step(database, first.run_id, 1, key(0))
    assert again is not None
    assert acquire(database, slots.of_claim(again.claim, "tags"), occupy=2)
    assert taken(database) == 2

    lapse(database, again.claim)
    assert acquire(database, slots.of_claim(second, "tags"))
    once_more = claims.claim_step(database, first.run_id, 1, key(0))
    assert once_more is not None
    assert not acquire(database, slots.of_claim(once_more.claim, "tags"), occupy=2)
    assert taken(database) == 1


def test_a_cancelled_step_leaves_the_line(database: Database) -> None:
    """The next one is served at the sweep."""
    first, second = step_claims(database, 2)
    other = step_claims(database, 1)[0]
    assert acquire(database, slots.of_claim(first, "tags"), occupy=2)
    for each in (second, other):
        slots.acquire_or_set_back(database, each, slots.of_claim(each, "tags"), ["db"])
    interventions.cancel(database, second.run_id)
    settle.complete(database, first, DONE)

    assert [each.run_id for each in slots.sweep(database)] == [other.run_id]


# -- limits ------------------------------------------------------------------------------------------------------


def test_raising_a_limit_serves_at_once_and_lowering_takes_nothing_away(database: Database) -> None:
    """Disabling or deleting it lets everybody go on."""
    holders = [process() for _ in range(6)]
    assert [acquire(database, each) for each in holders] == [True] * 2 + [False] * 4
    limits.update(database, "db", {"slot_limit": 3})
    assert taken(database) == 3
    limits.update(database, "db", {"slot_limit": 0})
    assert taken(database) == 3
    limits.update(database, "db", {"active": False})
    assert taken(database) == 6
    assert acquire(database, process())


def test_one_who_asks_for_more_than_a_lowered_limit_has_holds_nobody_up(database: Database) -> None:
    """It keeps its place, and is served once the limit is raised."""
    holds, wants_two, wants_one = process(), process(), process()
    acquire(database, holds)
    acquire(database, wants_two, occupy=2)
    acquire(database, wants_one)

    limits.update(database, "db", {"slot_limit": 1})
    slots.release(database, holds)
    assert slots.is_granted(database, wants_one.key)
    slots.release(database, wants_one)
    assert not slots.is_granted(database, wants_two.key)

    limits.update(database, "db", {"slot_limit": 2})
    assert slots.is_granted(database, wants_two.key)


def test_a_lowered_limit_opens_the_other_lines_of_those_who_wait_for_it(database: Database) -> None:
    """Who waits for two limits, one of which has too few now, does not stand in the way at the other."""
    limits.create(database, "gpu", 1)
    holds, wants_both, wants_one = process(), process(), process()
    acquire(database, holds, "gpu")
    acquire(database, wants_both, "db", "gpu")
    assert not acquire(database, wants_one)

    limits.update(database, "gpu", {"slot_limit": 0})

    assert slots.is_granted(database, wants_one.key)


# -- races -------------------------------------------------------------------------------------------------------


def test_of_many_at_once_no_more_than_the_limit_have_slots(database: Database) -> None:
    """And all are served in the end."""
    limits.create(database, "api", 3)
    for number in range(rounds(database, 15)):
        holders = [process() for _ in range(6)]
        names = [("db", "api") if (each + number) % 3 else ("api",) for each in range(6)]
        works = [lambda h=h, n=n: acquire(database, h, *n) for h, n in zip(holders, names, strict=True)]  # type: ignore[misc]
        race(*works)
        left = list(holders)
        while left:
            assert taken(database) <= 2
            assert taken(database, "api") <= 3
            having = [each for each in left if slots.is_granted(database, each.key)]
            assert having
            race(*(lambda each=each: slots.release(database, each) for each in having))  # type: ignore[misc]
            left = [each for each in left if each not in having]
        assert rows(database) == []


def test_ends_beside_waits_leave_no_step_waiting(database: Database) -> None:
    """A step that is set back just while a slot becomes free is called."""
    for _ in range(rounds(database, 15)):
        claims_ = step_claims(database, 5)
        holders = [slots.of_claim(each, "tags") for each in claims_]
        for each in range(2):
            assert slots.acquire_or_set_back(database, claims_[each], holders[each], ["db"]).granted

        def end(number: int, claims_: list[Claim] = claims_, holders: list[Holder] = holders) -> Any:
            settle.complete(database, claims_[number], DONE)
            return slots.release(database, holders[number])

        def ask(number: int, claims_: list[Claim] = claims_, holders: list[Holder] = holders) -> Any:
            return slots.acquire_or_set_back(database, claims_[number], holders[number], ["db"])

        found = race(lambda: end(0), lambda: end(1), lambda: ask(2), lambda: ask(3), lambda: ask(4))
        assert [each for each in found if isinstance(each, Exception)] == []
        assert taken(database) == 2
        query = sa.select(steps.c.step_key).where(
            steps.c.run_id == claims_[0].run_id, steps.c.due_at > time.time() + 1000
        )
        # Nothing else waits than the one for which there is none left.
        assert len(database.read(lambda connection, query=query: connection.scalars(query).all())) <= 1
        interventions.cancel(database, claims_[0].run_id)
        for claim in claims_:
            lapse(database, claim)
        database.write(lambda connection: connection.execute(sa.delete(slots.slots)).rowcount)
