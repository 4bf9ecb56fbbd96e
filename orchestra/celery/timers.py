"""Announcements whose time has not come, in the process that made them; the sweeper has those it does not live for."""

from __future__ import annotations

import heapq
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from orchestra import clock
from orchestra.store.announcements import Announcement

#: Waits this much longer than asked, in seconds: a message that comes too early is dropped.
_TIMER_MARGIN = 0.002


class Timers:
    """Announcements whose time has not come: one daemon thread, started at the first of them."""

    def __init__(self, announce: Callable[[Sequence[Announcement]], object]) -> None:
        """Prepare.

        Args:
            announce: Called in that thread with those that are due.
        """
        self._announce = announce
        self._pid = 0
        self._forget()

    def _forget(self) -> None:
        self._heap: list[tuple[float, int, Announcement]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._pid = 0

    def add(self, announcement: Announcement) -> None:
        """Announce it when it is due."""
        if self._pid not in (0, os.getpid()):
            self._forget()
        with self._changed:
            at = clock.monotonic() + announcement.delay + _TIMER_MARGIN
            heapq.heappush(self._heap, (at, next(self._order), replace(announcement, delay=0.0)))
            if not self._pid:
                self._pid = os.getpid()
                threading.Thread(target=self._run, name="orchestra-timers", daemon=True).start()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            self._announce(self._wait())

    def _wait(self) -> list[Announcement]:
        with self._changed:
            while not self._heap or self._heap[0][0] > clock.monotonic():
                self._changed.wait(self._heap[0][0] - clock.monotonic() if self._heap else None)
            due = []
            while self._heap and self._heap[0][0] <= clock.monotonic():
                due.append(heapq.heappop(self._heap)[2])
            return due
