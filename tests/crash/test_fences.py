"""SIGSTOP beyond the lease, then SIGCONT: what the zombie then writes is refused."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from orchestra.store.tables import flow_runs, steps
from tests import servers
from tests.crash import flows, ledger
from tests.crash.conftest import IN_FLIGHT, LEASE, Arena
from tests.helpers import wait_until

pytestmark = pytest.mark.services


@contextmanager
def stop_group(arena: Arena, pid: int) -> Iterator[None]:
    """Stop the whole worker that a child belongs to."""
    with stop(arena, arena.worker_of(pid).stopped):
        yield


@contextmanager
def stop_child(arena: Arena, pid: int) -> Iterator[None]:
    """Stop one prefork child."""
    with stop(arena, lambda: servers.stopped(pid)):
        yield


@contextmanager
def stop(arena: Arena, stopping: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Stop processes, but on SQLite not within a write: that would lock the file for all until they go on."""
    for _ in range(20):
        with stopping():
            if arena.writable():
                yield
                return
    raise AssertionError("the processes were within a write each time they were stopped")


STOPS = pytest.mark.parametrize("stopped", [stop_group, stop_child], ids=["group", "child"])


@STOPS
@pytest.mark.parametrize("flow", [flows.clinging, flows.clinging_submitted], ids=["direct", "submitted"])
def test_a_zombies_late_write_is_refused(arena: Arena, stopped: Any, flow: Any) -> None:
    """A stopped process loses its claim; when it goes on and offers its result, the other's stands."""
    handle = flow.delay()
    zombie = arena.wait_for_start(handle.id)
    worker = arena.worker_of(zombie.pid)
    with stopped(arena, zombie.pid):
        second = arena.wait_for_start(handle.id, times=2)
        assert handle.result(timeout=20) == second.pid
        before = recorded(arena, handle.id)

    wait_until(lambda: "end" in said_by(zombie, arena), "the zombie's body to end, late")
    wait_until(lambda: refusals(worker, handle.id), "the zombie's write to be refused")

    assert second.pid != zombie.pid
    assert recorded(arena, handle.id) == before
    assert handle.result() == second.pid


@STOPS
@pytest.mark.parametrize("flow", [flows.holding, flows.holding_submitted], ids=["direct", "submitted"])
def test_a_zombies_body_is_interrupted(arena: Arena, stopped: Any, flow: Any) -> None:
    """Its heartbeat learns that the claim is gone and ends the body, so that it does not go on beside the other."""
    handle = flow.delay(LEASE * 10)
    zombie = arena.wait_for_start(handle.id)
    with stopped(arena, zombie.pid):
        second = arena.wait_for_start(handle.id, times=2)

    wait_until(lambda: "interrupted" in said_by(zombie, arena), "the zombie's body to be interrupted", LEASE + 5)
    assert handle.result(timeout=60) == second.pid
    assert "end" not in said_by(zombie, arena)


@STOPS
def test_flows_of_every_shape_survive_a_stop(arena: Arena, every_shape: Any, stopped: Any) -> None:
    """Whatever the stopped slots held is done elsewhere, and what they say later changes nothing."""
    runs = every_shape()
    wait_until(lambda: len(arena.lines(*runs.ids)) > 15, "the runs to be under way")

    with stopped(arena, arena.lines(*runs.ids)[-1].pid):
        runs.check()

    assert len(runs.restarts()) <= 2 * IN_FLIGHT


@pytest.mark.parametrize(
    ("point", "nth"),
    [("before_complete", 4), ("before_record", 3), ("before_dispatch", 2), ("before_park", 2), ("before_finish", 2)],
)
def test_a_write_that_was_begun_before_the_stop_is_refused(
    arena: Arena, every_shape: Any, point: str, nth: int
) -> None:
    """A process is stopped between its last look at its claim and its write: only the fence in the database is left."""
    arena.arm(f"{point}=stop::{nth}")
    runs = every_shape()
    zombie = wait_until(arena.stopped_slot, f"a process to be stopped at {point}")
    runs.check()
    log, before = arena.worker_of(zombie), runs.journal()
    refused = log.log().count("taken over")

    os.kill(zombie, signal.SIGCONT)

    wait_until(lambda: log.log().count("taken over") > refused, "the zombie's write to be refused")
    assert runs.journal() == before


def said_by(zombie: ledger.Line, arena: Arena) -> list[str]:
    """What the body that a process started has written down since."""
    return [line.what for line in arena.lines(zombie.run) if line.pid == zombie.pid]


def refusals(worker: servers.Worker, run: str) -> list[str]:
    """What a worker has logged of claims on a run, or its steps, that it lost."""
    return [line for line in worker.log().splitlines() if run in line and "was taken over" in line]


def recorded(arena: Arena, run: str) -> list[Any]:
    """All rows of a run and its steps; each was claimed at least twice somewhere."""
    rows = arena.rows(flow_runs, flow_runs.c.id == run) + arena.rows(steps, steps.c.run_id == run)
    assert max(row.claim_number for row in rows) >= 2
    return rows
