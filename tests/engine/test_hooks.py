"""State hooks: which are called, with what, how often; in this process and on a worker."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from orchestra import flow, settings, tags, task
from orchestra.engine import operations
from orchestra.errors import DefinitionError
from orchestra.states import State, StateType
from orchestra.store import claims, interventions, logs, queries, removal
from orchestra.store import owed as owed_hooks_store
from orchestra.store.behind import behind
from orchestra.store.database import Database
from orchestra.store.tables import flow_runs, owed_hooks
from tests.drive import Driver, Killed
from tests.engine import hook_flows as flows
from tests.helpers import wait_until

pytestmark = pytest.mark.slow

#: Runs a flow to its end, and gives its final state.
Run = Callable[..., State[Any]]


@pytest.fixture(autouse=True)
def told() -> Iterator[list[Any]]:
    """What hooks noted, in order."""
    flows.told.clear()
    flows.failures.clear()
    yield flows.told
    flows.told.clear()


def call(flow: Any, **parameters: Any) -> State[Any]:
    """Run a flow in this process."""
    found = flow(**parameters, return_state=True)
    state: State[Any] = asyncio.run(found) if inspect.iscoroutine(found) else found
    return state


@pytest.fixture(params=["local", "worker"])
def run(request: pytest.FixtureRequest, sqlite_database: Database) -> Run:
    """Runs a flow to its end, in this process or as a worker does."""
    return call if request.param == "local" else Driver(sqlite_database, slots=1).run


def owed(database: Database) -> int:
    """How many debts there are."""
    return len(database.read(lambda connection: connection.execute(owed_hooks.select()).all()))


# -- which, and with what ----------------------------------------------------------------------------------------


def test_a_flow_that_ends_well_calls_its_hooks(run: Run, told: list[Any]) -> None:
    """That it runs, then that it has ended; no other."""
    assert run(flows.well).result() == "well"

    assert told == [("well", "Running"), ("well", "Completed")]


def test_a_flow_that_fails_calls_its_hooks(run: Run, told: list[Any]) -> None:
    """The failure stays what it was."""
    state = run(flows.badly)

    assert told == [("badly", "Running"), ("badly", "Failed")]
    with pytest.raises(ValueError, match="no"):
        state.result()


def test_a_retried_flow_calls_on_running_each_time_and_on_failure_once(run: Run, told: list[Any]) -> None:
    """Only the last failure is one."""
    run(flows.badly_twice)

    names = [name for _, name in told]
    assert names == ["Running", "Retrying", "Failed"]


def test_async_hooks_are_awaited(run: Run, told: list[Any]) -> None:
    """Of flows and tasks, sync and async alike; in their order."""
    assert run(flows.awell).result() == 2

    assert told == [
        ("awork", "async Running"),
        ("awork", "Completed"),
        ("awork", "async Completed"),
        ("awell", "Completed"),
        ("awell", "async Completed"),
    ]


@pytest.mark.parametrize("flow", [flows.hooked_badly, flows.with_bad_hooks])
def test_a_hook_that_raises_keeps_no_other_from_being_called(run: Run, told: list[Any], flow: Any) -> None:
    """Nor does it change the outcome, whatever it raises."""
    state = run(flow)

    assert state.is_completed()
    assert {name for _, name in told} == {"Completed"}


def test_what_a_hook_raises_stands_in_the_log_of_its_run(run: Run, sqlite_database: Database) -> None:
    """With its name and its traceback."""
    run(flows.hooked_badly)

    lines = all_lines(sqlite_database, run_of(sqlite_database))
    assert any("'raising' raised RuntimeError: the pager is broken" in line for line in lines)
    assert any("Traceback" in line for line in lines)


def test_a_flow_hook_is_told_of_its_flow_and_run(run: Run, told: list[Any]) -> None:
    """The flow as the user knows it; the run's id, name, parameters and times; its final state."""
    run(flows.told_of, number=7)

    ((subject, flow_run, state),) = told
    assert subject is flows.told_of
    assert (flow_run.flow_name, flow_run.parameters, flow_run.run_count) == ("told-of", {"number": 7}, 1)
    assert (flow_run.state, flow_run.state_type, flow_run.tags) == (state, StateType.FAILED, [])
    assert flow_run.total_run_time == flow_run.end_time - flow_run.start_time >= timedelta()
    assert state.state_details.flow_run_id == flow_run.id
    with pytest.raises(ValueError, match="no 7"):
        state.result()


def test_a_task_hook_is_told_of_its_task_and_run(run: Run, told: list[Any]) -> None:
    """Called directly or submitted."""
    assert run(flows.showing).result() == ["aa", "bbb"]

    (task, direct, state), (_, submitted, _) = told
    assert task is flows.shown
    assert (direct.task_name, direct.parameters, direct.run_count) == ("shown", {"number": 2, "text": "a"}, 1)
    assert submitted.parameters == {"number": 3, "text": "b"}
    assert direct.flow_run_id == submitted.flow_run_id != None  # noqa: E711
    assert state.result() == "aa"
    assert state.state_details.task_run_id == direct.id


def test_hooks_may_log_and_call_tasks(run: Run, told: list[Any], sqlite_database: Database) -> None:
    """`get_run_logger()` writes to the log of their run."""
    state = run(flows.talking)

    assert told == ["plus", 2]
    assert any("told me that it is Completed" in line for line in all_lines(sqlite_database, run_of(sqlite_database)))
    assert state.is_completed()


def test_a_task_that_is_tried_again_calls_on_running_each_time(run: Run, told: list[Any]) -> None:
    """And no other hook before the last try."""
    assert run(flows.trying, times=2).result() == "there"

    assert told == [("flaky", "Running"), ("flaky", "Retrying"), ("flaky", "Retrying"), ("flaky", "Completed")]


@pytest.mark.parametrize("flow", [flows.trying, flows.trying_submitted])
def test_on_failure_of_a_task_is_called_after_the_last_try(run: Run, told: list[Any], flow: Any) -> None:
    """Once."""
    run(flow, times=3)

    assert [name for _, name in told] == ["Running", "Retrying", "Retrying", "Failed"]


def test_a_failed_task_calls_all_its_hooks(run: Run, told: list[Any]) -> None:
    """In their order."""
    assert run(flows.failing_task).result() == "caught"

    assert told == [("broken", "Running"), ("broken", "Failed"), ("broken", "async Failed")]


def test_a_flow_that_is_called_by_another_calls_its_hooks(run: Run, told: list[Any]) -> None:
    """Before its caller goes on."""
    run(flows.above)

    assert told == [("well", "Running"), ("well", "Completed"), ("above", "Completed")]


@pytest.mark.parametrize(("fails", "last"), [(False, "completed"), (True, "failed")])
def test_hooks_may_be_added_by_decorators(run: Run, told: list[Any], fails: bool, last: str) -> None:
    """`@my_flow.on_failure`; the function stays what it was."""
    run(flows.decorated, fails=fails)

    assert told == ["running", last]
    assert callable(flows.when_completed)


def test_hooks_may_be_set_by_with_options(sqlite_database: Database, told: list[Any]) -> None:
    """For the copy only; hooks added to it go with its runs."""
    call(flows.renamed)

    assert told == [("renamed", "Running"), ("renamed", "Completed"), "once more"]


def test_copies_of_tasks_call_their_own_hooks(run: Run, told: list[Any]) -> None:
    """Also where another process makes them anew; the hook is handed the copy."""
    assert run(flows.with_copies).result() == 3

    expected = ["work", ("relabelled", "async Completed"), "twice"]
    assert told == expected * 2


@pytest.mark.parametrize("flow", [flows.waiting, flows.awaiting_cancel])
def test_a_run_of_this_process_that_is_cancelled_calls_on_cancellation(
    sqlite_database: Database, told: list[Any], flow: Any
) -> None:
    """Before its call returns."""
    settings.override(lease_seconds=0.6)
    flows.begun.clear()

    def cancel() -> None:
        operations.cancel(sqlite_database, wait_until(lambda: flows.begun and flows.begun[0], "the body to begin"))

    other = threading.Thread(target=cancel)
    other.start()
    state = call(flow)
    other.join()

    assert state.is_cancelled()
    assert told == [(flow.name, "Running"), (flow.name, "Cancelled")]


@pytest.mark.parametrize("flow", [flows.cancelled_in_a_hook, flows.acancelled_in_a_hook])
def test_a_cancel_waits_for_the_hooks_of_a_task(sqlite_database: Database, told: list[Any], flow: Any) -> None:
    """All of them are called; then the run is stopped."""
    settings.override(lease_seconds=0.6)
    flows.meanwhile.append(lambda run_id: operations.cancel(sqlite_database, run_id))

    assert call(flow).is_cancelled()

    assert [name for name in told if name != "went on"][:2] == ["cancelling", (told[1][0], "Completed")]
    assert told[-1] == (flow.name, "Cancelled")


def test_a_task_that_is_called_outside_of_a_flow_calls_its_hooks(sqlite_database: Database, told: list[Any]) -> None:
    """It has no flow run to tell of."""
    assert flows.shown(3) == "aaa"

    ((_, task_run, state),) = told
    assert (task_run.flow_run_id, task_run.run_count, state.result()) == (None, 1, "aaa")


def test_hooks_are_told_the_tags_of_their_run(sqlite_database: Database, told: list[Any]) -> None:
    """Those in force where it was called; tasks have their own besides."""
    tagged = flows.shown.with_options(tags=["mine"])
    with tags("nightly"):
        tagged(1)
        call(flows.told_of, number=1)

    assert [run.tags for _, run, _ in told] == [["mine", "nightly"], ["nightly"]]


def test_a_hook_that_cannot_be_called_is_refused() -> None:
    """When it is declared."""
    with pytest.raises(DefinitionError, match=r"on_failure= of a task is a function"):
        task(on_failure="notify")(lambda: None)  # type: ignore[call-overload]  # that is the point
    with pytest.raises(DefinitionError, match="static"):
        flow(static=True, on_running=print)(lambda: None)


# -- on a worker -------------------------------------------------------------------------------------------------


def test_a_replay_does_not_call_hooks_again(driver: Driver, told: list[Any]) -> None:
    """A direct call is answered from the journal."""
    assert driver.run(flows.direct).result() == 3

    assert driver.segments > 1
    assert [each for each in told if each != "work"] == [("work", "Running"), ("work", "Completed")] * 2


def test_on_running_of_a_flow_is_called_once_in_a_run_attempt(driver: Driver, told: list[Any]) -> None:
    """Not again when the run goes on after a wait."""
    driver.run(flows.parked)

    assert driver.segments > 1
    assert [each for each in told if each != "plus"] == [("parked", "Running"), ("parked", "Completed")]


def test_a_call_that_is_not_journaled_calls_its_hooks_each_time_it_runs(driver: Driver, told: list[Any]) -> None:
    """`persist_result=False`: a replay runs it again."""
    driver.run(flows.unjournaled)

    assert told == [("unkept", "Completed"), "plus", ("unkept", "Completed")]


def test_async_tasks_side_by_side_call_their_hooks(driver: Driver, told: list[Any]) -> None:
    """Each its own."""
    assert driver.run(flows.awaiting).result() == 5

    assert sorted(told) == sorted(
        [("awork", "async Running"), ("awork", "Completed"), ("awork", "async Completed")] * 2
    )


def test_nothing_is_owed_when_hooks_have_run(driver: Driver) -> None:
    """The debt is struck off."""
    for each in (flows.direct, flows.well, flows.badly):
        driver.run(each)

    assert owed(driver.database) == 0


def test_a_cancelled_run_calls_on_cancellation(driver: Driver, told: list[Any]) -> None:
    """One that had started; when it has ended."""
    run_id = driver.submit(flows.parked)
    driver.step()
    told.clear()
    driver.carrier.announce(interventions.cancel(driver.database, run_id))

    assert driver.finish(run_id).is_cancelled()
    driver.settle()
    assert told == [("parked", "Cancelled")]


def test_a_run_that_is_cancelled_before_it_starts_calls_on_cancellation(driver: Driver, told: list[Any]) -> None:
    """Whoever cancelled it has not its code; a worker has."""
    run_id = driver.submit(flows.well)
    driver.carrier.announce(interventions.cancel(driver.database, run_id))

    assert driver.row(run_id)["state_name"] == "Cancelled"
    driver.settle()
    assert told == [("well", "Cancelled")]
    assert owed(driver.database) == 0


def test_a_run_over_its_crash_budget_calls_on_crashed(driver: Driver, told: list[Any]) -> None:
    """Its code is loaded for that only when its end is recorded."""
    run_id = driver.submit(flows.well)
    for _ in range(3):
        claims.claim_run(driver.database, run_id)
        driver.lapse()
        driver.elapse(40)

    driver.sweep()
    assert driver.finish(run_id).is_crashed()
    driver.settle()
    assert told == [("well", "Crashed")]


def test_hooks_whose_code_is_nowhere_wait_and_say_so(driver: Driver, told: list[Any]) -> None:
    """In the log of their run, and on its page; they are called when a worker has the code."""
    run_id = driver.submit(flows.well)
    driver.carrier.announce(interventions.cancel(driver.database, run_id))
    with moved(driver.database, run_id, "tests.engine.nowhere:well"):
        driver.settle()
        assert told == []
        (shown,) = queries.read_flow_run(driver.database, run_id).owed_hooks
        assert "wait for a worker that knows it" in (shown.waits_for or "")
        assert shown.waits_for in all_lines(driver.database, run_id)

    driver.elapse(10)
    driver.settle()
    assert told == [("well", "Cancelled")]


#: The writes of a worker from the end of `well`'s body on, which follows: the claim, that on_running has run.
ENDS = [
    (3, False, 2),  # before the end is recorded: the body runs again, and its end calls the hooks
    (3, True, 2),  # just after: they are owed
    (4, False, 2),  # they have run, and are not struck off: once more
    (4, True, 1),
]


@pytest.mark.parametrize(("write", "after_commit", "times"), ENDS)
def test_hooks_are_called_though_their_worker_dies(
    driver: Driver, told: list[Any], write: int, after_commit: bool, times: int
) -> None:
    """At least once, in the right state, by another one that the sweeper tells."""
    run_id = driver.submit(flows.well)
    driver.workers_database.kill_at(write, after_commit=after_commit)
    with contextlib.suppress(Killed):
        driver.settle()
    driver.lapse()
    driver.elapse(40)
    driver.settle()

    assert driver.final(run_id).result() == "well"
    assert 1 <= told.count(("well", "Completed")) <= times
    assert owed(driver.database) == 0


@pytest.mark.parametrize("after_commit", [False, True])
@pytest.mark.parametrize("write", range(1, 16))
def test_a_worker_may_die_at_any_write_of_a_run_with_task_hooks(
    driver: Driver, told: list[Any], write: int, after_commit: bool
) -> None:
    """Each hook is called at least once for each of its tasks; nothing stays owed."""
    run_id = driver.submit(flows.direct)
    driver.workers_database.kill_at(write, after_commit=after_commit)
    with contextlib.suppress(Killed):
        driver.settle()
    driver.lapse()
    driver.elapse(40)

    assert driver.finish(run_id).result() == 3
    driver.settle()
    assert 2 <= told.count(("work", "Completed")) <= 3
    assert owed(driver.database) == 0


def test_hooks_are_not_called_by_two_processes_at_once(driver: Driver, told: list[Any]) -> None:
    """While the one that ended the run may live, a second message changes nothing."""
    run_id = driver.submit(flows.well)
    driver.workers_database.kill_at(3, after_commit=True)
    with contextlib.suppress(Killed):
        driver.step()
    driver.workers_database.revive()
    told.clear()

    for _ in range(3):
        driver.sweep()
        while driver.step():
            pass
    assert told == []
    assert owed(driver.database) == 1

    driver.lapse()
    driver.elapse(40)
    driver.settle()
    assert told == [("well", "Completed")]
    assert driver.final(run_id).result() == "well"


def test_a_process_that_lost_its_claim_calls_no_further_hook(driver: Driver, told: list[Any]) -> None:
    """It hung; the one that has claimed them since calls them all."""
    run_id = driver.submit(flows.slow_hooks)
    flows.meanwhile += [lambda: owed_hooks_store.claim(driver.database, run_id, 1, ""), driver.lapse]
    driver.step()
    assert told == ["overtaken"]
    assert owed(driver.database) == 1

    driver.lapse()
    driver.elapse(40)
    driver.settle()
    assert told == ["overtaken", "overtaken", ("slow-hooks", "Completed")]
    assert owed(driver.database) == 0


def test_hooks_that_end_their_process_each_time_are_given_up(driver: Driver, told: list[Any]) -> None:
    """After three starts; the log of the run tells."""
    run_id = driver.submit(flows.well)
    driver.workers_database.kill_at(3, after_commit=True)
    with contextlib.suppress(Killed):
        driver.settle()
    for _ in range(3):
        driver.lapse()
        driver.elapse(40)
        driver.workers_database.kill_at(2, after_commit=False)
        with contextlib.suppress(Killed):
            driver.settle()
    driver.lapse()
    driver.elapse(40)
    driver.settle()

    assert owed(driver.database) == 0
    assert any("were given up" in line for line in all_lines(driver.database, run_id))


def test_hooks_that_are_still_owed_are_told_of_the_state_before_a_retry(driver: Driver, told: list[Any]) -> None:
    """A person may retry a failed run before they have run."""
    run_id = driver.submit(flows.badly)
    driver.workers_database.kill_at(3, after_commit=True)
    with contextlib.suppress(Killed):
        driver.settle()
    driver.carrier.announce(interventions.retry(driver.database, run_id))
    driver.lapse()
    driver.elapse(40)
    driver.settle()

    assert told.count(("badly", "Failed")) == 2
    assert owed(driver.database) == 0


def test_a_deleted_run_owes_nothing(driver: Driver) -> None:
    """Its hooks go with it."""
    run_id = driver.submit(flows.well)
    driver.carrier.announce(interventions.cancel(driver.database, run_id))
    assert owed(driver.database) == 1

    removal.delete(driver.database, run_id)
    assert owed(driver.database) == 0


def all_lines(database: Database, run_id: str) -> list[str]:
    """The log of a run."""
    behind().flush()
    return [line.message for line in logs.read(database, run_id)]


def run_of(database: Database) -> str:
    """The only run there is."""
    (row,) = database.read(lambda connection: connection.execute(flow_runs.select()).all())
    return str(row.id)


@contextlib.contextmanager
def moved(database: Database, run_id: str, path: str) -> Iterator[None]:
    """While inside, a run's code is elsewhere."""

    def write(to: str) -> str:
        def work(connection: Any) -> str:
            this = flow_runs.c.id == run_id
            before = connection.scalar(flow_runs.select().with_only_columns(flow_runs.c.path).where(this))
            connection.execute(flow_runs.update().where(this).values(path=to))
            return str(before)

        return database.write(work)

    before = write(path)
    try:
        yield
    finally:
        write(before)
