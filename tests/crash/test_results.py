"""Files of results and SIGKILL: a result is recorded with its file, or made again; what is left over is found."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from orchestra.store import blobs
from orchestra.store.database import Database
from orchestra.store.tables import flow_runs, steps, stored_results
from tests.crash.conftest import LEASE, RECOVERY, Arena
from tests.crash.result_flows import sizes
from tests.helpers import ROOT, wait_until

pytestmark = pytest.mark.services

N = 5000
ANSWER = [N, N + 1, N + 1]


def files(folder: Path) -> list[Path]:
    """The files of a storage."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def clean(arena: Arena) -> blobs.Cleaned:
    """What `orchestra db clean` does."""
    with closing(Database(arena.database_url)) as database:
        return blobs.clean(database, -1)


@pytest.mark.parametrize("nth", [1, 2], ids=["direct", "submitted"])
@pytest.mark.parametrize("point", ["before_upload", "after_upload"])
def test_a_result_survives_a_kill_around_its_upload(arena: Arena, tmp_path: Path, point: str, nth: int) -> None:
    """The answers are right; of what the dead worker wrote nothing is referred to, and `clean` finds it."""
    arena.arm(f"{point}=kill::{nth}")

    handle = sizes.delay(str(tmp_path), N)

    assert handle.result(timeout=RECOVERY + 20) == ANSWER
    assert arena.visited(point) > nth
    referred = {row.result_blob for row in arena.rows(steps, steps.c.run_id == handle.id)} - {None}
    assert len(referred) == 2
    clean(arena)
    assert {row.name for row in arena.rows(stored_results, stored_results.c.storage == str(tmp_path))} == referred
    assert len(files(tmp_path)) == 2


DELETE = (
    "from orchestra.store import removal; from orchestra.store.database import database; "
    "removal.delete(database(), {run!r})"
)


def test_files_of_a_deleted_run_are_found_though_who_deletes_it_is_killed(arena: Arena, tmp_path: Path) -> None:
    """The run is gone, its files go with the next `clean`, however young they are."""
    handle = sizes.delay(str(tmp_path), N)
    handle.result(timeout=30)

    env = {**os.environ, "ORCHESTRA_FAILPOINTS": "before_removal=kill"}
    killed = subprocess.run([sys.executable, "-c", DELETE.format(run=handle.id)], cwd=ROOT, env=env, check=False)
    assert killed.returncode == -9
    assert arena.rows(flow_runs, flow_runs.c.id == handle.id) == []
    assert len(files(tmp_path)) == 2

    with closing(Database(arena.database_url)) as database:
        assert blobs.clean(database, 3600).files == 2
    assert files(tmp_path) == []


def test_a_run_waits_for_a_storage_that_is_away(arena: Arena, tmp_path: Path) -> None:
    """For longer than its crash budget would last; it says for what, and goes on when the storage is back."""
    storage = tmp_path / "storage"
    storage.write_text("no folder yet")

    handle = sizes.delay(str(storage), N)
    told = (flow_runs.c.id == handle.id, flow_runs.c.state_message.like("waiting for its result storage%"))
    wait_until(lambda: arena.rows(flow_runs, *told), "the run to say for what it waits", 4 * LEASE + 10)
    arena.wait_for_start(handle.id, 4, timeout=40)
    storage.unlink()

    assert handle.result(timeout=4 * LEASE + 20) == ANSWER
    [run] = arena.rows(flow_runs, flow_runs.c.id == handle.id)
    assert run.lapses == 0
