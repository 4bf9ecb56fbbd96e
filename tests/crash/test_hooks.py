"""State hooks of runs whose processes are killed: each is called at least once, told of the right state."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestra.handles import FlowRunHandle
from orchestra.store.tables import Phase, owed_hooks, steps
from tests.crash import hook_flows as flows
from tests.crash.conftest import RECOVERY, Arena
from tests.crash.test_failpoints import IN_HOOKS
from tests.helpers import wait_until

pytestmark = pytest.mark.services

#: Around the ends of runs and steps: each point with the visit at which it is killed.
AROUND = [
    ("before_finish", 1),
    ("after_finish", 1),
    ("before_complete", 1),
    ("after_complete", 1),
    ("before_record", 1),
    ("after_record", 1),
]
#: Of a run of `hooked`, hooks are called for the submitted task, the direct one, and the flow: two each.
INSIDE = [(point, nth) for point in IN_HOOKS for nth in (1, 3, 5) if point in ("before_hook", "after_hook")]
REST = [(point, 1) for point in IN_HOOKS if point not in ("before_hook", "after_hook", "after_claim_hooks")]


def called(arena: Arena, handle: FlowRunHandle) -> tuple[Counter[str], list[Counter[str]]]:
    """How often which hooks were called, of a run and of each of its steps, once nothing of it is owed."""
    wait_until(
        lambda: not arena.rows(owed_hooks, owed_hooks.c.run_id == handle.id), "no hooks to be owed", 4 * RECOVERY
    )
    task_runs = [row.id for row in arena.rows(steps, steps.c.run_id == handle.id) if row.phase == Phase.DONE]
    return flows.calls(arena.ledger, handle.id), [flows.calls(arena.ledger, each) for each in task_runs]


def check(counted: Counter[str], *expected: str) -> None:
    """Each of these at least once, at most one of them twice, and no other."""
    assert set(counted) == set(expected)
    assert sum(counted.values()) <= len(expected) + 1


@pytest.mark.parametrize(("point", "nth"), [*AROUND, *INSIDE, *REST])
def test_hooks_are_called_though_their_process_is_killed(arena: Arena, point: str, nth: int) -> None:
    """Around the commit of an end, around each hook, and around the debt's end."""
    arena.arm(f"{point}=kill::{nth}")

    handle = flows.hooked.delay()

    assert handle.result(timeout=40) == 3
    flow, tasks = called(arena, handle)
    assert arena.visited(point) >= nth, "the point was never passed"
    check(flow, "first Running", "first Completed", "second Completed")
    assert len(tasks) == 2
    for task in tasks:
        check(task, "first Running", "first Completed", "second Completed")


def test_hooks_are_called_though_the_second_process_is_killed_too(arena: Arena) -> None:
    """The one that took the debt over."""
    arena.arm("after_finish=kill::1,after_claim_hooks=kill::1")

    handle = flows.failing.delay()

    assert handle.wait(40).name == "Failed"
    wait_until(lambda: arena.visited("after_claim_hooks") >= 2, "the hooks to be claimed again", 4 * RECOVERY)
    flow, _ = called(arena, handle)
    check(flow, "first Failed")


def test_a_process_killed_in_a_hook_leaves_it_and_the_next_to_another(arena: Arena) -> None:
    """What was called before is not called again."""
    handle = flows.killed_in_a_hook.delay()

    assert handle.result(timeout=40) == "done"
    flow, _ = called(arena, handle)
    assert flow == {"first Completed": 1, "deadly Completed": 2, "second Completed": 1}


@pytest.mark.parametrize("submitted", [False, True], ids=["direct", "submitted"])
def test_a_process_killed_in_a_hook_of_a_task_leaves_it_to_another(arena: Arena, submitted: bool) -> None:
    """The task does not run again."""
    handle = flows.killed_in_a_task_hook.delay(submitted)

    assert handle.result(timeout=40) == "done"
    _, (task,) = called(arena, handle)
    assert task == {"first Completed": 1, "deadly Completed": 2, "second Completed": 1}


def test_hooks_of_a_run_cancelled_while_no_worker_lives_are_called_when_one_comes(arena: Arena) -> None:
    """The database keeps the debt."""
    arena.ensure(workers=0)
    handle = flows.held.delay(1.0)
    handle.cancel()
    assert handle.wait(1).name == "Cancelled"
    arena.broker.flush()

    arena.ensure(workers=1)

    flow, _ = called(arena, handle)
    assert flow == {"first Cancelled": 1}
