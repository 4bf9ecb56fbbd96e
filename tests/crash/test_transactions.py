"""Transactions whose workers are killed, stopped or fail at every point: each hook ends once, in the right order."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from orchestra.handles import FlowRunHandle
from orchestra.store.tables import transaction_hooks, transactions
from orchestra.transaction_rules import Durable, HookState
from tests.crash import transaction_flows as flows
from tests.crash.conftest import Arena
from tests.crash.test_failpoints import IN_TRANSACTIONS
from tests.helpers import wait_until

pytestmark = pytest.mark.services

#: Passed once in a block, and once for each of its three hooks.
ONCE = [point for point in IN_TRANSACTIONS if not point.startswith("in_") and "transaction_hook" not in point]
EACH = [point for point in IN_TRANSACTIONS if point not in ONCE]
#: What happens to a block that fails: where, at which visit, and what.
FAILING = [
    *((point, nth, "kill") for point in ("before_record", "after_record") for nth in (1, 2)),
    *((point, 1, "kill") for point in ("before_complete", "after_complete")),
    *((point, 1, action) for point in ONCE if "commit" not in point for action in ("kill", "stop", "raise")),
    *((point, nth, "kill") for point in EACH for nth in (1, 2, 3)),
    *((point, 2, action) for point in EACH for action in ("stop", "raise")),
]
#: What happens to one that ends well. What fails there is no end of its own: it would be rolled back.
COMMITTING = [
    *((point, 1, action) for point in ONCE if "rollback" not in point for action in ("kill", "stop")),
    *((point, nth, "kill") for point in EACH for nth in (1, 3)),
]


def hook_rows(arena: Arena, handle: FlowRunHandle, kind: str) -> list[Any]:
    """The hooks of a run, in the order of registration."""
    rows = arena.rows(transaction_hooks, transaction_hooks.c.run_id == handle.id, transaction_hooks.c.kind == kind)
    return sorted(rows, key=lambda row: (row.created_at, row.sequence, row.number))


def starts(arena: Arena, handle: FlowRunHandle, rows: list[Any]) -> list[str]:
    """The keys of these hooks in the order of their first starts."""
    wanted = {row.key for row in rows}
    found: dict[str, int] = {}
    for line in arena.lines(handle.id):
        if line.what == "start" and line.step in wanted:
            assert line.key == f"{handle.id}/{line.step}", "the key by which a hook tells a repetition"
            found[line.step] = found.get(line.step, 0) + 1
    assert sum(found.values()) <= len(found) + 1, "hooks that were called again though only one was under way"
    return list(found)


def check_rolled_back(arena: Arena, handle: FlowRunHandle, count: int) -> None:
    """All hooks have ended well, newest first."""
    rows = hook_rows(arena, handle, "rollback")
    assert len(rows) == count
    assert {row.state for row in rows} == {HookState.COMPLETED}
    assert starts(arena, handle, rows) == [row.key for row in rows[::-1]]
    ends = [row.end_time for row in rows]
    assert ends == sorted(ends, reverse=True)
    assert {row.state for row in arena.rows(transactions, transactions.c.run_id == handle.id)} == {Durable.ROLLED_BACK}


def wake_the_stopped(arena: Arena) -> None:
    """Let the process go on that was stopped, and was taken for dead: it may call nothing, and write nothing."""
    zombie = arena.stopped_slot()
    assert zombie is not None
    worker = arena.worker_of(zombie)
    refused = _refusals(worker.log())
    os.kill(zombie, signal.SIGCONT)
    wait_until(lambda: _refusals(worker.log()) > refused, "the zombie to be refused")


def _refusals(log: str) -> int:
    return log.count("taken over") + log.count("goes on elsewhere")


@pytest.mark.parametrize(("point", "nth", "action"), FAILING)
def test_a_block_that_fails_is_rolled_back(arena: Arena, point: str, nth: int, action: str) -> None:
    """Around each write of a block, before, in and after each hook."""
    arena.arm(f"{point}={action}::{nth}")

    handle = flows.trip.delay(fails=True)

    assert handle.wait(40).name == "Failed"
    assert arena.visited(point) >= nth, "the point was never passed"
    check_rolled_back(arena, handle, 3)
    if action == "stop":
        wake_the_stopped(arena)
        check_rolled_back(arena, handle, 3)


@pytest.mark.parametrize(("point", "nth", "action"), COMMITTING)
def test_a_block_that_ends_well_is_committed(arena: Arena, point: str, nth: int, action: str) -> None:
    """Its commit hooks end once, in order, and nothing is undone."""
    arena.arm(f"{point}={action}::{nth}")

    handle = flows.trip.delay(fails=False)

    assert handle.result(timeout=40) == "booked"
    assert arena.visited(point) >= nth, "the point was never passed"
    if action == "stop":
        wake_the_stopped(arena)
    rows = hook_rows(arena, handle, "commit")
    assert {row.state for row in rows} == {HookState.COMPLETED}
    assert starts(arena, handle, rows) == [row.key for row in rows]
    assert starts(arena, handle, hook_rows(arena, handle, "rollback")) == []
    assert {row.state for row in arena.rows(transactions, transactions.c.run_id == handle.id)} == {Durable.COMMITTED}


@pytest.mark.parametrize(
    ("point", "ended", "run"),
    [("before_commit", Durable.ROLLED_BACK, "rollback"), ("after_commit_decided", Durable.COMMITTED, "commit")],
)
def test_an_error_at_the_commit_is_on_one_side_of_it(arena: Arena, point: str, ended: Durable, run: str) -> None:
    """Until it is decided all is undone, from then on nothing; the run fails either way."""
    arena.arm(f"{point}=raise::1")

    handle = flows.trip.delay(fails=False)

    assert handle.wait(40).name == "Failed"
    assert {row.state for row in arena.rows(transactions, transactions.c.run_id == handle.id)} == {ended}
    for kind in ("rollback", "commit"):
        rows = hook_rows(arena, handle, kind)
        assert {row.state for row in rows} == {HookState.COMPLETED if kind == run else HookState.PENDING}
        assert len(starts(arena, handle, rows)) == (3 if kind == run else 0)


def test_a_process_killed_in_a_hook_leaves_it_and_the_next_to_another(arena: Arena) -> None:
    """What ended before is not called again."""
    handle = flows.killed_in_a_hook.delay()

    assert handle.wait(40).name == "Failed"
    check_rolled_back(arena, handle, 3)


def test_a_run_cancelled_and_killed_in_its_block_is_rolled_back(arena: Arena) -> None:
    """Everything is killed while the block is under way, and what comes back cancels it."""
    handle = flows.held.delay(30)
    arena.wait_for_start(handle.id, times=2)
    for worker in arena.workers:
        worker.kill_group()
    handle.cancel()
    arena.ensure()

    assert handle.wait(60).name == "Cancelled"
    check_rolled_back(arena, handle, 1)
