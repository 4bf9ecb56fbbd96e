"""Stop a body that runs in the main thread: when its time is over, or because another thread says so.

One SIGALRM handler serves both. It raises only while the door is open: `armed()` opens it around a user's body,
`shielded()` closes it around our own writes inside that body; what came meanwhile is raised when it opens again.
Off the main thread everything here does nothing (`deadline` must not be asked for there).

One alarm is not enough to rely on. One that comes just before a blocking call has begun, or while SIGCONT has the
system begin it again, wakes nothing: the call then blocks for its whole length. So alarms are repeated until what
is due was raised.
"""

from __future__ import annotations

import _thread
import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from orchestra import clock
from orchestra.errors import RunTimeout, Signal

#: Seconds after which a body that swallowed its timeout is interrupted again.
_INSIST = 0.5
#: Seconds between two alarms for what was not raised yet.
_AGAIN = 0.1
#: The files whose code enters and leaves what is interrupted: an error raised there would leave the door as it is.
_MACHINERY = {__file__, contextlib.__file__}


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
    """The state of the main thread: all of this is touched there only, but what `pending` holds."""

    depth: int = 0
    open: bool = False
    #: What other threads want raised, oldest first, in the bodies that run; None: none runs. Each outermost body has
    #: its own, so that what comes too late for one is not raised in the next.
    pending: deque[BaseException] | None = None
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
    was, _main.open = _main.open, False
    _enter()
    try:
        _raise_due()
        _main.open = True
        yield
    finally:
        _main.open = False
        _leave()
        _main.open = was


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

    Callable from any thread. The error is raised at the body's next bytecode; a blocking call is woken. Several are
    raised one after another.
    """
    pending = _main.pending
    if pending is None:
        return False
    pending.append(error)
    _alarm()
    # A bare thread: this may be a signal's handler, in which a lock of `threading` could be held by the code around.
    _thread.start_new_thread(_repeat_alarm, (pending,))
    return True


def is_missed(error: BaseException) -> bool:
    """Whether an error that was to be raised in the main thread never will be: the body had ended by then."""
    pending = _main.pending
    return error.__traceback__ is None and (pending is None or error not in pending)


def drop(error: BaseException) -> None:
    """Forget an error that was to be raised in the main thread and was not yet: what it was meant for is over."""
    pending = _main.pending
    if pending is not None:
        with contextlib.suppress(ValueError):
            pending.remove(error)


def _alarm() -> None:
    ident = threading.main_thread().ident
    if ident is not None:
        signal.pthread_kill(ident, signal.SIGALRM)


def _repeat_alarm(pending: deque[BaseException]) -> None:
    while pending and _main.pending is pending:
        if _main.open:
            _alarm()
        time.sleep(_AGAIN)


def _enter() -> None:
    _main.depth += 1
    if _main.depth == 1:
        _main.armed_at = clock.monotonic()
        _main.old_handler = signal.signal(signal.SIGALRM, _on_alarm)
        _main.old_timer = signal.setitimer(signal.ITIMER_REAL, 0)
        # Last: from here on other threads send alarms, which end a process that has no handler.
        _main.pending = deque()


def _leave() -> None:
    _main.depth -= 1
    if _main.depth == 0:
        _main.pending = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        # Ours stays where there was none: a late alarm from another thread must not end the process.
        if _main.old_handler not in (None, signal.SIG_DFL):
            signal.signal(signal.SIGALRM, _main.old_handler)
        _restore_timer(*_main.old_timer)


def _restore_timer(remaining: float, interval: float) -> None:
    """Set somebody else's timer again, less the time it stood still."""
    if remaining:
        passed = clock.monotonic() - _main.armed_at
        signal.setitimer(signal.ITIMER_REAL, max(remaining - passed, 1e-3), interval)


def _on_alarm(signum: int, frame: FrameType | None) -> None:
    if _main.open and (frame is None or frame.f_code.co_filename not in _MACHINERY):
        _raise_due()


def _raise_due() -> None:
    if _main.pending:
        try:
            raise _main.pending[0]
        finally:
            # Only now: what is neither here nor was raised would seem to be missed.
            _main.pending.popleft()
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
    signal.setitimer(signal.ITIMER_REAL, seconds, _INSIST)
