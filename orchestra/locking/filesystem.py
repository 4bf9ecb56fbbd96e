"""The lock manager over files: for processes that share a folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestra import clock
from orchestra.locking.polling import poll, poll_async


@dataclass(slots=True)
class _Held:
    """A lock file that this process holds."""

    holder: str
    descriptor: int


@dataclass
class FileSystemLockManager:
    """Locks for all processes that see one folder, which is made when it is first used.

    A lock is the kernel's lock on a file, so that it ends with its process, whatever that dies of. Network file systems
    without `flock` between hosts do not serve.
    """

    lock_files_directory: Path
    _held: dict[str, _Held] = field(default_factory=dict, init=False, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """Take the lock, waiting for at most `acquire_timeout` seconds; whether it was taken.

        Args:
            key: What is locked.
            holder: Who takes it; a holder that has it already takes it again.
            acquire_timeout: Longest wait; None: no bound.
            hold_timeout: Seconds after which others may take it; None: never, while this process lives.
        """
        return poll(lambda: self._try(key, holder, hold_timeout), acquire_timeout)

    async def aacquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """As `acquire_lock`, holding up the calling coroutine only."""
        return await poll_async(lambda: self._try(key, holder, hold_timeout), acquire_timeout)

    def release_lock(self, key: str, holder: str) -> None:
        """Give the lock up.

        Raises:
            ValueError: `holder` does not have it here.
        """
        with self._lock:
            held = self._held.get(key)
            if held is None or held.holder != holder:
                raise ValueError(f"no lock on {key!r} is held by {holder!r}")
            del self._held[key]
            self._remove(held.descriptor, key)
            os.close(held.descriptor)

    def is_locked(self, key: str) -> bool:
        """Whether anybody holds it."""
        return self._holder(key) is not None

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether `holder` holds it, in whatever process."""
        return self._holder(key) == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until nobody holds it; false where `timeout` seconds were over first."""
        return poll(lambda: not self.is_locked(key), timeout)

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """As `wait_for_lock`, holding up the calling coroutine only."""
        return await poll_async(lambda: not self.is_locked(key), timeout)

    def __reduce__(self) -> Any:
        return FileSystemLockManager, (self.lock_files_directory,)

    # -- the files -----------------------------------------------------------------------------------------------

    def _path(self, key: str) -> Path:
        return Path(self.lock_files_directory) / f"{hashlib.sha256(key.encode()).hexdigest()}.lock"

    def _try(self, key: str, holder: str, hold_timeout: float | None) -> bool:
        with self._lock:
            held = self._held.get(key)
            if held is not None and held.holder != holder and _is_over(_read(self._path(key))):
                self._remove(held.descriptor, key)
            if held is not None and not self._is_current(held.descriptor, key):
                # Its time was over, and others may take it, or have done so.
                os.close(self._held.pop(key).descriptor)
                held = None
            if held is not None:
                if held.holder != holder:
                    return False
                _write(held.descriptor, holder, hold_timeout)
                return True
            descriptor = self._open(key)
            if descriptor is None:
                return False
            _write(descriptor, holder, hold_timeout)
            self._held[key] = _Held(holder, descriptor)
            return True

    def _open(self, key: str) -> int | None:
        """The lock file, locked by this process; None where another holder has it."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _is_over(_read(path)):
                self._remove(descriptor, key)
            os.close(descriptor)
            return None
        if not self._is_current(descriptor, key):
            # Its holder has let it go, and the file with it, between our two calls.
            os.close(descriptor)
            return None
        return descriptor

    def _remove(self, descriptor: int, key: str) -> None:
        """Take an open lock file away, unless another one stands in its place; who has it open opens the next one."""
        with (self._path(key).parent / "guard").open("wb") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            if self._is_current(descriptor, key):
                self._path(key).unlink()

    def _is_current(self, descriptor: int, key: str) -> bool:
        """Whether an open file is still the one at the key's path."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._path(key).stat())
        except FileNotFoundError:
            return False

    def _holder(self, key: str) -> str | None:
        path = self._path(key)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            kept = _read(path)
            return None if kept is None or _is_over(kept) else str(kept["holder"])
        finally:
            os.close(descriptor)
        return None


def _write(descriptor: int, holder: str, hold_timeout: float | None) -> None:
    until = None if hold_timeout is None else clock.now() + hold_timeout
    data = json.dumps({"holder": holder, "until": until}).encode()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, data, 0)


def _read(path: Path) -> dict[str, Any] | None:
    """What a lock file says; None where it says nothing (yet)."""
    try:
        kept: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return kept


def _is_over(kept: dict[str, Any] | None) -> bool:
    """Whether the time of a hold is over, so that others may take it."""
    return kept is not None and kept["until"] is not None and clock.now() >= kept["until"]
