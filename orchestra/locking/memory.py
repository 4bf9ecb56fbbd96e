"""The lock manager within one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar

from orchestra import clock
from orchestra.locking.polling import end_of, poll_async

#: How often a waiting thread looks whether a hold has ended by its time, of which nobody tells; in seconds.
_LOOK = 0.5


class MemoryLockManager:
    """Locks for the threads and coroutines of one process; all instances in it share them.

    Callers in other processes are not waited for: where there are some, leave the lock manager out, and the database
    locks for all of them.
    """

    _changed: ClassVar[threading.Condition] = threading.Condition()
    #: By key: who holds it, and until when (monotonic seconds; None: until it is released).
    _held: ClassVar[dict[str, tuple[str, float | None]]] = {}

    @classmethod
    def get_instance(cls) -> MemoryLockManager:
        """An instance; all are alike."""
        return cls()

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """Take the lock, waiting for at most `acquire_timeout` seconds; whether it was taken.

        Args:
            key: What is locked.
            holder: Who takes it; a holder that has it already takes it again.
            acquire_timeout: Longest wait; None: no bound.
            hold_timeout: Seconds after which it is lost; None: never.
        """
        with self._changed:
            if not self._wait_until(lambda: self._owner(key) in (None, holder), acquire_timeout):
                return False
            self._held[key] = (holder, None if hold_timeout is None else clock.monotonic() + hold_timeout)
            return True

    async def aacquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """As `acquire_lock`, holding up the calling coroutine only."""
        return await poll_async(lambda: self.acquire_lock(key, holder, 0, hold_timeout), acquire_timeout)

    def release_lock(self, key: str, holder: str) -> None:
        """Give the lock up.

        Raises:
            ValueError: `holder` does not have it.
        """
        with self._changed:
            if self._held.get(key, (None,))[0] != holder:
                raise ValueError(f"no lock on {key!r} is held by {holder!r}")
            del self._held[key]
            self._changed.notify_all()

    def is_locked(self, key: str) -> bool:
        """Whether anybody holds it."""
        with self._changed:
            return self._owner(key) is not None

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether `holder` holds it."""
        with self._changed:
            return self._owner(key) == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until nobody holds it; false where `timeout` seconds were over first."""
        with self._changed:
            return self._wait_until(lambda: self._owner(key) is None, timeout)

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """As `wait_for_lock`, holding up the calling coroutine only."""
        return await poll_async(lambda: not self.is_locked(key), timeout)

    def __reduce__(self) -> Any:
        return MemoryLockManager, ()

    def _wait_until(self, is_so: Callable[[], bool], timeout: float | None) -> bool:
        """Wait, under the lock, until it is so; false where `timeout` seconds were over first."""
        end = end_of(timeout)
        while not is_so():
            left = _LOOK if end is None else end - clock.monotonic()
            if left <= 0:
                return False
            self._changed.wait(min(left, _LOOK))
        return True

    def _owner(self, key: str) -> str | None:
        """Who holds it now. Called under the lock."""
        holder, until = self._held.get(key, (None, None))
        return None if until is not None and clock.monotonic() >= until else holder
