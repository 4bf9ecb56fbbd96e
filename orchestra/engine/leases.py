"""Leases of the flow runs that run in this process: one thread renews them all, and hears of cancelled ones."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from orchestra import identifiers, lazy, settings
from orchestra.engine import interrupts
from orchestra.store import local_runs
from orchestra.store.database import Database, database

_logger = logging.getLogger("orchestra.engine")


class _Leases:
    """The claims held here; the thread starts with the first one, and ends when none is held any more."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: dict[str, Callable[[], object]] = {}
        self._runs = False
        self._waits = 0.0
        self._has_looked = False

    @contextmanager
    def hold(self, owner: str, on_cancel: Callable[[], object]) -> Iterator[None]:
        """Renew the claim of `owner` while inside."""
        with self._changed:
            self._held[owner] = on_cancel
            if _beat() < self._waits:  # the thread waits for longer than the lease in force allows
                self._changed.notify()
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._renew, name="orchestra-leases", daemon=True).start()
        try:
            yield
        finally:
            # An interruption must not leave the claim here; it is raised when that is done.
            with interrupts.shielded(), self._changed:
                self._held.pop(owner, None)

    def look_once(self, db: Database) -> None:
        """Mark runs of dead processes, unless this process has done so."""
        if not self._has_looked:
            self._has_looked = True
            mark_dead(db)

    def _renew(self) -> None:
        while held := self._next(_beat()):
            try:
                self._tell(local_runs.renew_leases(database(), list(held), settings.current().lease_seconds))
            except Exception:
                _logger.warning("the leases of local runs could not be renewed", exc_info=True)

    def _tell(self, cancelled: Iterable[str]) -> None:
        with self._changed:
            for owner in cancelled:
                # A run that has ended meanwhile must not be told: its thread may run another one.
                if owner in self._held:
                    self._held[owner]()

    def _next(self, seconds: float) -> dict[str, Callable[[], object]]:
        with self._changed:
            self._waits = seconds
            self._changed.wait(seconds)
            self._runs = bool(self._held)
            return dict(self._held)


def _beat() -> float:
    """Seconds between two renewals."""
    return settings.current().lease_seconds / 6


_leases = _Leases()


def hold(owner: str, on_cancel: Callable[[], object]) -> AbstractContextManager[None]:
    """Renew the claim of `owner` while inside.

    Args:
        owner: Who holds the claim.
        on_cancel: Called by another thread, again and again, once the run is being cancelled.
    """
    return _leases.hold(owner, on_cancel)


def mark_dead(db: Database) -> None:
    """Mark local runs whose processes died, their leases having lapsed, as Crashed; on other hosts a lease later.

    What their transactions had done is rolled back first.
    """
    for run in local_runs.dead_in_transactions(db, identifiers.is_dead_here):
        try:
            lazy.load("rollbacks").recover(db, run)
        except Exception:
            # It is as it was, for the next process: that run's end is not this one's failure.
            _logger.exception("flow run %s of a dead process could not be rolled back", run.id)
    local_runs.mark_dead(db, identifiers.is_dead_here)


def mark_dead_once(db: Database) -> None:
    """As `mark_dead`, once in a process: it is no work of every run."""
    _leases.look_once(db)


def _after_fork() -> None:
    global _leases
    _leases = _Leases()


os.register_at_fork(after_in_child=_after_fork)
