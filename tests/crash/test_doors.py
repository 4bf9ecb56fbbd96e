"""SIGKILL at each seam between a canvas of a user's own and the run that stands for a member: the canvas goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra.store.tables import flow_runs, pass_ons
from tests.crash.conftest import Arena
from tests.crash.test_failpoints import ON_A_DOOR
from tests.helpers import ROOT, wait_until

pytestmark = pytest.mark.services

#: A chain of two flows, a parking one first; prints Celery's ids of both members.
APPLY = """
from celery import chain
from tests.crash import flows
last = chain(flows.sleeping.s(), flows.added.s(10)).apply_async()
print(last.parent.id, last.id)
"""


def apply(code: str = APPLY) -> list[str]:
    """Apply the chain, in a process of its own; Celery's ids of its members."""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()


def run_of(arena: Arena, task_id: str) -> list[Any]:
    """The runs that stand for a Celery task."""
    return arena.rows(flow_runs, flow_runs.c.idempotency_key.startswith(task_id))


@pytest.mark.parametrize(("point", "nth"), ON_A_DOOR)
def test_a_canvas_goes_on_though_a_process_is_killed_at(arena: Arena, point: str, nth: int) -> None:
    """Before and after the run is created, ends, is announced, is passed on: one run for each member, right values."""
    arena.arm(f"{point}=kill::{nth}")

    first, last = apply()

    (run,) = wait_until(
        lambda: [run for run in run_of(arena, last) if run.state_type == "COMPLETED"], "the last member to end", 60
    )
    assert arena.visited(point) >= nth, "the point was never passed"
    assert run.result == b"j16"
    assert [len(run_of(arena, task_id)) for task_id in (first, last)] == [1, 1]
    (line,) = {(line.run, line.step) for line in arena.lines(run.id) if line.what == "start"}
    assert line[0] == run.id
    paid = sa.and_(pass_ons.c.run_id == run.id, pass_ons.c.passed_at.is_not(None))
    wait_until(lambda: arena.rows(pass_ons, paid), "nothing to be owed", 40)


@pytest.mark.parametrize("point", ["before_begin_pass_on", "after_begin_pass_on", "in_pass_on", "before_end_pass_on"])
def test_a_flows_own_canvas_goes_on_though_a_process_is_killed_at(arena: Arena, point: str) -> None:
    """Its last node is kept until the run has ended, and passes the outcome on to what comes behind it."""
    arena.arm(f"{point}=kill::1")

    _, last = apply(APPLY.replace("flows.sleeping.s()", "flows.retrying_submitted.canvas()"))

    (run,) = wait_until(
        lambda: [run for run in run_of(arena, last) if run.state_type == "COMPLETED"], "the last member to end", 60
    )
    assert arena.visited(point) >= 1, "the point was never passed"
    assert run.result == b"j19"


def test_a_canvas_goes_on_though_the_broker_forgets_its_messages(arena: Arena) -> None:
    """FLUSHALL while a member is parked, and again when its outcome was sent and nobody had taken it."""
    first, last = apply()
    wait_until(lambda: run_of(arena, first), "the first member's run", 40)
    arena.arm("before_begin_pass_on=kill::1")
    arena.broker.flush()

    wait_until(lambda: arena.visited("before_begin_pass_on") >= 1, "its outcome to be on its way", 40)
    arena.broker.flush()

    wait_until(
        lambda: [run for run in run_of(arena, last) if run.state_type == "COMPLETED"], "the last member to end", 60
    )
