"""The heartbeat of a process: one daemon thread renews every claim it holds, and tells its body what it learns."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from orchestra import clock
from orchestra.engine import interrupts
from orchestra.errors import Cancelled, ClaimLost, Fenced
from orchestra.store import claims, workers
from orchestra.store.claims import Claim
from orchestra.store.database import Database, database

logger = logging.getLogger("orchestra.heartbeat")

#: Beats in one lease.
BEATS = 6
#: Seconds between two looks at a body whose claim was lost, until it has ended.
_LOOK_EVERY = 0.5
#: How often the marks of claimed announcements are written, in seconds.
_MARKS_EVERY = 1.0


@dataclass(eq=False, slots=True)
class _Held:
    claim: Claim
    in_main: bool
    #: What was raised in its body.
    told: BaseException | None = None
    told_at: float = 0.0
    looked_at: float = 0.0

    @property
    def due(self) -> float:
        """When to look again: to renew it, or, where it was lost, whether its body knows."""
        if not self.claim.lost:
            return self.claim.renewed_at + self.claim.lease_seconds / BEATS
        return self.looked_at + _LOOK_EVERY if self.in_main else float("inf")

    def must_be_told(self, now: float) -> bool:
        """Whether its body was not told, or goes on beside its successor a whole lease after it was."""
        if self.told is None or interrupts.is_missed(self.told):
            return True
        return self.claim.lost and now >= self.told_at + self.claim.lease_seconds


class Heart:
    """Keeps the claims of this process alive, on a connection of its own."""

    def __init__(self, open_database: Callable[[], Database] = database, *, lent: Claim | None = None) -> None:
        """The heart of a process.

        Args:
            open_database: Gives the database.
            lent: A claim under which this process works for the one that made it: it is renewed as the others, and
                never let lapse; that one sees to that, when this process has ended.
        """
        self._open = open_database
        self._lent = lent
        self._held: list[_Held] = []
        self._given_up: list[Claim] = []
        self._marks: dict[str, float] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wakes_at = float("inf")
        self._marks_due = float("inf")

    @contextmanager
    def hold(self, claim: Claim) -> Iterator[None]:
        """Renew `claim` every sixth of its lease while inside.

        A body in the main thread is interrupted when its claim was lost or its run cancelled; others ask the claim.
        What leaves it by an error has given the work up: the claim is let lapse at once, as soon as the database takes
        it. Left alone it would be renewed for as long as this process lives.
        """
        held = _Held(claim, threading.current_thread() is threading.main_thread())
        try:
            # Shielded, here and below: the body around may be interrupted, and must not leave this claim held.
            with interrupts.shielded(), self._changed:
                self._held.append(held)
                self._wake_by(held.due)
            yield
        except (Fenced, ClaimLost):
            raise
        except BaseException:
            if claim is not self._lent:
                self._give_up(claim)
            raise
        finally:
            with interrupts.shielded(), self._changed:
                if held in self._held:
                    self._held.remove(held)
                if held.told is not None:
                    # What it was meant for is over: it must not be raised in the body around.
                    interrupts.drop(held.told)

    def _give_up(self, claim: Claim) -> None:
        with interrupts.shielded(), self._changed:
            self._given_up.append(claim)
            self._wake_by(0.0)

    def mark(self, queue: str, announced_at: float | None) -> None:
        """Note that a message of `queue`, announced then, was claimed; written soon, in one go with others."""
        if announced_at is None:
            return
        with self._changed:
            if announced_at <= self._marks.get(queue, 0.0):
                return
            self._marks[queue] = announced_at
            self._marks_due = min(self._marks_due, clock.monotonic() + _MARKS_EVERY)
            self._wake_by(self._marks_due)

    def _wake_by(self, instant: float) -> None:
        """Make sure that the thread runs and looks again by then. Called under the lock."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="orchestra-heartbeat", daemon=True)
            self._thread.start()
        if instant < self._wakes_at:
            self._changed.notify()

    def _run(self) -> None:
        while True:
            due = self._wait()
            try:
                self._beat(due)
                self._let_lapse()
                self._write_marks()
            except Exception:
                logger.warning("heartbeat failed; trying again", exc_info=True)
                self._pause(1.0)

    def _wait(self) -> list[_Held]:
        """Sleep until something is due; gives the claims that are."""
        with self._changed:
            while True:
                now = clock.monotonic()
                due = [held for held in self._held if held.due <= now]
                if due or self._given_up or self._marks_due <= now:
                    return due
                self._wakes_at = min([self._marks_due, *(held.due for held in self._held)])
                wait = self._wakes_at - now
                self._changed.wait(None if wait == float("inf") else max(wait, 0.001))

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait(seconds)

    def _beat(self, due: Sequence[_Held]) -> None:
        if not due:
            return
        try:
            if live := [held.claim for held in due if not held.claim.lost]:
                claims.renew(self._open(), live)
        finally:
            # Also if the renewal of another failed.
            with self._changed:
                for held in due:
                    # A claim given up meanwhile is no longer ours to act on: the main thread may run another body.
                    if held in self._held:
                        _tell(held)

    def _let_lapse(self) -> None:
        with self._changed:
            given_up = list(self._given_up)
        if not given_up:
            return
        claims.let_lapse(self._open(), given_up)
        with self._changed:
            del self._given_up[: len(given_up)]

    def _write_marks(self) -> None:
        with self._changed:
            if clock.monotonic() < self._marks_due:
                return
            marks, self._marks, self._marks_due = self._marks, {}, float("inf")
        for queue, announced_at in marks.items():
            workers.mark_claimed(self._open(), queue, announced_at)


def _tell(held: _Held) -> None:
    """Interrupt a body whose claim was lost or whose run is being cancelled, as soon as it can be."""
    held.looked_at = now = clock.monotonic()
    if not held.in_main or not (held.claim.lost or held.claim.cancelled) or not held.must_be_told(now):
        return
    signal = Fenced() if held.claim.lost else Cancelled()
    if interrupts.raise_in_main(signal):
        held.told, held.told_at = signal, now


_lock = threading.Lock()
_hearts: dict[int, Heart] = {}


def heart() -> Heart:
    """The heart of this process; a forked child has its own."""
    with _lock:
        pid = os.getpid()
        if pid not in _hearts:
            _hearts.clear()
            _hearts[pid] = Heart()
        return _hearts[pid]


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
