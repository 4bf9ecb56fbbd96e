"""`flow-run retry` of runs in a process of their own: they run again in the process that asks."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from orchestra import flow, runtime, tags, task
from orchestra.cache_policies import DEFAULT
from orchestra.client.orchestration import get_client
from orchestra.engine import local_retry
from orchestra.errors import DefinitionNotFound, IllegalTransition
from orchestra.states import State
from orchestra.store import runs, tables
from orchestra.store.database import Database
from orchestra.transactions import transaction
from tests.engine.test_local import rows
from tests.helpers import wait_until

#: What bodies did, in their order.
DONE: list[Any] = []


@dataclass
class World:
    """What a mended world looks like to the flows of this page."""

    is_mended: bool = False
    number: int = 1


world = World()


@pytest.fixture(autouse=True)
def _broken_world() -> None:
    DONE.clear()
    world.is_mended, world.number = False, 1


@task(persist_result=True)
def kept(number: int) -> int:
    """Its result is kept with its run."""
    DONE.append("kept")
    return number * 10


@task(cache_policy=DEFAULT)
def cached(number: int) -> int:
    """Its result is kept in the cache, under its run."""
    DONE.append("cached")
    return number * 100


@task
def unkept() -> int:
    """Its result is nowhere."""
    DONE.append("unkept")
    return 1


@flow(persist_result=True)
def child(number: int) -> int:
    """A subflow, whose result is kept."""
    DONE.append("child")
    return number * 1000


@flow(persist_result=False)
def work(day: str = "monday") -> int:
    """Fails until the world is mended."""
    found = kept(world.number) + cached.submit(1).result() + child(1) + unkept()
    if not world.is_mended:
        raise ValueError(f"no data for {day}")
    return found


@flow
async def async_work() -> int:
    """As `work`, in a loop."""
    await asyncio.sleep(0)
    return work.fn()


def failed(fn: Any = work, *args: Any, **kwargs: Any) -> str:
    """Call a flow that ends badly; gives the id of its run."""
    state: State[Any] = fn(*args, **kwargs, return_state=True)
    assert not state.is_completed()
    return str(state.state_details.flow_run_id)


def test_what_was_kept_answers_and_the_rest_is_run(database: Database) -> None:
    """Persisted, cached, and of a subflow: each is done once, however often the run is retried."""
    run_id = failed()

    assert local_retry.retry(database, run_id).is_failed()
    world.is_mended = True
    state = local_retry.retry(database, run_id)

    assert state.result() == 1111
    assert DONE == ["kept", "cached", "child", "unkept", "unkept", "unkept"]


def test_it_is_the_same_run_in_its_next_attempt(database: Database) -> None:
    """Id, name, tags and parameters stay; the history shows each attempt."""
    with tags("daily"):
        run_id = failed(named, "tuesday")
    first = runs.read(database, run_id)
    world.is_mended = True

    assert local_retry.retry(database, run_id).result() == ("tuesday", 2, run_id, first["name"], ["daily"])

    (row,) = rows(database, tables.flow_runs)
    assert (row.id, row.name, row.run_attempt, row.claim_number) == (run_id, first["name"], 2, 2)
    assert (row.state_name, row.phase, row.parameters) == ("Completed", "DONE", first["parameters"])
    states = [state.name for state in rows(database, tables.states)]
    assert states == ["Running", "Failed", "AwaitingRetry", "Retrying", "Completed"]


@flow
def named(day: str) -> Any:
    """Says what it is."""
    if not world.is_mended:
        raise ValueError(day)
    run = runtime.flow_run
    return day, run.run_count, run.id, run.name, list(run.tags)


def test_a_changed_input_is_run_again(database: Database) -> None:
    """What was kept answers for equal inputs only."""
    run_id = failed()
    world.is_mended, world.number = True, 2

    assert local_retry.retry(database, run_id).result() == 1121
    assert DONE.count("kept") == 2


def test_an_async_flow_is_retried(database: Database) -> None:
    """In a loop of its own."""
    state = asyncio.run(async_work(return_state=True))
    world.is_mended = True

    assert local_retry.retry(database, str(state.state_details.flow_run_id)).result() == 1111


def test_what_options_were_set_still_hold(database: Database) -> None:
    """`with_options` of the call that made the run."""
    run_id = failed(work.with_options(retries=5, retry_delay_seconds=0.01, name="other"))

    local_retry.retry(database, run_id)

    assert runs.read(database, run_id)["flow_name"] == "other"
    assert runs.read(database, run_id)["run_attempt"] == 7


@flow
def block() -> None:
    """Fails inside of a block, which is rolled back."""
    with transaction():
        kept(1)
        if not world.is_mended:
            raise ValueError("rolled back")


def test_a_block_that_was_rolled_back_is_done_anew(database: Database) -> None:
    """What it had kept does not answer."""
    run_id = failed(block)
    world.is_mended = True

    local_retry.retry(database, run_id)

    assert DONE == ["kept", "kept"]


def test_a_run_that_goes_on_is_refused(database: Database) -> None:
    """It has not ended while its process holds it."""

    @flow
    def asking() -> None:
        local_retry.retry(database, str(runtime.flow_run.id))

    with pytest.raises(IllegalTransition, match="before it has ended"):
        asking()


def test_of_two_who_retry_at_once_one_does(database: Database) -> None:
    """The other one is refused, and the run has one attempt more."""
    run_id = failed(slow)
    world.is_mended = True
    begin = threading.Barrier(2)

    def retry() -> str:
        begin.wait()
        try:
            return local_retry.retry(database, run_id).name
        except IllegalTransition:
            return "refused"

    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(retry) for _ in range(2)]
        wait_until(lambda: any(end.done() for end in ends), "one of them to be refused")
        DONE.append("go on")

    assert sorted(end.result() for end in ends) == ["Completed", "refused"]
    assert runs.read(database, run_id)["run_attempt"] == 2


@flow
def slow() -> None:
    """Once mended, it waits until it is told to go on."""
    if not world.is_mended:
        raise ValueError("broken")
    wait_until(lambda: "go on" in DONE, "the test to let it go on")


def test_a_run_whose_code_is_not_here_is_refused(database: Database) -> None:
    """It stays as it was, and the sentence says what to do."""

    @flow
    def nowhere() -> None:
        raise ValueError

    run_id = failed(nowhere)

    with pytest.raises(DefinitionNotFound, match=r"folder of its project.*or call the flow again"):
        local_retry.retry(database, run_id)
    assert runs.read(database, run_id)["run_attempt"] == 1


@flow(validate_parameters=False)
def given(value: Any) -> None:
    """Fails with whatever it is given."""
    raise ValueError


def test_a_run_whose_parameters_were_not_kept_is_refused(database: Database) -> None:
    """A lock cannot be written down."""
    run_id = failed(given, threading.Lock())

    with pytest.raises(IllegalTransition, match="parameters could not be kept; call the flow again"):
        local_retry.retry(database, run_id)


@flow
def broken_child() -> None:
    """A subflow that fails."""
    raise ValueError


@flow
def parent() -> None:
    """Runs it."""
    broken_child()


def test_a_part_of_a_run_is_not_retried_alone(database: Database) -> None:
    """The sentence names the run whose part it is."""
    run_id = failed(parent)
    below = rows(database, tables.flow_runs)[1]

    with pytest.raises(IllegalTransition, match=f"part of run {run_id}"):
        local_retry.retry(database, below.id)


def test_a_client_sends_to_the_command(database: Database) -> None:
    """It loads no code of flows."""
    run_id = failed()

    with get_client(sync_client=True) as client, pytest.raises(IllegalTransition, match="orchestra flow-run retry"):
        client.retry_flow_run(run_id)
