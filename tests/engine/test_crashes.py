"""Workers that die: what they had not finished is done again, within a budget."""

from __future__ import annotations

import contextlib

import pytest

from orchestra.engine import interrupts
from orchestra.engine.heartbeat import Heart
from orchestra.errors import CrashedRun, Fenced, StoreError
from orchestra.settings import override
from orchestra.states import StateType
from orchestra.store import claims, interventions
from orchestra.store.database import Database
from tests.drive import Driver, Killed
from tests.engine import flows
from tests.helpers import wait_until

pytestmark = pytest.mark.slow


def die(driver: Driver, write: int, *, after_commit: bool = False) -> bool:
    """Carry one message on a worker that dies at its n-th write; whether it came to that."""
    driver.workers_database.kill_at(write, after_commit=after_commit)
    try:
        driver.step()
    except Killed:
        return True
    finally:
        driver.lapse()
        driver.elapse(40)
    return False


@pytest.mark.parametrize("after_commit", [False, True])
@pytest.mark.parametrize("write", range(1, 13))
def test_a_worker_may_die_at_any_write(driver: Driver, effects: list[str], write: int, after_commit: bool) -> None:
    """Just before it or just after: no step that was recorded is run again, at most the one in flight is."""
    run_id = driver.submit(flows.mixture)
    driver.workers_database.kill_at(write, after_commit=after_commit)
    with pytest.raises(Killed):
        driver.settle()
    driver.lapse()
    driver.elapse(40)

    assert driver.finish(run_id).result() == [1, 12, 3, [5]]
    assert len(effects) <= 4 + (not after_commit)


@pytest.mark.parametrize("access", range(1, 30))
def test_a_database_that_is_away_for_long_fails_no_run(driver: Driver, effects: list[str], access: int) -> None:
    """At whichever read or write, though it is back at the next: what was given up is taken up again, and ends well."""
    run_id = driver.submit(flows.mixture)
    driver.workers_database.cut_off_at(access)
    with contextlib.suppress(StoreError):
        driver.settle()
    driver.workers_database.revive()
    driver.lapse()
    driver.elapse(40)

    assert driver.finish(run_id).result() == [1, 12, 3, [5]]
    assert len(effects) <= 5


def test_a_run_that_kills_its_worker_each_time_is_crashed(driver: Driver, effects: list[str]) -> None:
    """After three starts in all without getting any further; it is kept for a retry."""
    run_id = driver.submit(flows.linear, n=2)
    for _ in range(3):
        assert die(driver, 2)
        driver.sweep()

    state = driver.finish(run_id)
    assert state.type is StateType.CRASHED
    assert "3 times in a row" in (state.message or "")
    assert effects.count("add 0 1") == 3
    with pytest.raises(CrashedRun):
        state.result()

    driver.carrier.announce(interventions.retry(driver.database, run_id))
    assert driver.finish(run_id).result() == 2


def test_a_run_that_gets_on_between_two_deaths_is_not_crashed(driver: Driver, effects: list[str]) -> None:
    """Each new journal row counts from zero again."""
    run_id = driver.submit(flows.linear, n=6)
    for _ in range(6):
        assert die(driver, 2, after_commit=True)
        driver.sweep()

    assert driver.finish(run_id).result() == 6
    assert len(effects) == 6


def test_a_task_that_kills_its_worker_each_time_is_crashed(driver: Driver, effects: list[str]) -> None:
    """Three starts; its flow sees the failure."""
    run_id = driver.submit(flows.fan_out, n=1)
    driver.step()
    for _ in range(3):
        assert die(driver, 2)
        driver.sweep()

    state = driver.finish(run_id)
    assert (
        state.message == "CrashedRun: its worker died or hung 3 times in a row while running it" or state.is_crashed()
    )
    assert effects.count("add 0 1") == 3


def test_a_crashed_run_waits_for_what_it_submitted(driver: Driver, effects: list[str]) -> None:
    """It is final when that is: a retry must not start what still runs."""
    run_id = driver.submit(flows.dispatches_then_runs)
    assert die(driver, 4, after_commit=False)
    for _ in range(2):
        driver.sweep()
        assert die_in_flow(driver)

    assert driver.finish(run_id).is_crashed()
    assert all(step.done for step in driver.steps(run_id))
    assert effects.count("add 1 1") == 1


def die_in_flow(driver: Driver) -> bool:
    """Let the next segment die in the body of its inline task; other messages wait."""
    messages = driver.carrier.messages
    messages.sort(key=lambda message: message.kind != "flow")
    return die(driver, 2)


def test_giving_back_counts_no_lapse(driver: Driver) -> None:
    """A worker that shuts down in order is no crash, however often."""
    run_id = driver.submit(flows.linear, n=1)
    driver.carrier.stops = True
    for _ in range(5):
        driver.step()
        driver.sweep()
    driver.carrier.stops = False

    assert driver.finish(run_id).result() == 1


def test_the_budget_is_a_setting(sqlite_database: Database, effects: list[str]) -> None:
    """ORCHESTRA_CRASH_BUDGET."""
    override(crash_budget=1)
    driver = Driver(sqlite_database)
    run_id = driver.submit(flows.linear, n=1)
    assert die(driver, 2)

    assert driver.finish(run_id).is_crashed()


def test_work_that_was_given_up_by_an_error_may_be_claimed_at_once(driver: Driver) -> None:
    """Though the process that gave up lives on, and the lease is long; it counts as a lapse."""
    run_id = driver.submit(flows.linear, n=1)
    first = claims.claim_run(driver.database, run_id)
    assert first is not None
    with pytest.raises(OSError, match="disk"), Heart(lambda: driver.database).hold(first.claim):
        raise OSError("disk full")

    second = wait_until(lambda: claims.claim_run(driver.database, run_id), "the claim to lapse")

    assert second.row["lapses"] == 1


class Taken:
    """A claim that is held here with a short lease, and was made again elsewhere."""

    def __init__(self, driver: Driver) -> None:
        """Submit a run and claim it; `lose` has another process claim it."""
        self.driver = driver
        self.run_id = driver.submit(flows.linear, n=1)
        claimed = claims.claim_run(driver.database, self.run_id)
        assert claimed is not None
        self.claim = claimed.claim
        self.claim.lease_seconds = 0.6

    def lose(self) -> None:
        """Have another process claim it."""
        claims.let_lapse(self.driver.database, [self.claim])
        assert claims.claim_run(self.driver.database, self.run_id) is not None


def test_a_claim_that_is_lost_before_its_body_begins_interrupts_the_body(driver: Driver) -> None:
    """It is told again until there is a body to be told."""
    taken = Taken(driver)

    def segment() -> None:
        with Heart(lambda: driver.database).hold(taken.claim):
            taken.lose()
            wait_until(lambda: taken.claim.lost, "the heartbeat to learn it")
            with interrupts.armed():
                wait_until(lambda: False, "the interruption")

    with pytest.raises(Fenced):
        segment()


def test_a_body_that_swallows_the_loss_of_its_claim_is_told_again(driver: Driver) -> None:
    """After a lease: it goes on beside its successor."""
    taken = Taken(driver)

    def segment() -> None:
        with Heart(lambda: driver.database).hold(taken.claim), interrupts.armed():
            taken.lose()
            with contextlib.suppress(Fenced):
                wait_until(lambda: False, "the interruption")
            wait_until(lambda: False, "the second interruption")

    with pytest.raises(Fenced):
        segment()


def test_a_renewal_that_fails_keeps_no_other_loss_from_its_body(driver: Driver) -> None:
    """The loss of one claim is told though that of another cannot be looked up."""
    taken, other = Taken(driver), Taken(driver)
    other.claim.kind = "neither"  # type: ignore[assignment]  # there is no such thing to renew
    other.claim.renewed_at = 0.0
    heart = Heart(lambda: driver.database)

    def segments() -> None:
        with heart.hold(taken.claim), heart.hold(other.claim), interrupts.armed():
            taken.lose()
            wait_until(lambda: False, "the interruption")

    with pytest.raises(Fenced):
        segments()
