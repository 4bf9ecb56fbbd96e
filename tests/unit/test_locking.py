"""Lock managers: one holder at a time, whatever it dies of."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestra.locking.filesystem import FileSystemLockManager
from orchestra.locking.memory import MemoryLockManager
from tests.helpers import ROOT, wait_until


@pytest.fixture(params=["memory", "files"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Both kinds."""
    return MemoryLockManager() if request.param == "memory" else FileSystemLockManager(tmp_path / "locks")


def test_one_holder_at_a_time(manager: Any) -> None:
    """It may take the lock again; others wait until it lets go."""
    assert manager.acquire_lock("key", "one", 0)
    assert manager.acquire_lock("key", "one", 0)
    assert not manager.acquire_lock("key", "other", 0.05)
    assert manager.is_locked("key")
    assert manager.is_lock_holder("key", "one")
    assert not manager.wait_for_lock("key", 0.05)
    with pytest.raises(ValueError, match="no lock on 'key' is held by 'other'"):
        manager.release_lock("key", "other")
    manager.release_lock("key", "one")

    assert not manager.is_locked("key")
    assert manager.acquire_lock("key", "other", 0)
    manager.release_lock("key", "other")


def test_a_hold_ends_by_its_time(manager: Any) -> None:
    """Others may have the lock then, and keep it when the first one would let go."""
    assert manager.acquire_lock("key", "one", 0, hold_timeout=0.05)
    assert manager.acquire_lock("key", "other", 5)
    with pytest.raises(ValueError, match="no lock on"):
        manager.release_lock("key", "one")

    assert manager.is_lock_holder("key", "other")
    manager.release_lock("key", "other")


def test_who_waits_has_it_next(manager: Any) -> None:
    """As soon as it is let go."""
    manager.acquire_lock("key", "one")
    taken = threading.Event()
    waiting = threading.Thread(target=lambda: manager.acquire_lock("key", "other") and taken.set())
    waiting.start()
    assert not taken.is_set()
    manager.release_lock("key", "one")

    assert taken.wait(5)
    waiting.join()
    manager.release_lock("key", "other")


def test_it_travels_with_a_task(manager: Any) -> None:
    """To a worker, as part of a policy."""
    back = pickle.loads(pickle.dumps(manager))

    assert type(back) is type(manager)


@pytest.mark.services
def test_the_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    """The kernel lets it go."""
    code = (
        "import sys, time; from orchestra.locking.filesystem import FileSystemLockManager as F; "
        "from pathlib import Path; F(Path(sys.argv[1])).acquire_lock('key', 'dead'); print('has it', flush=True); "
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    manager = FileSystemLockManager(tmp_path)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert not manager.acquire_lock("key", "next", 0)
    finally:
        process.kill()
        process.communicate()

    wait_until(lambda: manager.acquire_lock("key", "next", 0), "the lock of the dead process")
    manager.release_lock("key", "next")
