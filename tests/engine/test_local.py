"""Runs in this process: what is kept of them, and how they end when something ends them from outside."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from orchestra import allow_failure, flow, get_run_logger, settings, task
from orchestra.engine import operations
from orchestra.errors import Cancelled, CancelledRun
from orchestra.runtime import flow_run
from orchestra.serializers import decode
from orchestra.states import StateType
from orchestra.store import behind, due, queries, tables
from orchestra.store.database import Database
from tests.helpers import wait_until


@task
def increment(number: int) -> int:
    """One more."""
    get_run_logger().info("from %d", number)
    return number + 1


@task(persist_result=True)
def kept() -> dict[str, int]:
    """A result that is kept."""
    return {"rows": 3}


def rows(database: Database, table: Any) -> list[Any]:
    """All rows of a table, oldest first."""
    order = table.c.id if table is not tables.flow_runs else table.c.created_at
    if table is tables.steps:
        order = table.c.sequence
    return list(database.read(lambda connection: connection.execute(table.select().order_by(order)).all()))


def test_a_run_is_recorded_when_it_has_ended(database: Database) -> None:
    """Its row, its steps in order of asking, its log lines and its states: all there when the call returns."""

    @flow(name="etl", version="3")
    def work(day: str) -> int:
        get_run_logger().info("begin")
        return increment(increment.submit(1).result())

    assert work("monday") == 3

    (run,) = rows(database, tables.flow_runs)
    assert (run.flow_name, run.version, run.state_name, run.phase, run.runner) == (
        "etl",
        "3",
        "Completed",
        "DONE",
        "local",
    )
    assert decode(run.parameters) == {"day": "monday"}
    assert run.lease_until is None
    assert [(step.step_key, step.state_name) for step in rows(database, tables.steps)] == [
        ("0/increment-0", "Completed"),
        ("0/increment-1", "Completed"),
    ]
    assert [state.name for state in rows(database, tables.states)] == ["Running", "Completed"]
    assert {"begin", "from 1", "from 2"} < {line.message for line in rows(database, tables.logs)}


def test_results_are_kept_where_that_is_asked_for(database: Database) -> None:
    """`persist_result=True`; other results stay in the process."""

    @flow
    def work() -> None:
        kept()
        increment(1)

    work()

    with_result, without = rows(database, tables.steps)
    assert decode(with_result.result) == {"rows": 3}
    assert without.result is None


def test_a_child_run_points_to_its_parent_and_its_step(database: Database) -> None:
    """The parent's step names the child run, too."""

    @flow
    def child() -> None: ...

    @flow
    def parent() -> None:
        child()

    parent()

    above, below = rows(database, tables.flow_runs)
    (step,) = rows(database, tables.steps)
    assert (below.parent_run_id, below.root_run_id, below.parent_step_key, below.depth) == (
        above.id,
        above.id,
        step.step_key,
        1,
    )
    assert (step.kind, step.child_run_id) == ("subflow", below.id)


def test_retries_of_tasks_and_flows_are_in_the_history(database: Database) -> None:
    """States of the run and of the step that was tried again."""
    tries: list[int] = []

    @task(retries=1)
    def flaky() -> None:
        tries.append(1)
        if len(tries) in (1, 2):
            raise ValueError("no")

    @flow(retries=1)
    def work() -> None:
        flaky()

    work()

    (run,) = rows(database, tables.flow_runs)
    steps, states = rows(database, tables.steps), rows(database, tables.states)
    assert run.run_attempt == 2
    assert [(step.run_attempt, step.attempt, step.state_name) for step in steps] == [
        (1, 2, "Failed"),
        (2, 1, "Completed"),
    ]
    assert [s.name for s in states if s.step_id is None] == ["Running", "AwaitingRetry", "Retrying", "Completed"]
    assert [s.name for s in states if s.step_id is not None] == ["AwaitingRetry", "Running"]


def test_values_that_cannot_be_kept_fail_nothing(database: Database) -> None:
    """Locally, parameters and results need not be serialisable, nor text printable."""

    @task(persist_result=True)
    def lock() -> Any:
        return threading.Lock()

    @flow
    def work(given: Any) -> str:
        lock()
        raise ValueError("nul \0 and \ud800")

    state = work(threading.Lock(), return_state=True)

    (run,) = rows(database, tables.flow_runs)
    assert state.is_failed()
    assert run.parameters is None
    assert run.state_message == "ValueError: nul \\x00 and \\ud800"


@pytest.mark.parametrize("leave", [KeyboardInterrupt, SystemExit])
def test_leaving_the_program_ends_the_run_crashed(database: Database, leave: type[BaseException]) -> None:
    """Ctrl-C and `sys.exit()` reach the caller, and the run is not left open."""

    @task
    def go() -> None:
        raise leave

    @flow
    def work() -> None:
        go()

    with pytest.raises(leave):
        work()

    assert [row.state_name for row in rows(database, tables.flow_runs)] == ["Crashed"]
    assert [row.state_name for row in rows(database, tables.steps)] == ["Crashed"]


SCRIPT = """
import os, signal
from orchestra import flow, task

@task
def die():
    os.kill(os.getpid(), signal.SIGKILL)

@flow
def work():
    die()

work()
"""


def test_a_run_whose_process_was_killed_is_marked_crashed(database: Database) -> None:
    """By the next process that looks, when its lease has lapsed."""
    subprocess.run([sys.executable, "-c", SCRIPT], env=os.environ | {"ORCHESTRA_LEASE_SECONDS": "0.5"}, check=False)

    wait_until(lambda: due.expire_local(database), "the lease of the killed run to lapse")

    assert [row.state_name for row in rows(database, tables.flow_runs)] == ["Crashed"]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["-c", "from orchestra import flow\n@flow\ndef next_one(): ...\nnext_one()"], id="run"),
        pytest.param(["-m", "orchestra", "flow-run", "ls"], id="command"),
    ],
)
def test_the_next_process_marks_the_run_of_a_killed_one(database: Database, command: list[str]) -> None:
    """A script that runs a flow, or a command that shows runs: no worker is needed for it."""
    subprocess.run([sys.executable, "-c", SCRIPT], env=os.environ | {"ORCHESTRA_LEASE_SECONDS": "0.5"}, check=False)
    (killed,) = rows(database, tables.flow_runs)
    wait_until(lambda: killed.lease_until < database.now(), "the lease of the killed run to lapse")

    subprocess.run([sys.executable, *command], check=True)

    assert rows(database, tables.flow_runs)[0].state_name == "Crashed"


def test_a_long_run_renews_its_lease(database: Database) -> None:
    """It is not taken for dead while its process lives."""
    settings.override(lease_seconds=0.6)

    @flow
    def work() -> int:
        end = time.monotonic() + 1.5
        expired = 0
        while time.monotonic() < end:
            expired += due.expire_local(database)
            time.sleep(0.05)
        return expired

    assert work() == 0


def cancel_soon(database: Database, ids: list[str | None]) -> threading.Thread:
    """Cancel the run, from another thread, as soon as it has begun."""

    def cancel() -> None:
        wait_until(lambda: ids, "the flow to begin")
        operations.cancel(database, str(ids[0]))

    thread = threading.Thread(target=cancel)
    thread.start()
    return thread


def test_a_cancelled_run_ends_in_its_blocking_call(database: Database) -> None:
    """The heartbeat brings it; the child run ends too."""
    settings.override(lease_seconds=0.6)
    ids: list[str | None] = []

    @task
    def hang() -> None:
        time.sleep(60)

    @flow
    def child() -> None:
        hang()

    @flow
    def parent() -> None:
        ids.append(flow_run.id)
        child()

    thread = cancel_soon(database, ids)
    with pytest.raises(CancelledRun):
        parent()
    thread.join()

    assert {row.state_type for row in rows(database, tables.flow_runs)} == {StateType.CANCELLED}


def test_a_cancelled_async_run_ends_at_its_await(database: Database) -> None:
    """As does a run that is paused."""
    settings.override(lease_seconds=0.6)
    ids: list[str | None] = []

    @flow
    async def work() -> None:
        ids.append(flow_run.id)
        await asyncio.sleep(60)

    thread = cancel_soon(database, ids)
    with pytest.raises(CancelledRun):
        asyncio.run(work())
    thread.join()

    assert [row.state_type for row in rows(database, tables.flow_runs)] == [StateType.CANCELLED]


def run_in_thread(body: Callable[[], object]) -> tuple[threading.Thread, list[Any]]:
    """Run a flow in a thread; gives the thread, and a list for its final state."""
    ended: list[Any] = []
    thread = threading.Thread(target=lambda: ended.append(body()))
    thread.start()
    return thread, ended


def test_cancelling_a_run_in_a_thread_leaves_the_main_threads_alone(database: Database) -> None:
    """It ends at its own next call, and the run in the main thread goes on to its end."""
    settings.override(lease_seconds=0.6)
    ids: list[str | None] = []

    @flow
    def polling() -> None:
        ids.append(flow_run.id)
        while True:
            increment(1)
            time.sleep(0.01)

    @flow
    def other() -> str:
        thread, ended = run_in_thread(lambda: polling(return_state=True))
        wait_until(lambda: ids, "the run in the thread to begin")
        operations.cancel(database, str(ids[0]))
        wait_until(lambda: ended, "the run in the thread to end")
        thread.join()
        return ended[0].name

    assert other() == "Cancelled"


def test_a_run_in_a_thread_is_cancelled_though_its_body_ends(database: Database) -> None:
    """Whatever the body makes of it: who cancelled the run sees it cancelled."""
    settings.override(lease_seconds=0.6)
    ids: list[str | None] = []

    @flow
    def stubborn() -> str:
        ids.append(flow_run.id)
        with contextlib.suppress(Cancelled):
            while True:
                increment(1)
                time.sleep(0.01)
        return "done all the same"

    thread, ended = run_in_thread(lambda: stubborn(return_state=True))
    wait_until(lambda: ids, "the run to begin")
    operations.cancel(database, str(ids[0]))
    thread.join()

    assert [state.name for state in ended] == ["Cancelled"]
    assert [row.state_type for row in rows(database, tables.flow_runs)] == [StateType.CANCELLED]


def test_a_flow_over_its_time_leaves_nothing_behind(database: Database) -> None:
    """What was submitted and had not begun is not run."""
    ran: list[int] = []
    gate = threading.Event()

    @task
    def block() -> None:
        gate.wait(10)

    @task
    def note(number: int, wait: Any = None) -> None:
        ran.append(number)

    @flow(timeout_seconds=0.1)
    def work() -> None:
        first = block.submit()
        waiting = note.submit(1, wait_for=[first])
        note.submit(2, wait=allow_failure(waiting))
        time.sleep(60)

    with pytest.raises(TimeoutError):
        work()
    gate.set()
    behind.flush()

    assert ran == []
    assert [row.state_name for row in rows(database, tables.flow_runs)] == ["TimedOut"]


def test_a_tree_of_submitted_tasks_respects_every_edge(database: Database) -> None:
    """A thousand tasks, each after those before it."""

    @task
    def total(*numbers: int) -> int:
        return sum(numbers) + 1

    @flow
    def work() -> int:
        layer = [total.submit() for _ in range(10)]
        for _ in range(20):
            pairs = [layer[index : index + 2] for index in range(len(layer))]
            layer = [total.submit(*pair) for pair in pairs]
        return len([future.result() for future in layer])

    assert work() == 10
    assert len(queries.step_counts(database, rows(database, tables.flow_runs)[0].id)) == 1


class Interrupting(logging.Handler):
    """Stands for a person who presses Ctrl-C at the first line that a run shows."""

    def emit(self, record: logging.LogRecord) -> None:
        """Press it, once."""
        if "started" in record.getMessage():
            raise KeyboardInterrupt


def test_a_run_that_is_interrupted_as_it_begins_is_crashed(database: Database) -> None:
    """At once: it is not shown as running until its lease lapses."""

    @flow
    def work() -> None:
        """Is not run."""

    shown, pressing = logging.getLogger("orchestra.flow_runs"), Interrupting()
    shown.addHandler(pressing)
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        shown.removeHandler(pressing)

    (run,) = rows(database, tables.flow_runs)
    assert (run.state_name, run.phase) == ("Crashed", "DONE")
