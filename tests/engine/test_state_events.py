"""Every state that a flow run or task run comes into is told, once and in order: local and on workers, as they die."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest

from orchestra.client.orchestration import get_client
from orchestra.engine import slots as engine_slots
from orchestra.events import read_events
from orchestra.store import behind, claims, events, interventions, limits, queries, slots
from orchestra.store.database import Database
from tests.drive import Driver, Killed
from tests.engine import state_flows
from tests.helpers import wait_until

pytestmark = pytest.mark.slow

RUN, TASK = "orchestra.flow-run.", "orchestra.task-run."


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing was called so far."""
    state_flows.fresh()
    yield
    state_flows.may_end.set()


@pytest.fixture
def driver(database: Database) -> Driver:
    """Carries messages over a worker with one slot, on SQLite and on PostgreSQL."""
    return Driver(database, slots=1)


def told(prefix: str) -> list[str]:
    """The events of runs or task runs, the oldest first, without the prefix."""
    behind.flush()
    names = [event.event for event in read_events(events=[f"{prefix}*"], limit=200)][::-1]
    return [name.removeprefix(prefix) for name in names]


def stories(database: Database) -> dict[str, list[str]]:
    """The names of the events of each thing, the oldest first."""
    behind.flush()
    found: dict[str, list[str]] = {}
    for event in events.page(database, limit=500, newest=False)[0]:
        found.setdefault(event.resource[events.ID], []).append(event.event.rpartition(".")[2])
    return found


def history_of(database: Database, run_id: str, task_run_id: str | None = None) -> list[str]:
    """The names of the states that a run, or a task run of it, was in."""
    behind.flush()
    return [state.name for state in queries.state_history(database, run_id, task_run_id)]


def task_histories(database: Database, run_id: str) -> list[list[str]]:
    """Those of its task runs, in the order of asking."""
    behind.flush()
    found = queries.list_task_runs(database, flow_run_id=run_id).items
    return [history_of(database, run_id, each.id) for each in sorted(found, key=lambda each: each.created)]


def test_a_run_that_waits_for_a_task_tells_it(driver: Driver) -> None:
    """It is written down, carried out, waits, goes on and ends; so is the task."""
    run_id = driver.submit(state_flows.one, which="plain", submitted=True)
    driver.finish(run_id)

    assert told(RUN) == ["created", "Pending", "Running", "Waiting", "Running", "Completed"]
    assert told(TASK) == ["Pending", "Running", "Completed"]
    assert history_of(driver.database, run_id) == ["Pending", "Running", "Waiting", "Running", "Completed"]
    assert task_histories(driver.database, run_id) == [["Pending", "Running", "Completed"]]


@pytest.mark.parametrize("which", ["at once", "much later"])
@pytest.mark.parametrize("submitted", [True, False])
def test_each_try_of_a_task_on_a_worker_is_told(driver: Driver, which: str, submitted: bool) -> None:
    """Called or submitted, tried again in place or later."""
    run_id = driver.submit(state_flows.one, which=which, submitted=submitted)
    driver.settle()
    driver.elapse()
    driver.finish(run_id)

    tries = ["Running", "AwaitingRetry", "Running", "Completed"]
    expected = ["Pending", *tries] if submitted else tries
    assert told(TASK) == expected
    assert task_histories(driver.database, run_id) == [expected]


def test_each_try_of_a_run_on_a_worker_is_told(driver: Driver) -> None:
    """Its task, which ended well, is not run again."""
    driver.run(state_flows.tried_again)

    assert told(RUN) == ["created", "Pending", "Running", "AwaitingRetry", "Running", "Completed"]
    assert told(TASK) == ["Running", "Completed"]


def test_tasks_that_wait_for_others_are_pending(driver: Driver) -> None:
    """Also those that are not run at all, as what they wait for has failed."""
    run_id = driver.submit(state_flows.chained)
    driver.finish(run_id)

    assert task_histories(driver.database, run_id) == [
        ["Pending", "Running", "Completed"],
        ["Pending", "Running", "Failed"],
        ["Pending", "Running", "Completed"],
        ["Pending", "UpstreamFailed"],
    ]


@pytest.mark.parametrize("submitted", [True, False])
def test_a_task_that_waits_for_a_slot_has_not_run_before(driver: Driver, submitted: bool) -> None:
    """A direct call, too, is Pending then: it waits as a row of its own."""
    limits.create(driver.database, "tag:db", 1)
    engine_slots.forget()
    other = slots.of_process("another", lease_seconds=600.0)
    assert slots.acquire(driver.database, other, ["tag:db"]).granted
    run_id = driver.submit(state_flows.one, which="limited", submitted=submitted)
    driver.settle()
    driver.carrier.announce(slots.release(driver.database, other))
    driver.finish(run_id)
    engine_slots.forget()

    assert told(TASK) == ["Pending", "AwaitingConcurrencySlot", "Running", "Completed"]


def test_a_task_that_waits_for_the_cache_says_so_once(driver: Driver) -> None:
    """However often it looks whether another one has computed its value."""
    run_id = driver.submit(state_flows.one, which="computed", submitted=True)
    for _ in range(4):
        driver.settle()
        driver.elapse(1)
    driver.finish(run_id)

    assert state_flows.calls["lock"] > 3
    assert told(TASK) == ["Pending", "AwaitingCache", "Running", "Completed"]


def test_a_run_that_is_due_later_is_scheduled(driver: Driver) -> None:
    """By its own name; so does its history say."""
    from orchestra.store.runs import NewRun, create

    row = create(driver.database, NewRun("etl", "flows:etl", "otter", b"", queue="etl", delay=60.0)).row

    assert told(RUN) == ["created", "Scheduled"]
    assert history_of(driver.database, row["id"]) == ["Scheduled"]


def test_what_is_put_back_in_its_queue_is_told(driver: Driver) -> None:
    """A worker shuts down between two steps of a run: another one goes on."""
    run_id = driver.submit(state_flows.mixed)
    driver.carrier.stops = True
    driver.step()
    driver.carrier.stops = False
    driver.finish(run_id)

    assert told(RUN)[:5] == ["created", "Pending", "Running", "Scheduled", "Running"]


def test_running_tasks_of_a_run_that_is_cancelled_are_told_so(driver: Driver) -> None:
    """Once, however often the cancel is asked for."""
    run_id = driver.submit(state_flows.one, which="plain", submitted=True)
    driver.step()
    (step,) = driver.steps(run_id)
    claimed = claims.claim_step(driver.database, run_id, 1, step.key)
    assert claimed is not None
    for _ in range(2):
        interventions.cancel(driver.database, run_id)

    assert told(TASK) == ["Pending", "Running", "Cancelling"]


@pytest.mark.parametrize("after_commit", [False, True])
@pytest.mark.parametrize("write", range(1, 16))
def test_a_worker_that_dies_tells_no_state_twice(driver: Driver, write: int, after_commit: bool) -> None:
    """Whenever that is: each goes from one state into another one, and none follows an end."""
    run_id = driver.submit(state_flows.mixed)
    driver.workers_database.kill_at(write, after_commit=after_commit)
    try:
        driver.settle()
    except Killed:
        # A lease is longer than what is written behind waits.
        behind.flush()
        driver.lapse()
        driver.elapse(40)
    driver.finish(run_id)

    for thing, names in stories(driver.database).items():
        states = [name for name in names if name[0].isupper()]
        # One that dies right behind the commit of a park has not told that the run waits.
        lost = 1 if after_commit and thing.startswith(RUN) else 0
        assert len([pair for pair in pairwise(states) if pair[0] == pair[1]]) <= lost, (thing, states)
        assert "Completed" not in states[:-1], (thing, states)
        if thing.startswith("orchestra.task-run") and states[-1] == "Completed":
            assert states[-2] == "Running", (thing, states)


def test_a_direct_call_that_a_dead_worker_told_of_is_told_once(driver: Driver) -> None:
    """It is called again by whoever takes the run over."""
    run_id = driver.submit(state_flows.one, which="held", submitted=False)
    driver.workers_database.kill_at(2, after_commit=False)

    def die() -> None:
        with pytest.raises(Killed):
            driver.step()

    dying = threading.Thread(target=die)
    dying.start()
    assert state_flows.began.wait(20)
    wait_until(lambda: told(TASK) == ["Running"], "the call to be told of")
    state_flows.may_end.set()
    dying.join()
    driver.lapse()
    driver.elapse(40)
    driver.finish(run_id)

    assert told(TASK) == ["Running", "Completed"]
    assert [name for name in told(RUN) if name != "taken-over"] == ["created", "Pending", "Running", "Completed"]


# -- in this process ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("submitted", [True, False])
def test_each_try_of_a_local_task_is_told(database: Database, submitted: bool) -> None:
    """As on a worker, but that it waits for none."""
    state_flows.one("at once", submitted)

    assert told(TASK) == ["Running", "AwaitingRetry", "Running", "Completed"]
    (run,) = queries.list_flow_runs(database).items
    assert task_histories(database, run.id) == [["Running", "AwaitingRetry", "Running", "Completed"]]
    assert told(RUN) == ["created", "Running", "Completed"]


def test_a_local_task_is_seen_while_it_runs(database: Database) -> None:
    """By who follows, and once: its end tells its beginning no second time."""
    tail = events.Tail(database, events.EventFilter(events=(f"{TASK}*",)))
    running = threading.Thread(target=lambda: state_flows.one("held", False))
    running.start()
    first = wait_until(tail.poll, "the task run to be told of")
    state_flows.may_end.set()
    running.join()
    behind.flush()

    assert [event.event for event in first] == [f"{TASK}Running"]
    assert [event.event for event in tail.poll()] == [f"{TASK}Completed"]
    assert told(TASK) == ["Running", "Completed"]


def test_what_a_short_task_went_through_comes_with_its_end(database: Database) -> None:
    """In one row: nothing more is written for it."""
    state_flows.one("plain", False)
    behind.flush()

    rows = database.read(lambda connection: connection.exec_driver_sql("SELECT name FROM states").fetchall())
    assert sorted(row[0] for row in rows) == ["Completed", "Running"]
    assert told(TASK) == ["Running", "Completed"]


def test_a_local_task_that_waits_for_a_slot_tells_it(database: Database) -> None:
    """Before it runs."""
    limits.create(database, "tag:db", 1)
    engine_slots.forget()
    other = slots.of_process("another", lease_seconds=600.0)
    assert slots.acquire(database, other, ["tag:db"]).granted
    running = threading.Thread(target=lambda: state_flows.one("limited", False))
    running.start()
    wait_until(lambda: told(TASK) == ["AwaitingConcurrencySlot"], "the task run to wait")
    slots.release(database, other)
    running.join()
    engine_slots.forget()

    assert told(TASK) == ["AwaitingConcurrencySlot", "Running", "Completed"]


# -- whoever looks -----------------------------------------------------------------------------------------------


def test_who_follows_is_given_each_state_once(driver: Driver) -> None:
    """Looking after each message, and in the order in which they are listed afterwards."""
    tail = events.Tail(driver.database, since=0.0)
    run_id = driver.submit(state_flows.mixed)
    seen = [event.event for event in tail.poll()]
    while driver.step():
        behind.flush()
        seen += [event.event for event in tail.poll()]
    driver.finish(run_id)
    behind.flush()
    seen += [event.event for event in tail.poll()]

    assert seen == [event.event for event in events.page(driver.database, limit=500, newest=False)[0]]


@pytest.mark.parametrize("name", [f"{RUN}Pending", f"{RUN}Waiting", f"{TASK}Pending", f"{TASK}Running"])
def test_states_are_found_by_name(driver: Driver, name: str) -> None:
    """Whole, by the beginning, and by the thing."""
    run_id = driver.submit(state_flows.one, which="plain", submitted=True)
    driver.finish(run_id)
    behind.flush()

    (event,) = read_events(events=[name]).events
    assert event in read_events(events=[name[:-2] + "*"]).events
    assert event in read_events(events=[name], resources=[event.resource.id]).events
    assert event in read_events(flow_run_id=run_id).events
    assert event.payload["validated_state"]["name"] == name.rpartition(".")[2]


def test_the_client_reads_the_same_states(driver: Driver) -> None:
    """Of the run and of its task run."""
    run_id = driver.submit(state_flows.one, which="plain", submitted=True)
    driver.finish(run_id)
    behind.flush()

    with get_client(sync_client=True) as client:
        (task_run,) = client.read_task_runs()
        run_states = client.read_flow_run_states(run_id)
        task_states = client.read_task_run_states(task_run.id)
    assert [state.name for state in run_states] == ["Pending", "Running", "Waiting", "Running", "Completed"]
    assert [state.name for state in task_states] == ["Pending", "Running", "Completed"]
    assert sorted(state.timestamp for state in task_states) == [state.timestamp for state in task_states]
