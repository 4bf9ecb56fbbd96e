"""Transactions on workers that die: whatever is killed when, each hook ends once, newest first."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from orchestra.errors import IllegalTransition, RollbackFailed, RunTimeout, TransactionNotFound
from orchestra.store import interventions, transactions
from orchestra.store.tables import transaction_hooks
from orchestra.transaction_rules import Durable, HookState
from tests.drive import Driver, Killed
from tests.engine import transaction_flows as flows

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing was done yet."""
    for each in (flows.effects, flows.switch, flows.keys):
        each.clear()
    yield
    for each in (flows.effects, flows.switch, flows.keys):
        each.clear()


def go_on(driver: Driver, run_id: str) -> Any:
    """The final state, once nothing dies any more."""
    driver.lapse()
    driver.elapse(120)
    driver.settle()
    driver.elapse(120)
    return driver.finish(run_id)


def hooks(driver: Driver, run_id: str) -> list[tuple[str, str, str]]:
    """Each hook's kind, name and state, in the order of registration."""
    return [(hook.kind, hook.name, hook.state) for hook in transactions.hooks(driver.database, run_id, 1)]


def states(driver: Driver, run_id: str, run_attempt: int = 1) -> set[str]:
    """The states of a run's transactions."""
    return {row.state for row in transactions.load(driver.database, run_id, run_attempt)}


def undone() -> list[str]:
    """The keys of the hooks that undid something, without what was repeated because its process died."""
    counts: Counter[str] = Counter()
    found: dict[str, None] = {}
    for what in flows.effects:
        if what.startswith(("cancel", "undo")):
            found[flows.keys[what][counts[what]]] = None
            counts[what] += 1
    return list(found)


def check_rolled_back(driver: Driver, run_id: str) -> None:
    """Every rollback hook has ended well, each was called with one key, newest first, and nothing was done after."""
    assert states(driver, run_id) == {Durable.ROLLED_BACK}
    rollbacks = [hook for hook in hooks(driver, run_id) if hook[0] == "rollback"]
    assert {state for _, _, state in rollbacks} == {HookState.COMPLETED}
    called = undone()
    registered = [hook.key for hook in transactions.hooks(driver.database, run_id, 1) if hook.kind == "rollback"]
    assert [key.removeprefix(f"{run_id}/") for key in called] == registered[::-1]
    first = next(n for n, what in enumerate(flows.effects) if what.startswith(("cancel", "undo")))
    assert not [what for what in flows.effects[first:] if what.startswith("book")]


@pytest.mark.parametrize("after_commit", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", range(1, 29))
def test_a_worker_may_die_at_any_write_of_a_block_that_fails(driver: Driver, write: int, after_commit: bool) -> None:
    """Just before it or just after: the rollback is done to its end, by another one."""
    run_id = driver.submit(flows.trip, fails=True)
    driver.workers_database.kill_at(write, after_commit=after_commit)
    died = False
    try:
        driver.settle()
        driver.elapse(120)
        driver.settle()
    except Killed:
        died = True

    state = go_on(driver, run_id)

    assert (state.type, str(state.data)) == ("FAILED", "no")
    check_rolled_back(driver, run_id)
    assert len(flows.effects) <= 8 + died
    assert died, "the run has fewer writes than this test thinks"


@pytest.mark.parametrize("after_commit", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", range(1, 34))
def test_a_worker_may_die_at_any_write_of_a_block_that_ends_well(
    driver: Driver, write: int, after_commit: bool
) -> None:
    """It is committed, its hooks run, and nothing is undone."""
    run_id = driver.submit(flows.trip, fails=False)
    driver.workers_database.kill_at(write, after_commit=after_commit)
    died = False
    try:
        driver.settle()
        driver.elapse(120)
        driver.settle()
    except Killed:
        died = True

    assert go_on(driver, run_id).result() == "booked"
    assert states(driver, run_id) == {Durable.COMMITTED}
    assert undone() == []
    commits = [state for kind, _, state in hooks(driver, run_id) if kind == "commit"]
    assert commits == [HookState.COMPLETED] * 4
    assert len(flows.effects) <= 7 + died


@pytest.mark.parametrize("after_commit", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", range(1, 16))
def test_a_cancelled_run_is_rolled_back_whatever_dies(driver: Driver, write: int, after_commit: bool) -> None:
    """In the segment that ends it, without its body."""
    run_id = driver.submit(flows.trip, fails=True)
    driver.settle()
    driver.carrier.announce(interventions.cancel(driver.database, run_id))
    driver.workers_database.kill_at(write, after_commit=after_commit)
    with contextlib.suppress(Killed):
        driver.settle()

    assert go_on(driver, run_id).name == "Cancelled"
    check_rolled_back(driver, run_id)
    assert "book car" not in flows.effects


def test_a_block_fails_in_the_replay_as_it_did_before(driver: Driver) -> None:
    """Though its code would go on now: what was decided stands, and the body goes on behind the block."""
    run_id = driver.submit(flows.catching)
    # Dies when the rollback was decided, and before any hook.
    driver.workers_database.kill_at(4, after_commit=False)
    with pytest.raises(Killed):
        driver.settle()
    assert states(driver, run_id) == {Durable.ROLLING_BACK}
    flows.switch["mended"] = True

    assert go_on(driver, run_id).result() == "no: bus"
    assert "book hotel" not in flows.effects
    assert flows.effects == ["book flight", "cancel for Ada", "book bus", "confirm"]


def test_a_hook_that_is_tried_again_later_holds_no_slot(driver: Driver) -> None:
    """The run is given back until its next try is due; the hooks after it wait."""
    run_id = driver.submit(flows.later_hook)
    driver.settle()
    assert flows.effects == ["release seat"]
    assert driver.row(run_id)["phase"] == "READY"

    driver.elapse(10)
    _make_hooks_due(driver)
    state = driver.finish(run_id)

    assert flows.effects == ["release seat", "release seat", "undo first"]
    assert len(set(flows.keys["release seat"])) == 1
    assert (state.name, str(state.data)) == ("Failed", "no")


def _make_hooks_due(driver: Driver) -> None:
    driver.database.write(lambda c: c.execute(transaction_hooks.update().values(due_at=0.0)))


def test_a_run_over_its_time_is_rolled_back(driver: Driver) -> None:
    """Where it waits inside of its block."""
    run_id = driver.submit(flows.timed_out)
    driver.settle()
    driver.elapse(40)

    state = driver.finish(run_id)

    assert isinstance(state.data, RunTimeout)
    check_rolled_back(driver, run_id)


def test_a_run_that_is_interrupted_is_rolled_back_at_its_end(driver: Driver) -> None:
    """A timeout that strikes in the midst of the body's own code, though the block sees only a signal."""
    state = driver.finish(run_id := driver.submit(flows.interrupted))

    assert (state.name, type(state.data)) == ("TimedOut", RunTimeout)
    check_rolled_back(driver, run_id)


@pytest.mark.parametrize("death", range(1, 8))
def test_a_run_that_is_interrupted_is_not_run_again_by_who_rolls_it_back(driver: Driver, death: int) -> None:
    """How its body ended is kept first."""
    run_id = driver.submit(flows.interrupted)
    driver.workers_database.kill_at(2 + death, after_commit=True)
    with contextlib.suppress(Killed):
        driver.settle()

    driver.lapse()
    state = driver.finish(run_id)

    assert state.name == "TimedOut"
    check_rolled_back(driver, run_id)


def test_a_crashed_run_is_rolled_back(driver: Driver) -> None:
    """Once its crash budget is spent; the hooks run without the body."""
    run_id = driver.submit(flows.crashing)
    driver.workers_database.kill_at(2, after_commit=True)
    with pytest.raises(Killed):
        driver.settle()
    for _ in range(2):
        _lapse_by_death(driver)

    driver.lapse()
    state = driver.finish(run_id)

    assert state.name == "Crashed"
    check_rolled_back(driver, run_id)


def _lapse_by_death(driver: Driver) -> None:
    """A worker claims the run, and dies before it has done anything."""
    driver.lapse()
    driver.sweep()
    driver.workers_database.kill_at(1, after_commit=True)
    with pytest.raises(Killed):
        driver.settle()


def test_a_hook_that_kills_its_process_each_time_is_given_up(driver: Driver) -> None:
    """It counts as failed, the rest still run, and the run ends as RollbackFailed."""
    run_id = driver.submit(flows.swallowing)
    # Its claim, two hooks registered, the rollback decided, and then the start of the newest hook: three times.
    for write in (5, 2, 2):
        driver.workers_database.kill_at(write, after_commit=True)
        with pytest.raises(Killed):
            driver.settle()
        driver.lapse()
        driver.sweep()

    state = driver.finish(run_id)

    assert (state.type, state.name) == ("FAILED", "RollbackFailed")
    assert "died or hung 3 times" in str(state.message)
    assert hooks(driver, run_id) == [
        ("rollback", "undo", HookState.COMPLETED),
        ("rollback", "undo", HookState.FAILED),
    ]
    assert flows.effects == ["undo first"]


def test_what_was_rolled_back_is_done_again_by_a_retry(driver: Driver) -> None:
    """`flow-run retry`: nothing of the block is answered from the journal, and its work has keys of its own."""
    run_id = driver.submit(flows.retried)
    assert driver.finish(run_id).is_failed()
    flows.switch["mended"] = True

    driver.carrier.announce(interventions.retry(driver.database, run_id))

    assert driver.finish(run_id).result() == ["flight", 2]
    assert flows.effects == ["book flight", "cancel for Ada", "book flight", "confirm"]
    assert len(set(flows.keys["book flight"])) == 2
    assert states(driver, run_id) == {Durable.ROLLED_BACK}
    assert states(driver, run_id, 2) == {Durable.COMMITTED}


def test_failed_hooks_are_run_again_by_hand(driver: Driver) -> None:
    """Once what keeps them from undoing is mended: then the run shows as rolled back."""
    flows.switch["second fails"] = True
    run_id = driver.submit(flows.swallowing)
    state = driver.finish(run_id)
    assert state.name == "RollbackFailed"
    assert isinstance(state.data, RollbackFailed)
    assert flows.effects == ["undo second", "undo first"]
    assert states(driver, run_id) == {Durable.ROLLBACK_FAILED}
    flows.effects.clear()
    flows.switch.clear()

    found = transactions.find(driver.database, run_id)
    driver.carrier.announce(transactions.retry(driver.database, run_id, found.key, found.run_attempt))
    driver.settle()

    assert flows.effects == ["undo second"]
    assert states(driver, run_id) == {Durable.ROLLED_BACK}
    assert (driver.row(run_id)["state_type"], driver.row(run_id)["state_name"]) == ("FAILED", "RolledBack")
    with pytest.raises(IllegalTransition):
        transactions.retry(driver.database, run_id, found.key, found.run_attempt)


def test_transactions_are_found_and_paged(driver: Driver) -> None:
    """By run, by key, by state, the newest first."""
    run_id = driver.submit(flows.many, count=3)
    driver.finish(run_id)
    other = driver.submit(flows.many, count=1)
    driver.finish(other)

    first = transactions.page(driver.database, run_id=run_id, limit=2)
    assert [row.key for row in first] == ["main/txn-2", "main/txn-1"]
    assert [row.key for row in transactions.page(driver.database, run_id=run_id, before=first[-1])] == ["main/txn-0"]
    assert len(transactions.page(driver.database, states=[Durable.COMMITTED])) == 4
    assert transactions.page(driver.database, states=[Durable.ROLLED_BACK]) == []
    assert transactions.find(driver.database, run_id, "txn-1").key == "main/txn-1"
    with pytest.raises(TransactionNotFound, match="txn-2"):
        transactions.find(driver.database, run_id)
    with pytest.raises(TransactionNotFound):
        transactions.find(driver.database, "nobody")


# -- keys --------------------------------------------------------------------------------------------------------


def test_only_one_at_a_time_works_for_a_serializable_key(driver: Driver) -> None:
    """The second waits parked while the first one's block is parked, and then finds it committed."""
    first, second = (driver.submit(flows.one_at_a_time, key="invoice") for _ in range(2))
    other = driver.submit(flows.one_at_a_time, key="letter")
    driver.settle()
    assert flows.effects == ["book invoice", "book letter"]
    assert driver.row(second)["state_name"] == "AwaitingConcurrencySlot"

    driver.end_timers(first)
    driver.end_timers(other)

    assert driver.finish(first).result() == "did it"
    assert driver.finish(second).result() == "found it"
    assert driver.finish(other).result() == "did it"
    assert flows.effects[2:] == ["confirm", "confirm"]


def test_a_serializable_key_is_free_once_it_was_rolled_back(driver: Driver) -> None:
    """The next one does it."""
    first = driver.submit(flows.one_at_a_time, key="invoice", fails=True)
    second = driver.submit(flows.one_at_a_time, key="invoice")
    driver.settle()
    driver.end_timers(first)
    assert driver.finish(first).is_failed()

    driver.settle()
    driver.end_timers(second)

    assert driver.finish(second).result() == "did it"
    assert flows.effects == ["book invoice", "cancel for Ada", "book invoice", "confirm"]
