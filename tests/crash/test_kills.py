"""SIGKILL of a worker's whole group, of one child, of its sweeper's process: the work goes on elsewhere."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from orchestra.errors import CrashedRun
from orchestra.store.tables import Phase, flow_runs
from tests.crash import flows
from tests.crash.conftest import IN_FLIGHT, RECOVERY, Arena
from tests.helpers import wait_until

pytestmark = pytest.mark.services


def kill_group(arena: Arena, pid: int) -> None:
    """SIGKILL the whole worker that a child belongs to."""
    arena.worker_of(pid).kill_group()


def kill_child(arena: Arena, pid: int) -> None:
    """SIGKILL one prefork child."""
    os.kill(pid, signal.SIGKILL)


KILLS = pytest.mark.parametrize(("kill", "slots"), [(kill_group, 2), (kill_child, 1)], ids=["group", "child"])


@KILLS
def test_flows_of_every_shape_survive_a_kill(arena: Arena, every_shape: Any, kill: Any, slots: int) -> None:
    """Right answers; run again is at most what was in flight in the killed slots."""
    runs = every_shape()
    wait_until(lambda: len(arena.lines(*runs.ids)) > 15, "the runs to be under way")

    kill(arena, arena.lines(*runs.ids)[-1].pid)

    runs.check()
    assert len(runs.restarts()) <= slots * IN_FLIGHT


@pytest.mark.alone
@KILLS
@pytest.mark.parametrize("flow", [flows.holding, flows.holding_submitted], ids=["direct", "submitted"])
def test_a_killed_body_is_started_again_within_lease_and_sweep(arena: Arena, kill: Any, slots: int, flow: Any) -> None:
    """By another process, with the same idempotency key, and as the same attempt."""
    handle = flow.delay(30.0)
    first = arena.wait_for_start(handle.id)

    kill(arena, first.pid)
    killed_at = time.time()
    second = arena.wait_for_start(handle.id, times=2)

    assert second.at - killed_at < RECOVERY
    assert (first.key, first.attempt) == (second.key, second.attempt)
    assert handle.result(timeout=20) == second.pid != first.pid


def test_runs_submitted_while_no_worker_lives_are_run_when_one_comes(arena: Arena, every_shape: Any) -> None:
    """The database keeps what is owed."""
    arena.ensure(workers=0)
    runs = every_shape()

    arena.ensure(workers=1)

    runs.check()
    assert runs.restarts() == []


def test_every_process_of_the_only_worker_killed_again_and_again(arena: Arena, every_shape: Any) -> None:
    """Three workers die one after another; the fourth finds all that is left."""
    arena.ensure(workers=1)
    runs = every_shape()
    for seen in (3, 12, 24):
        wait_until(lambda seen=seen: len(arena.lines(*runs.ids)) > seen, f"over {seen} lines in the ledger")
        arena.workers[0].kill_group()
        arena.ensure(workers=1)

    runs.check()
    assert len(runs.restarts()) <= 3 * 2 * IN_FLIGHT


def test_a_worker_of_threads_leaves_its_work_to_others_when_killed(arena: Arena, every_shape: Any) -> None:
    """Its slots, its sweeper and its heartbeat die at once."""
    arena.ensure(workers=0)
    threads = arena.start_worker(pool="threads").wait_ready()
    runs = every_shape()
    wait_until(lambda: len(arena.lines(*runs.ids)) > 15, "the runs to be under way")

    threads.kill_group()
    arena.ensure(workers=1)

    runs.check()
    assert len(runs.restarts()) <= 2 * IN_FLIGHT


def test_a_killed_sweeper_process_is_started_again(arena: Arena) -> None:
    """A worker without its helper would leave runs to the others."""
    (worker,) = arena.ensure(workers=1)
    helper = worker.helpers()[0]

    os.kill(helper, signal.SIGKILL)

    wait_until(lambda: set(worker.helpers()) - {helper}, "another helper process")
    handle = flows.sleeping.delay()
    assert handle.result(timeout=20) == 6


def test_a_task_that_kills_its_worker_each_time_ends_crashed(arena: Arena) -> None:
    """Three starts in all, then the run is Crashed, and the workers live on."""
    handle = flows.deadly.delay()

    with pytest.raises(CrashedRun):
        handle.result(timeout=3 * RECOVERY + 10)
    assert sum(line.what == "start" for line in arena.lines(handle.id)) == 3
    (run,) = arena.rows(flow_runs, flow_runs.c.id == handle.id)
    assert run.phase == Phase.DONE
    assert flows.linear.delay().result(timeout=20) == flows.ANSWERS[flows.linear]
