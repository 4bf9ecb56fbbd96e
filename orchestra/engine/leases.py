"""Leases of the flow runs that run in this process: one thread renews them all."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from orchestra import settings
from orchestra.store import local_runs
from orchestra.store.database import database

_logger = logging.getLogger("orchestra.engine")


class _Leases:
    """The claims held here; the thread starts with the first one and ends when none has come for a while."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._owners: set[str] = set()
        self._runs = False

    @contextmanager
    def hold(self, owner: str) -> Iterator[None]:
        """Renew the claims of `owner` while inside."""
        with self._changed:
            self._owners.add(owner)
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._renew, name="orchestra-leases", daemon=True).start()
        try:
            yield
        finally:
            with self._changed:
                self._owners.discard(owner)

    def _renew(self) -> None:
        lease = settings.current().lease_seconds
        while owners := self._next(lease / 6):
            try:
                local_runs.renew_leases(database(), owners, lease)
            except Exception:
                _logger.warning("the leases of local runs could not be renewed", exc_info=True)

    def _next(self, seconds: float) -> list[str]:
        with self._changed:
            self._changed.wait(seconds)
            self._runs = bool(self._owners)
            return sorted(self._owners)


_leases = _Leases()


def hold(owner: str) -> AbstractContextManager[None]:
    """Renew the claims of `owner` while inside."""
    return _leases.hold(owner)


def _after_fork() -> None:
    global _leases
    _leases = _Leases()


os.register_at_fork(after_in_child=_after_fork)
