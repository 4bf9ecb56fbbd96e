"""What many endings let go on at once."""

from __future__ import annotations

import pytest

from orchestra.store import interventions, settle
from orchestra.store.database import Database
from orchestra.store.journal import Ending
from orchestra.store.tables import Phase
from tests.store.test_races import BAD, DONE, announced, claimed, dispatch, key, new_run, phases, task

#: Enough for each to be more than one goes through one by one.
MANY = 20


@pytest.mark.parametrize(
    ("ending", "shown"),
    [
        pytest.param(DONE, (Phase.READY, "Pending"), id="well"),
        pytest.param(BAD, (Phase.DONE, "UpstreamFailed"), id="badly"),
    ],
)
def test_one_step_ends_many_joins(database: Database, ending: Ending, shown: tuple[str, str]) -> None:
    """Its dependents, each with another upstream beside, are all let go, and those of a failure all failed."""
    run = new_run(database)
    others, dependents = range(1, MANY + 1), range(MANY + 1, 2 * MANY + 1)
    dispatch(database, run, *[task(n) for n in (0, *others)], *[task(n, key(0), key(n - MANY)) for n in dependents])
    # A second row of dependents, for the failures of the first.
    last = range(2 * MANY + 1, 3 * MANY + 1)
    dispatch(database, run, *[task(n, key(n - MANY)) for n in last])
    common, *rest = claimed(database, run, 0, *others)
    for claim in rest:
        settle.complete(database, claim, DONE)
    to_announce = announced([settle.complete(database, common, ending)])

    found = phases(database, run)
    assert {found[key(n)] for n in dependents} == {shown}
    later = (Phase.WAITING, "Pending") if ending is DONE else shown
    assert {found[key(n)] for n in last} == {later}
    assert to_announce == ([key(n) for n in dependents][:16] if ending is DONE else [])


def test_a_cancelled_run_of_many_steps_ends_them_all(database: Database) -> None:
    """Over several transactions; dependents are cancelled too, not failed or let go, and running steps are told."""
    run = new_run(database)
    dispatch(database, run, *[task(n) for n in range(2_100)], task(2_100, key(0)), task(2_101, key(5)))
    claimed(database, run, 3, 2_000)
    interventions.cancel(database, run.run_id)

    found = phases(database, run)
    assert [found.pop(key(n)) for n in (3, 2_000)] == [(Phase.CLAIMED, "Cancelling")] * 2
    assert set(found.values()) == {(Phase.DONE, "Cancelled")}


def test_what_a_join_lets_go_is_announced_by_its_queues_window(database: Database) -> None:
    """As what is dispatched: a large queue is not held to the least window."""
    run = new_run(database)
    dispatch(database, run, task(0), *[task(n, key(0)) for n in range(1, 41)])
    (claim,) = claimed(database, run, 0)
    let_go = settle.complete(database, claim, DONE, window=lambda queue: {"q": 30}[queue])
    assert announced([let_go]) == [key(n) for n in range(1, 31)]
