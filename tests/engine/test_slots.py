"""Slots of limits in flows on a worker: nothing is held up, nothing is taken twice, nothing stays behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from orchestra.engine import slots as engine_slots
from orchestra.errors import ConcurrencySlotAcquisitionError, RunTimeout
from orchestra.store import due, interventions, limits, slots
from orchestra.store.database import Database
from orchestra.store.slots import Holder
from orchestra.store.tables import Phase
from tests.drive import Driver, Killed
from tests.engine import slot_flows
from tests.store.test_slots import rows, taken

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def effects(sqlite_database: Database) -> Iterator[list[Any]]:
    """A limit of 1 named `db`, one for the tag, and what bodies did."""
    limits.create(sqlite_database, "db", 1)
    limits.create(sqlite_database, "tag:db", 1)
    limits.create(sqlite_database, "api", 2, slot_decay_per_second=0.1)
    engine_slots.forget()
    slot_flows.effects.clear()
    slot_flows.looks.clear()
    yield slot_flows.effects
    engine_slots.forget()


def block_others(database: Database, name: str = "db") -> Holder:
    """Take the only slot."""
    holder = slots.of_process("another", lease_seconds=600.0)
    assert slots.acquire(database, holder, [name]).granted
    return holder


def let_go(driver: Driver, holder: Holder) -> None:
    """Give it back."""
    driver.carrier.announce(slots.release(driver.database, holder))


def has_left_nothing(database: Database) -> bool:
    """Whether no row of slots is left, dead or alive."""
    return rows(database) == []


# -- blocks ------------------------------------------------------------------------------------------------------


def test_a_flow_that_waits_for_a_slot_is_parked(driver: Driver, effects: list[Any]) -> None:
    """It holds no worker slot, shows what it waits for, and goes on when it is its turn."""
    other = block_others(driver.database)
    run_id = driver.submit(slot_flows.short_block)
    driver.settle()
    row = driver.row(run_id)
    assert (row["phase"], row["state_name"]) == (Phase.WAITING, "AwaitingConcurrencySlot")
    assert effects == []

    let_go(driver, other)
    assert driver.finish(run_id).is_completed()
    assert effects == ["a"]
    assert has_left_nothing(driver.database)


def test_a_parked_flow_keeps_its_slot(driver: Driver, effects: list[Any]) -> None:
    """A second one waits until the first one's block is over, however often that is replayed."""
    first, second = driver.submit(slot_flows.block, what="a"), driver.submit(slot_flows.block, what="b")
    driver.settle()
    assert taken(driver.database) == 1

    driver.elapse(60)
    driver.settle()
    assert effects == ["a", "a out"]
    driver.elapse(60)
    assert driver.finish(second).is_completed()
    assert driver.finish(first).is_completed()
    assert effects == ["a", "a out", "b", "b out"]
    assert has_left_nothing(driver.database)


@pytest.mark.parametrize("after_commit", [False, True])
@pytest.mark.parametrize("write", range(1, 8))
def test_a_worker_that_dies_takes_no_slot_twice(
    driver: Driver, effects: list[Any], write: int, after_commit: bool
) -> None:
    """At any of its writes; the limit of 1 lets both runs end."""
    first, second = driver.submit(slot_flows.short_block, what="a"), driver.submit(slot_flows.short_block, what="b")
    driver.workers_database.kill_at(write, after_commit=after_commit)
    for _ in range(20):
        with contextlib.suppress(Killed):
            driver.settle()
        if driver.workers_database.dead:
            driver.lapse()
            driver.elapse(60)
    assert all(driver.finish(run_id).is_completed() for run_id in (first, second))
    assert taken(driver.database) == 0
    slots.purge(driver.database)
    assert has_left_nothing(driver.database)


def test_slots_of_several_limits_and_blocks(driver: Driver, effects: list[Any]) -> None:
    """One after the other."""
    run_id = driver.submit(slot_flows.two_blocks)
    for _ in range(2):
        driver.settle()
        assert (taken(driver.database), taken(driver.database, "api")) == (1, 1)
        driver.elapse(60)
    assert driver.finish(run_id).is_completed()
    assert has_left_nothing(driver.database)


def test_a_block_that_fails_gives_its_slots_back(driver: Driver) -> None:
    """As any block does."""
    run_id = driver.submit(slot_flows.block_that_fails)
    driver.settle()
    driver.elapse(60)
    assert driver.finish(run_id).is_failed()
    assert has_left_nothing(driver.database)


def test_a_retry_of_the_flow_takes_slots_of_its_own(driver: Driver, effects: list[Any]) -> None:
    """What the attempt before had is free meanwhile."""
    run_id = driver.submit(slot_flows.block_of_a_flaky_flow)
    driver.settle()
    assert taken(driver.database) == 0
    assert slot_flows.effects == ["try"]
    effects.append("other")
    driver.elapse(1)
    assert driver.finish(run_id).is_failed() or taken(driver.database) == 0


def test_a_cancelled_flow_frees_its_slots(driver: Driver) -> None:
    """Parked in its block or waiting in line; those behind it are served at the sweep."""
    inside, waiting, last = (driver.submit(slot_flows.block, what=what) for what in "abc")
    driver.settle()
    for run_id in (waiting, inside):
        driver.carrier.announce(interventions.cancel(driver.database, run_id))
    driver.settle()
    assert [driver.row(run_id)["state_name"] for run_id in (inside, waiting)] == ["Cancelled", "Cancelled"]
    driver.elapse(60)
    assert driver.finish(last).is_completed()


def test_a_wait_for_slots_ends_when_its_time_is_over(driver: Driver) -> None:
    """With a TimeoutError, and its place in the line is free."""
    other = block_others(driver.database)
    run_id = driver.submit(slot_flows.timed_block)
    behind = driver.submit(slot_flows.short_block)
    driver.settle()
    driver.elapse(30)
    assert "AcquireConcurrencySlotTimeoutError: 1 slots of 'db' were not to be had" in driver.finish(run_id).result()
    let_go(driver, other)
    assert driver.finish(behind).is_completed()


def test_a_flow_over_its_time_leaves_the_line(driver: Driver) -> None:
    """The next one is served."""
    other = block_others(driver.database)
    run_id = driver.submit(slot_flows.late_block)
    behind = driver.submit(slot_flows.short_block)
    driver.settle()
    driver.elapse(30)
    with pytest.raises(RunTimeout):
        driver.finish(run_id).result()
    let_go(driver, other)
    assert driver.finish(behind).is_completed()
    assert has_left_nothing(driver.database)


def test_nobody_waits_at_a_timeout_of_nought(driver: Driver) -> None:
    """The error is journaled."""
    block_others(driver.database)
    state = driver.run(slot_flows.block, timeout=0)
    with pytest.raises(TimeoutError, match="at once"):
        state.result()
    assert len(rows(driver.database)) == 1


def test_branches_of_an_async_flow_wait_each_for_itself(driver: Driver, effects: list[Any]) -> None:
    """One at a time is in."""
    assert driver.run(slot_flows.branches, count=3).is_completed()
    assert sorted(str(each) for each in effects if str(each).isdigit()) == ["0", "1", "2"]
    assert has_left_nothing(driver.database)


def test_a_limit_that_is_not_there_limits_nothing(driver: Driver) -> None:
    """Or is an error, if one wants that; so is asking for more than there is."""
    assert driver.run(slot_flows.nothing_limited).result() == "in"
    with pytest.raises(ConcurrencySlotAcquisitionError, match="no concurrency limit 'nothing'"):
        driver.run(slot_flows.strict).result()
    with pytest.raises(ConcurrencySlotAcquisitionError, match="occupy=2 is more"):
        driver.run(slot_flows.block, occupy=2).result()


# -- tags --------------------------------------------------------------------------------------------------------


def test_a_tagged_task_has_a_slot_while_its_body_runs(driver: Driver) -> None:
    """Directly called or submitted."""
    seen: list[int] = []
    slot_flows.looks.append(lambda: seen.append(taken(driver.database, "tag:db")))
    assert driver.run(slot_flows.direct, count=2).result() == [0, 1]
    assert driver.run(slot_flows.submitted, count=2).result() == [0, 1]
    assert seen == [1] * 4
    assert has_left_nothing(driver.database)


@pytest.mark.parametrize("flow", [slot_flows.direct, slot_flows.submitted])
def test_a_tagged_task_waits_without_a_worker_slot(driver: Driver, effects: list[Any], flow: Any) -> None:
    """It is set back, and called when it is its turn."""
    other = block_others(driver.database, "tag:db")
    run_id = driver.submit(flow, count=2)
    driver.settle()
    waiting = [step.state_name for step in driver.steps(run_id)]
    assert set(waiting) == {"AwaitingConcurrencySlot"}
    assert effects == []

    let_go(driver, other)
    assert driver.finish(run_id).result() == [0, 1]
    assert has_left_nothing(driver.database)


def test_a_retry_of_a_tagged_task_frees_its_slot_meanwhile(driver: Driver, effects: list[Any]) -> None:
    """Another one may have it until the next try."""
    run_id = driver.submit(slot_flows.flaky)
    driver.settle()
    assert effects == ["try"]
    assert taken(driver.database, "tag:db") == 0
    driver.elapse(10)
    assert driver.finish(run_id).is_completed()


def test_async_inline_calls_wait_for_their_slots(driver: Driver, effects: list[Any]) -> None:
    """One is in at a time, and the loop is not held up."""
    assert driver.run(slot_flows.direct_async, count=3).result() == [0, 1, 2]
    assert [each.partition(" ")[0] for each in effects] == ["in", "out"] * 3


def test_a_task_that_is_not_journaled_waits_as_well(driver: Driver) -> None:
    """In its worker slot."""
    assert driver.run(slot_flows.not_kept).result() == "a"
    assert has_left_nothing(driver.database)


def test_a_block_in_a_task_lives_as_long_as_its_claim(driver: Driver) -> None:
    """Its slots are the step's."""
    kinds: list[str] = []
    slot_flows.looks.append(lambda: kinds.extend(row.kind for row in rows(driver.database)))
    assert driver.run(slot_flows.blocks_in_tasks, count=2).is_completed()
    assert kinds == ["step", "step"]
    assert has_left_nothing(driver.database)


@pytest.mark.parametrize("after_commit", [False, True])
@pytest.mark.parametrize("write", range(1, 14))
def test_a_worker_that_dies_leaves_no_slot_of_a_tag(driver: Driver, write: int, after_commit: bool) -> None:
    """At any of its writes; all tasks are run."""
    run_id = driver.submit(slot_flows.submitted, count=3)
    driver.workers_database.kill_at(write, after_commit=after_commit)
    for _ in range(20):
        with contextlib.suppress(Killed):
            driver.settle()
        if driver.workers_database.dead:
            driver.lapse()
            driver.elapse(60)
    assert driver.finish(run_id).result() == [0, 1, 2]
    assert taken(driver.database, "tag:db") == 0


# -- rates -------------------------------------------------------------------------------------------------------


def test_a_rate_limited_flow_sleeps_without_a_worker_slot(driver: Driver, effects: list[Any]) -> None:
    """Two are free at first, then one in ten seconds."""
    run_id = driver.submit(slot_flows.limited, count=3)
    driver.settle()
    assert effects == [0, 1]
    assert driver.row(run_id)["phase"] == Phase.WAITING
    assert 9 < (due.next_due(driver.database) or 0) - driver.database.now() <= 10
    driver.elapse(10)
    assert driver.finish(run_id).is_completed()
