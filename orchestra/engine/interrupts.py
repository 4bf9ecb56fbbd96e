"""Stop a body that runs in the main thread: when its time is over, or because another thread says so.

One SIGALRM handler serves both. It raises only while the door is open: `armed()` opens it around a user's body,
`shielded()` closes it around our own writes inside that body; what came meanwhile is raised when it opens again.
Off the main thread everything here does nothing (`deadline` must not be asked for there).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from orchestra import clock
from orchestra.errors import RunTimeout, Signal

#: Seconds after which a body that swallowed its timeout is interrupted again.
_INSIST = 0.5


class Expired(Signal):
    """A deadline has passed; a signal, so that a body's `except Exception` does not eat it."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__(deadline.what)
        self.deadline = deadline


@dataclass(eq=False, slots=True)
class Deadline:
    """A body's end of time, on the monotonic clock."""

    what: str
    seconds: float
    at: float
    fired: bool = False

    def error(self) -> RunTimeout:
        """What the run ends with."""
        return timeout_error(self.what, self.seconds)


@dataclass(slots=True)
class _Main:
    """The state of the main thread: all of this is touched there only, but for `pending`."""

    depth: int = 0
    open: bool = False
    pending: BaseException | None = None
    deadlines: list[Deadline] = field(default_factory=list)
    old_handler: Any = None
    old_timer: tuple[float, float] = (0.0, 0.0)
    armed_at: float = 0.0


_main = _Main()


def timeout_error(what: str, seconds: float) -> RunTimeout:
    """The error of a run that took longer than `seconds`."""
    return RunTimeout(f"{what} ran longer than its timeout_seconds={seconds:g}")


def available() -> bool:
    """Whether a body called now could be interrupted: this is the main thread of a POSIX process."""
    return threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")


@contextmanager
def armed() -> Iterator[None]:
    """While inside, the running body may be interrupted."""
    if not available():
        yield
        return
    was = _main.open
    _enter()
    try:
        _main.open = True
        _raise_due()
        yield
    finally:
        # An alarm between the two must not leave the door open for the next body.
        try:
            _main.open = was
        finally:
            _leave()


@contextmanager
def shielded() -> Iterator[None]:
    """While inside, interruptions are kept back; they are raised at the end if the door was open before."""
    if not _main.open or not available():
        yield
        return
    _main.open = False
    try:
        yield
    finally:
        _main.open = True
    _raise_due()


@contextmanager
def deadline(what: str, seconds: float, allowed: float | None = None) -> Iterator[None]:
    """Interrupt the body inside after `seconds`.

    Args:
        what: The body, as the error names it.
        seconds: From now on.
        allowed: Seconds as the error says them, where some had passed before.

    Raises:
        RunTimeout: The time was over, also if the body swallowed the interruption.
    """
    limit = Deadline(what, allowed or seconds, clock.monotonic() + seconds)
    _main.deadlines.append(limit)
    try:
        with armed():
            _set_timer()
            yield
    except Expired as expired:
        if expired.deadline is not limit:
            raise
    finally:
        _main.deadlines.remove(limit)
        if _main.depth:
            _set_timer()
    if limit.fired:
        raise limit.error()


def check() -> None:
    """Raise again what a body has swallowed: that a deadline it runs under has passed."""
    if available():
        expired = next((limit for limit in _main.deadlines if limit.fired), None)
        if expired is not None:
            raise Expired(expired)


def raise_in_main(error: BaseException) -> bool:
    """Raise `error` in the body that the main thread runs; False if it runs none that may be interrupted.

    Callable from any thread. The error is raised at the body's next bytecode; a blocking call is woken.
    """
    if not _main.depth:
        return False
    _main.pending = error
    ident = threading.main_thread().ident
    if ident is not None:
        signal.pthread_kill(ident, signal.SIGALRM)
    return True


def drop(error: BaseException) -> None:
    """Forget an error that was to be raised in the main thread and was not yet: what it was meant for is over."""
    if _main.pending is error:
        _main.pending = None


def _enter() -> None:
    _main.depth += 1
    if _main.depth == 1:
        _main.pending = None
        _main.armed_at = clock.monotonic()
        _main.old_handler = signal.signal(signal.SIGALRM, _on_alarm)
        _main.old_timer = signal.setitimer(signal.ITIMER_REAL, 0)


def _leave() -> None:
    _main.depth -= 1
    if _main.depth == 0:
        signal.setitimer(signal.ITIMER_REAL, 0)
        # Ours stays where there was none: a late alarm from another thread must not end the process.
        if _main.old_handler not in (None, signal.SIG_DFL):
            signal.signal(signal.SIGALRM, _main.old_handler)
        _restore_timer(*_main.old_timer)
        _main.pending = None


def _restore_timer(remaining: float, interval: float) -> None:
    """Set somebody else's timer again, less the time it stood still."""
    if remaining:
        passed = clock.monotonic() - _main.armed_at
        signal.setitimer(signal.ITIMER_REAL, max(remaining - passed, 1e-3), interval)


def _on_alarm(signum: int, frame: FrameType | None) -> None:
    if _main.open:
        _raise_due()


def _raise_due() -> None:
    error, _main.pending = _main.pending, None
    if error is not None:
        raise error
    if not _main.deadlines:
        return
    now = clock.monotonic()
    expired = next((limit for limit in _main.deadlines if limit.at <= now), None)
    if expired is not None:
        expired.fired, expired.at = True, now + _INSIST
    _set_timer()
    if expired is not None:
        raise Expired(expired)


def _set_timer() -> None:
    earliest = min((limit.at for limit in _main.deadlines), default=None)
    # Longer than the system's timers can be, it is set again at its end.
    seconds = 0.0 if earliest is None else min(max(earliest - clock.monotonic(), 1e-4), 1e6)
    signal.setitimer(signal.ITIMER_REAL, seconds)
