"""SIGKILL at every point of a run's way, just before and just after each write: the run ends right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

import pytest

from orchestra.handles import FlowRunHandle
from orchestra.store.tables import flow_runs, steps
from tests.crash import flows
from tests.crash.conftest import IN_FLIGHT, RECOVERY, Arena
from tests.helpers import ROOT, wait_until

pytestmark = pytest.mark.services

#: Every failpoint that a worker passes, in the order of a run's way: the visit at which it is killed, and how many
#: bodies may start again. None where nothing was in flight that is not recorded by then; where a branch has recorded
#: its step, those of its sibling branches still are.
ON_A_WORKER = {
    # name: (nth visit, bodies)
    "after_claim": (3, 0),
    "in_body": (5, IN_FLIGHT),
    "after_body": (5, IN_FLIGHT),
    "before_record": (3, IN_FLIGHT),
    "after_record": (3, IN_FLIGHT - 1),
    "before_dispatch": (2, 0),
    "after_dispatch": (2, 0),
    "before_announce": (3, 0),
    "after_announce": (3, 0),
    "before_publish": (4, 0),
    "after_publish": (4, 0),
    # A try of a direct call that is to be repeated later is written by the park: one may be under way.
    "before_park": (2, 1),
    "after_park": (2, 0),
    "before_complete": (4, 1),
    "after_complete": (4, 0),
    "before_finish": (2, 0),
    "after_finish": (2, 0),
    "before_retry_later": (1, 1),
    "after_retry_later": (1, 0),
    "before_reopen": (1, 0),
    "after_reopen": (1, 0),
    "before_timer": (1, 0),
    "after_timer": (1, 0),
}
#: Those that a worker passes which runs state hooks: tests/crash/test_hooks.py kills it at them.
IN_HOOKS = ("before_hooks_ran", "before_hook", "after_hook", "after_hooks", "after_claim_hooks")
#: Those on the way of a transaction: tests/crash/test_transactions.py is killed, stopped and fails at them.
IN_TRANSACTIONS = (
    "before_rollback",
    "after_rollback_decided",
    "before_commit",
    "after_commit_decided",
    "before_transaction_hook",
    "in_transaction_hook",
    "after_transaction_hook",
    "after_transaction_hook_ended",
    "before_settled",
    "after_settled",
)
#: Those that a process passes which cancels a run.
ON_CANCEL = ("before_cancel", "in_cancel")
#: Those that a process passes which has a run retried.
ON_RETRY = ("before_retry", "after_retry")
#: Those that a process passes which runs a local run again (test_local_retries.py).
ON_LOCAL_RETRY = ("before_local_retry", "after_local_retry")
#: Those passed by who answers a run, and by runs that send and receive (test_inputs.py).
ON_INPUT = ("before_resume", "after_resume", "before_send", "after_send", "before_receive", "after_receive")
#: Those around the commit of a task's own rows (test_db_transactions.py).
IN_JOINT = ("before_joint_commit", "after_joint_commit")
#: Those around the files of large results (test_results.py).
ON_RESULTS = ("before_upload", "after_upload", "before_removal")
#: Those around slots of limits (tests/limits/test_workers.py).
ON_SLOTS = ("before_acquire", "after_acquire", "before_release", "after_release", "before_grant", "after_grant")
#: Those around slots of runs of deployments (tests/integration/test_work_pools.py).
ON_RUN_SLOTS = ("before_run_slot", "after_run_slot", "before_run_grant", "after_run_grant")
#: Those around the transaction that fires schedules (tests/store/test_ticks.py, tests/integration/test_beat.py).
ON_TICKS = ("before_fire", "amid_fire", "after_fire")
#: Those around a deployment that is written (test_deployments.py).
ON_DEPLOYS = ("amid_deploy",)
#: Those around an artifact that is made (test_artifacts.py).
ON_ARTIFACTS = ("before_artifact", "after_artifact")
#: Those that a process passes which submits a run.
ON_SUBMIT = ("before_submit_commit", "after_submit_commit", "before_publish", "after_publish")
#: Those on the way of a member of a user's canvas, by the visit at which the worker is killed (`test_doors.py`).
ON_A_DOOR = (
    ("before_submit_commit", 1),
    ("after_submit_commit", 1),
    ("before_publish", 1),
    ("after_publish", 1),
    ("before_finish", 1),
    ("after_finish", 1),
    *((point, nth) for point in ("before_publish", "after_publish") for nth in (3, 4, 5)),
    ("before_begin_pass_on", 1),
    ("after_begin_pass_on", 1),
    ("in_pass_on", 1),
    ("before_end_pass_on", 1),
    ("after_end_pass_on", 1),
)


@pytest.mark.parametrize("point", ON_A_WORKER)
def test_a_run_survives_a_kill_at_every_point(arena: Arena, every_shape: Any, point: str) -> None:
    """Right answers; a body starts again only if its end was not recorded."""
    nth, bodies = ON_A_WORKER[point]
    arena.arm(f"{point}=kill::{nth}")

    runs = every_shape()

    runs.check()
    assert arena.visited(point) >= nth, "the point was never passed"
    assert len(runs.restarts()) <= bodies


def test_every_point_is_killed_at() -> None:
    """None in the code is forgotten here."""
    code = "".join(file.read_text() for file in (ROOT / "orchestra").rglob("*.py"))

    killed = {
        *ON_A_WORKER,
        *IN_HOOKS,
        *ON_SUBMIT,
        *ON_CANCEL,
        *ON_RETRY,
        *ON_LOCAL_RETRY,
        *ON_INPUT,
        *ON_ARTIFACTS,
        *ON_RESULTS,
        *ON_SLOTS,
        *ON_RUN_SLOTS,
        *ON_TICKS,
        *ON_DEPLOYS,
        *IN_JOINT,
        *IN_TRANSACTIONS,
        *(point for point, _ in ON_A_DOOR),
    }
    assert set(re.findall(r'\bfailpoint\(.*?"([a-z_]+)"', code)) <= killed


def test_runs_survive_kills_at_all_points(arena: Arena, every_shape: Any) -> None:
    """One kill at each point, at different times, while three runs of every shape go on."""
    arena.arm(",".join(f"{point}=kill::{7 + 5 * number}" for number, point in enumerate(ON_A_WORKER)))

    together = [every_shape() for _ in range(3)]

    for runs in together:
        runs.check(timeout=100)
    assert sum(arena.visited(point) >= 7 for point in ON_A_WORKER) > len(ON_A_WORKER) / 2


CANCEL = "from orchestra.handles import FlowRunHandle; FlowRunHandle({run!r}).cancel()"


@pytest.mark.parametrize("point", ON_CANCEL)
def test_a_run_is_cancelled_though_who_cancels_it_is_killed(arena: Arena, point: str) -> None:
    """By itself, with its child run, once it is marked; else when it is cancelled again."""
    handle = flows.holding_below.delay(600.0)
    (child,) = wait_until(lambda: arena.rows(flow_runs, flow_runs.c.parent_run_id == handle.id), "the child run")
    arena.wait_for_start(child.id)

    env = {**os.environ, "ORCHESTRA_FAILPOINTS": f"{point}=kill"}
    killed = subprocess.run([sys.executable, "-c", CANCEL.format(run=handle.id)], cwd=ROOT, env=env, check=False)
    if point == "before_cancel":
        handle.cancel()

    assert killed.returncode == -9
    assert handle.wait(RECOVERY).name == "Cancelled"
    assert FlowRunHandle(child.id).wait(RECOVERY).name == "Cancelled"


RETRY = """
from orchestra.engine import operations
from orchestra.store.database import database
operations.retry(database(), {run!r}, from_task_run_id={task!r})
"""


@pytest.mark.parametrize("point", ON_RETRY)
def test_a_run_is_retried_once_though_who_retries_it_is_killed(arena: Arena, point: str) -> None:
    """Before the commit it has ended as it was, and may be retried; after it, it goes on by itself."""
    handle = flows.linear.delay()
    assert handle.result(timeout=RECOVERY) == flows.ANSWERS[flows.linear]
    (last,) = arena.rows(steps, steps.c.run_id == handle.id, steps.c.position == 5)

    code = RETRY.format(run=handle.id, task=last.id)
    env = {**os.environ, "ORCHESTRA_FAILPOINTS": f"{point}=kill"}
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=False)
    if point == "before_retry":
        assert handle.state.is_completed()
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

    assert killed.returncode == -9
    assert arena.rows(flow_runs, flow_runs.c.id == handle.id, flow_runs.c.run_attempt == 2)
    assert FlowRunHandle(handle.id).result(timeout=RECOVERY) == flows.ANSWERS[flows.linear]
    assert sum(line.what == "start" for line in arena.lines(handle.id)) == 7


SUBMIT = "from tests.crash import flows; print(flows.linear.apply_async(idempotency_key={key!r}).id)"


def submit(point: str, action: str) -> subprocess.CompletedProcess[str]:
    """A process that submits a run, always under the same idempotency key for the same point."""
    env = {**os.environ, "ORCHESTRA_FAILPOINTS": f"{point}={action}"}
    code = SUBMIT.format(key=f"{os.environ['ORCHESTRA_DATABASE_URL']} {point}")
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, text=True, capture_output=True, check=False)


@pytest.mark.parametrize("point", ON_SUBMIT)
def test_a_submitter_killed_at_any_point_makes_one_run_when_it_tries_again(arena: Arena, point: str) -> None:
    """The same idempotency key gives the same run, which is run once."""
    killed = submit(point, "kill")
    again = submit(point, "sleep0")

    assert killed.returncode == -9, killed.stderr
    run_id = again.stdout.strip()
    (run,) = arena.rows(flow_runs, flow_runs.c.idempotency_key.endswith(f" {point}"))
    assert run.id == run_id, again.stderr
    assert FlowRunHandle(run_id).result(timeout=20) == flows.ANSWERS[flows.linear]
    assert sum(line.what == "start" for line in arena.lines(run_id)) == 6
