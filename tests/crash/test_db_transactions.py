"""`db_transaction()` under SIGKILL and SIGSTOP: a row is there exactly if its step has ended, and once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from orchestra.store.database import database
from orchestra.store.tables import flow_runs, steps
from tests import servers
from tests.crash import atomic_flows as flows
from tests.crash.conftest import LEASE, Arena
from tests.crash.test_failpoints import IN_JOINT
from tests.helpers import ROOT

pytestmark = pytest.mark.services


@pytest.fixture
def table(arena: Arena) -> Arena:
    """The arena, with the user's table."""
    database().write(lambda connection: flows.entries.metadata.create_all(connection))
    return arena


def check_rows(arena: Arena, run_id: str, expected: int | None = None) -> None:
    """One row for each step that has ended, and no other; `expected` of them."""
    rows = Counter(row.step_key for row in arena.rows(flows.entries, flows.entries.c.run_id == run_id))
    ended = arena.rows(steps, steps.c.run_id == run_id, steps.c.state_type == "COMPLETED")
    assert rows == Counter(step.step_key for step in ended if step.path.rpartition(".")[2].endswith("enter"))
    assert expected in (None, rows.total())


POINTS = [
    ("in_body", 2),
    ("after_body", 2),
    *((point, nth) for point in IN_JOINT for nth in (1, 2, 3)),
]


@pytest.mark.parametrize(("point", "nth"), [*POINTS, ("before_record", 2), ("after_record", 2)])
def test_direct_calls_survive_a_kill(table: Arena, point: str, nth: int) -> None:
    """At each point around the commit: each row is there once."""
    table.arm(f"{point}=kill::{nth}")

    handle = flows.entering.delay()

    assert handle.result(timeout=40) == 3
    assert table.visited(point) >= nth, "the point was never passed"
    check_rows(table, handle.id, 3)


@pytest.mark.parametrize(("point", "nth"), [*POINTS, ("before_complete", 2), ("after_complete", 2)])
def test_messages_survive_a_kill(table: Arena, point: str, nth: int) -> None:
    """Likewise where each task is a message."""
    table.arm(f"{point}=kill::{nth}")

    handle = flows.entering_submitted.delay()

    assert handle.result(timeout=40) == 3
    assert table.visited(point) >= nth, "the point was never passed"
    check_rows(table, handle.id, 3)


LOCAL = "from tests.crash import atomic_flows; atomic_flows.entering()"


@pytest.mark.parametrize("point", IN_JOINT)
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_local_run_killed_around_a_commit_leaves_both_or_none(
    table: Arena, tmp_path: Path, point: str, nth: int
) -> None:
    """Nobody goes on with it; a row is there where its step is recorded."""
    before = {row.id for row in table.rows(flow_runs)}
    armed = {"ORCHESTRA_FAILPOINTS": f"{point}=kill::{nth}", "ORCHESTRA_FAILPOINT_DIR": str(tmp_path)}

    killed = subprocess.run([sys.executable, "-c", LOCAL], cwd=ROOT, env={**os.environ, **armed}, check=False)

    assert killed.returncode == -signal.SIGKILL
    (run,) = (row for row in table.rows(flow_runs) if row.id not in before)
    check_rows(table, run.id, nth - 1 if point.startswith("before") else nth)


def test_a_process_stopped_in_its_block_loses_its_rows_with_its_claim(table: Arena) -> None:
    """PostgreSQL ends the transaction; whoever claims the step next writes the row, once."""
    if table.postgres is None:
        pytest.skip("stopped while it holds SQLite's lock, a process locks the file for all (docs: promises)")
    handle = flows.stopped_within.delay()
    zombie = table.wait_for_start(handle.id)
    with servers.stopped(zombie.pid), servers.stopped(table.worker_of(zombie.pid).pid):
        table.wait_for_start(handle.id, times=2)
        assert handle.result(timeout=20) == 1

    rows = table.rows(flows.entries, flows.entries.c.run_id == handle.id)
    assert len(rows) == 1


def test_leases_are_renewed_beside_long_transactions(table: Arena) -> None:
    """On SQLite each holds the lock that renewals need, for most of the time that is allowed: no claim is lost."""
    bound = LEASE / 3

    handle = flows.crowded.delay(holding=3 * LEASE, open_for=0.8 * bound, times=12)

    assert handle.result(timeout=60) == 12
    check_rows(table, handle.id, 12)
    starts = Counter(line.step for line in table.lines(handle.id) if line.what == "start")
    assert set(starts.values()) == {1}, "bodies that were started again"
