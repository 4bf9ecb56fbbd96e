"""What the kernel says of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from orchestra.celery.processes import Watch, children, look
from tests.helpers import wait_until

SLEEP = [sys.executable, "-S", "-E", "-c", "import time; time.sleep(60)"]


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A child process that lives until the test ends."""
    process = subprocess.Popen(SLEEP)
    yield process
    process.kill()
    process.wait()


def name_of(process: subprocess.Popen[bytes]) -> str:
    """`pid:start` of a process that lives."""
    found = look(process.pid)
    assert found is not None
    return found.name


def test_children_are_seen(child: subprocess.Popen[bytes]) -> None:
    """As the kernel lists them."""
    assert child.pid in children(os.getpid())


def test_a_killed_child_is_seen_dead_before_it_is_waited_for(child: subprocess.Popen[bytes]) -> None:
    """A zombie holds no lease any more."""
    watch, name = Watch(os.getpid()), name_of(child)
    watch.look()
    assert (watch.runs(name), watch.has_died(name)) == (True, False)

    os.kill(child.pid, signal.SIGKILL)
    wait_until(watch.look, "the death to be seen")

    assert (watch.runs(name), watch.has_died(name)) == (False, True)


def test_a_stopped_child_lives_but_does_not_run(child: subprocess.Popen[bytes]) -> None:
    """Nobody renews the leases of a process in state T."""
    watch, name = Watch(os.getpid()), name_of(child)
    watch.look()

    os.kill(child.pid, signal.SIGSTOP)

    wait_until(lambda: not watch.runs(name), "the child to be stopped")
    assert not watch.has_died(name)


def test_another_process_with_a_known_pid_is_not_taken_for_the_first(child: subprocess.Popen[bytes]) -> None:
    """Pids are used again; start times tell them apart."""
    watch = Watch(os.getpid())
    watch.look()

    assert not watch.runs(f"{child.pid}:1")
    assert not watch.has_died(f"{child.pid}:1")


def test_what_was_never_a_child_is_never_called_dead() -> None:
    """A claim of another container's process is not ours to judge."""
    watch = Watch(os.getpid())
    watch.look()

    assert not watch.has_died("999999:123")
