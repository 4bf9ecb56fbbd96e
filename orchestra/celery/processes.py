"""What the kernel says of processes (/proc; where there is none, nothing is known and leases alone count)."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """One process, told apart from a later one of the same pid by its start time."""

    pid: int
    start: str
    #: The kernel's letter: R, S, D, T (stopped), Z (dead, not yet waited for)…
    state: str

    @property
    def name(self) -> str:
        """`pid:start`, as in the names of owners."""
        return f"{self.pid}:{self.start}"

    @property
    def is_dead(self) -> bool:
        """Whether it has ended, though its parent may not have noticed."""
        return self.state in "ZX"

    @property
    def is_stopped(self) -> bool:
        """Whether it was stopped by a signal or a debugger."""
        return self.state in "Tt"


def look(pid: int) -> Process | None:
    """The process with this pid; None where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return Process(pid, fields[19], fields[0])


def process_start(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None where it cannot be told."""
    found = look(pid)
    return found.start if found else None


def children(pid: int) -> list[int]:
    """The pids of a process's children, dead ones not yet waited for included."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.extend(map(int, task.read_text().split()))
    return found


class Watch:
    """Watches a worker's process and its children: who died, who is stopped."""

    def __init__(self, pid: int) -> None:
        """Watch the process `pid` and the children that it has and will have."""
        self.pid = pid
        self._started = process_start(pid) or ""
        self._alive: set[str] = set()
        self._died: set[str] = set()

    def look(self) -> bool:
        """Look again; true if one has died since the last look."""
        # The process that watches may be one of the children.
        pids = {self.pid, *children(self.pid)} - ({os.getpid()} - {self.pid})
        seen = {found.name for pid in pids if (found := look(pid)) and not found.is_dead}
        # Children of a parent that has died hang elsewhere now.
        gone = {name for name in self._alive - seen if not self._lives(name)}
        self._alive = (self._alive | seen) - gone
        self._died |= gone
        return bool(gone)

    @property
    def alive(self) -> frozenset[str]:
        """Those that lived at the last look, as `pid:start`."""
        return frozenset(self._alive)

    @property
    def any_alive(self) -> bool:
        """Whether one of them lived at the last look."""
        return bool(self._alive)

    def has_died(self, name: str) -> bool:
        """Whether the process `pid:start` was one of them, and is dead."""
        return name in self._died

    def may_have_died(self, name: str) -> bool:
        """Whether the process `pid:start` is dead and may have been one of them: it started after the worker did.

        For the end of a worker that died before all of its children were seen.
        """
        start = name.partition(":")[2]
        return (
            start.isdigit() and self._started.isdigit() and int(start) >= int(self._started) and not self._lives(name)
        )

    def runs(self, name: str) -> bool:
        """Whether the process `pid:start` is one of them, lives and is not stopped."""
        found = look(int(name.partition(":")[0])) if name in self._alive else None
        return found is not None and found.name == name and not (found.is_dead or found.is_stopped)

    def _lives(self, name: str) -> bool:
        found = look(int(name.partition(":")[0]))
        return found is not None and found.name == name and not found.is_dead
