"""What tests of every kind use: waiting in words, free ports, and looking at processes by /proc."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: The project's root, from which workers started by tests import `tests.…`.
ROOT = Path(__file__).resolve().parent.parent


def wait_until(predicate: Callable[[], T], description: str, timeout: float = 20.0, every: float = 0.02) -> T:
    """Wait until `predicate` gives something true, and return that.

    Args:
        predicate: Asked again and again; what it raises ends the wait.
        description: What is waited for, as it reads after "waited … for".
        timeout: Seconds after which the test fails.
        every: Seconds between two askings.

    Raises:
        AssertionError: The time is over; names what was waited for and what was seen last.
    """
    end = time.monotonic() + timeout
    while True:
        seen = predicate()
        if seen:
            return seen
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout:g} s for {description}; last seen: {seen!r}")
        time.sleep(every)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether something accepts connections at this port of 127.0.0.1."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def processes() -> Iterator[int]:
    """The ids of all processes that are not zombies."""
    for name in os.listdir("/proc"):
        if name.isdigit() and process_state(int(name)) not in (None, "Z"):
            yield int(name)


def process_state(pid: int) -> str | None:
    """The kernel's letter for a process (R, S, T stopped, Z zombie…); None where there is none."""
    fields = _stat(pid)
    return fields[0] if fields else None


def children(pid: int) -> list[int]:
    """The ids of a process's live children, oldest first."""
    found = [child for child in processes() if (fields := _stat(child)) and int(fields[1]) == pid]
    return sorted(found, key=started)


def session_members(session: int) -> list[int]:
    """The ids of the live processes in a session."""
    return [pid for pid in processes() if (fields := _stat(pid)) and int(fields[3]) == session]


def started(pid: int) -> int:
    """When a process was started, in clock ticks since boot; 0 where there is none."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def command_line(pid: int) -> str:
    """The command line of a process, its words parted by spaces."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""


def environment_of(pid: int) -> str:
    """The environment that a process was started with, as the kernel keeps it."""
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


def _stat(pid: int) -> list[str] | None:
    # Fields after the command's name, which may hold spaces and parentheses: state, ppid, pgrp, session, …
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
