"""Artifacts and variables of runs, in this process and on a worker."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from orchestra.store import artifacts, behind, interventions
from orchestra.store.artifacts import Query
from orchestra.store.database import Database
from orchestra.variables import Variable
from tests.drive import Driver, Killed
from tests.engine import artifact_flows as flows

pytestmark = pytest.mark.slow

Way = Callable[..., Any]


def kept(database: Database, key: str | None = None) -> list[artifacts.Artifact]:
    """The artifacts there are, the newest first."""
    behind.flush()
    return artifacts.page(database, Query(key=key), limit=50)


def shown(database: Database) -> Counter[tuple[str | None, Any]]:
    """What they show, and how many times, by key."""
    return Counter((each.key, each.data) for each in kept(database))


@pytest.fixture(autouse=True)
def effects() -> Iterator[list[str]]:
    """What the bodies did, in order."""
    flows.effects.clear()
    yield flows.effects
    flows.effects.clear()


@pytest.fixture(params=["here", "worker"])
def way(request: pytest.FixtureRequest, driver: Driver) -> Way:
    """Both ways of running."""

    def here(flow: Any, **parameters: Any) -> Any:
        state = flow(**parameters, return_state=True)
        return asyncio.run(state) if asyncio.iscoroutine(state) else state

    return here if request.param == "here" else driver.run


REPORTED = {
    ("log", "start"): 1,
    ("log", "end [1, 2]"): 1,
    ("part", '[{"number": 1}]'): 1,
    ("part", '[{"number": 2}]'): 1,
    (None, 100.0): 2,
}


def test_a_run_shows_what_it_made_once(way: Way, driver: Driver) -> None:
    """With who made it; the ids that its body got are theirs."""
    first, second, done, newest = way(flows.reporting).result()

    assert shown(driver.database) == REPORTED
    assert (done, newest) == ([1, 2], second)
    log = kept(driver.database, "log")
    assert [each.id for each in log] == [second, first]
    assert log[0].description == "at the end"
    assert all(each.task_run_id is None for each in log)
    assert len({each.flow_run_id for each in kept(driver.database)} - {None}) == 1
    assert len({each.task_run_id for each in kept(driver.database, "part")} - {None}) == 2


@pytest.mark.parametrize("after_commit", [False, True])
@pytest.mark.parametrize("write", range(1, 11))
def test_one_artifact_is_there_though_a_worker_dies_at_any_write(
    driver: Driver, write: int, after_commit: bool
) -> None:
    """Just before it or just after; those of a body that is run again are made over."""
    run_id = driver.submit(flows.reporting)
    driver.workers_database.kill_at(write, after_commit=after_commit)
    with pytest.raises(Killed):
        driver.settle()
    driver.lapse()
    driver.elapse(40)

    first, second, done, newest = driver.finish(run_id).result()

    assert shown(driver.database) == REPORTED
    assert (done, newest) == ([1, 2], second)
    assert [each.id for each in kept(driver.database, "log")] == [second, first]


def test_branches_show_artifacts(way: Way, driver: Driver) -> None:
    """And a coroutine may await the plain verbs."""
    made = way(flows.reporting_async).result()

    assert sorted(made) == sorted(each.id for each in kept(driver.database))


def test_a_retry_reads_variables_anew_and_shows_only_what_differs(driver: Driver, effects: list[str]) -> None:
    """What the variable does not touch stays."""
    Variable.set("mode", "wrong")
    run_id = driver.submit(flows.moded)
    assert driver.finish(run_id).is_failed()

    Variable.set("mode", "mended", overwrite=True)
    driver.carrier.announce(interventions.retry(driver.database, run_id))

    assert driver.finish(run_id).result() == "mended"
    assert effects == ["other", "needs wrong", "needs mended"]
    assert shown(driver.database) == {("same", "same"): 1, ("mode", "mode wrong"): 1, ("mode", "mode mended"): 1}


def test_a_body_meets_a_refusal_as_it_was(way: Way) -> None:
    """Also in a replay, by when it would be none."""
    Variable.set("taken", 1)

    assert way(flows.refused).result() == ["VariableExists", "ArtifactNotFound", "True", "False"]


def test_each_try_of_a_task_is_a_version(way: Way, driver: Driver) -> None:
    """It may show what went wrong."""
    way(flows.trying).result()

    assert shown(driver.database) == {("tries", "a try"): 2}


@pytest.mark.parametrize("fails", [True, False])
def test_an_artifact_goes_with_the_db_transaction_around_it(way: Way, driver: Driver, fails: bool) -> None:
    """It is there if the task's own rows are."""
    assert way(flows.booking, fails=fails).is_failed() is fails

    assert shown(driver.database) == ({} if fails else {("booked", "booked"): 1})


def test_hooks_show_artifacts(way: Way, driver: Driver) -> None:
    """Of a state, and of a rollback."""
    assert way(flows.rolled_back).is_failed()
    driver.settle()

    assert shown(driver.database) == {("begun", "begun"): 1, ("undone", "given back"): 1, ("ended", "Failed"): 1}
    assert Variable.get("undone") is True


def test_who_has_lost_its_claim_shows_nothing(driver: Driver, effects: list[str]) -> None:
    """And goes no further: its successor does."""
    driver.submit(flows.losing)
    driver.step()
    driver.step()

    assert effects == ["overtaken"]
    assert kept(driver.database, "late") == []
