"""SIGKILL around answers and messages: an answer counts or it does not, a message arrives once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from orchestra import resume_flow_run
from orchestra.errors import IllegalTransition
from orchestra.handles import FlowRunHandle
from orchestra.input import send_input
from orchestra.store.tables import Phase, flow_run_inputs, flow_runs
from tests.crash import flows
from tests.crash.conftest import RECOVERY, Arena
from tests.crash.test_failpoints import ON_INPUT
from tests.helpers import ROOT, wait_until

pytestmark = pytest.mark.services

#: How many messages are sent.
COUNT = 5


def wait_for_pause(arena: Arena, run_id: str) -> None:
    """Wait until a run is paused and no segment holds it."""
    parked = (flow_runs.c.id == run_id, flow_runs.c.state_type == "PAUSED", flow_runs.c.phase == Phase.WAITING)
    wait_until(lambda: arena.rows(flow_runs, *parked), "the run to be paused", 30)


RESUME = "from orchestra import resume_flow_run; resume_flow_run({run!r}, run_input={{'number': 4}})"


@pytest.mark.parametrize("point", ["before_resume", "after_resume"])
def test_a_run_goes_on_though_who_resumes_it_is_killed(arena: Arena, point: str) -> None:
    """By itself, once the answer is there; else when it is resumed again. Of two answers the first counts."""
    handle = flows.asking.delay()
    wait_for_pause(arena, handle.id)

    env = {**os.environ, "ORCHESTRA_FAILPOINTS": f"{point}=kill"}
    killed = subprocess.run([sys.executable, "-c", RESUME.format(run=handle.id)], cwd=ROOT, env=env, check=False)
    assert killed.returncode == -9
    if point == "before_resume":
        resume_flow_run(handle.id, run_input={"number": 5})
    else:
        with pytest.raises(IllegalTransition):
            resume_flow_run(handle.id, run_input={"number": 5})

    assert handle.result(timeout=RECOVERY + 20) == 3 + (5 if point == "before_resume" else 4)


@pytest.mark.parametrize("point", [point for point in ON_INPUT if not point.endswith("resume")])
def test_messages_arrive_once_though_a_worker_is_killed_around_them(arena: Arena, point: str) -> None:
    """In order; the receiver and the sender end well."""
    arena.arm(f"{point}=kill::3")

    receiver = flows.receiving.delay(COUNT)
    sender = flows.sending.delay(receiver.id, COUNT)

    assert receiver.result(timeout=RECOVERY + 40) == list(range(COUNT))
    assert sender.result(timeout=RECOVERY + 40) == COUNT
    assert arena.visited(point) >= 3, "the point was never passed"
    sent = arena.rows(flow_run_inputs, flow_run_inputs.c.run_id == receiver.id)
    assert len({row.taken_by for row in sent}) == len(sent) == COUNT


def test_an_answer_given_while_all_workers_are_dead_is_kept(arena: Arena) -> None:
    """The run goes on once there is a worker again."""
    handle, other = flows.asking.delay(), flows.receiving.delay(1)
    wait_for_pause(arena, handle.id)
    for worker in arena.workers:
        worker.kill_group()
    resume_flow_run(handle.id, run_input={"number": 1})
    send_input(7, flow_run_id=other.id)
    arena.ensure()

    assert handle.result(timeout=RECOVERY + 40) == 4
    assert FlowRunHandle(other.id).result(timeout=RECOVERY + 40) == [7]
