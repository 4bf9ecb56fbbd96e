"""A worker that computes for later calls and dies: its entry is there just where its step is."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from orchestra.store import cache, cache_records
from orchestra.store.database import Database
from orchestra.store.tables import Phase, slots, steps
from tests.drive import Driver, Killed
from tests.engine import cache_flows

#: More writes than the flows make.
WRITES = 24


@pytest.fixture
def driver(database: Database) -> Driver:
    """Over SQLite and PostgreSQL."""
    return Driver(database, slots=1)


def entries(database: Database) -> int:
    return len(cache_records.list_entries(database, cache.Query(task="double"), limit=9).items)


def computed(database: Database) -> int:
    """Steps whose own body gave their result."""
    query = sa.select(sa.func.count()).where(steps.c.phase == Phase.DONE, steps.c.state_name == "Completed")
    return int(database.read(lambda connection: connection.scalar(query.where(steps.c.path.like("%:double")))) or 0)


@pytest.mark.parametrize("after_commit", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("flow", [cache_flows.direct, cache_flows.submitted], ids=["direct", "submitted"])
def test_a_death_at_any_write_leaves_step_and_entry_alike(
    driver: Driver, effects: list[str], flow: Any, after_commit: bool
) -> None:
    """Just before or just after it; what goes on is answered by the entry, or computes it, and no lock stays."""
    database = driver.database
    for write in range(1, WRITES):
        cache.clear(database, cache.Query())
        effects.clear()
        database.write(lambda connection: connection.execute(sa.delete(steps)))
        run_id = driver.submit(flow)
        driver.workers_database.kill_at(write, after_commit=after_commit)
        try:
            driver.finish(run_id)
        except Killed:
            assert entries(database) == computed(database), f"after death at write {write}"
        died = driver.workers_database.dead
        driver.workers_database.revive()
        driver.lapse()
        driver.elapse(60.0)

        assert driver.finish(run_id).result() == [2, 2]
        assert entries(database) == computed(database) == 1
        assert len(effects) <= 2 if died else len(effects) == 1
        taken = sa.select(sa.func.count()).select_from(slots).join(steps, steps.c.id == slots.c.step_id)
        assert database.read(lambda c, taken=taken: c.scalar(taken.where(steps.c.phase != Phase.DONE))) == 0
        if not died:
            return
    raise AssertionError("the flow makes more writes than were tried")


def test_a_waiting_step_is_woken_when_the_lock_is_let_go(driver: Driver, effects: list[str]) -> None:
    """It holds no slot meanwhile, and is answered."""
    state = driver.run(cache_flows.submitted)

    assert state.result() == [2, 2]
    assert effects == ["double 1"]
