"""SIGTERM while local runs go on: they end as Crashed, their hooks run, and then the process ends by it.

Only where nobody else handles the signal: in a worker, or in a program with a handler of its own, nothing is changed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType


@dataclass(slots=True)
class _Runs:
    """The outermost runs of the main thread, by what stops each; touched there only."""

    stops: list[Callable[[], object]] = field(default_factory=list)
    told: bool = False


_runs = _Runs()


@contextmanager
def caught(stop: Callable[[], object]) -> Iterator[None]:
    """While a run is inside, SIGTERM stops it, instead of ending the process at once.

    The process ends by the signal when the last run has left, whatever came of it. A second SIGTERM ends it at once.

    Args:
        stop: Makes the run's body raise; called in the signal's handler.
    """
    if not _may_handle():
        yield
        return
    if not _runs.stops:
        signal.signal(signal.SIGTERM, _on_term)
    _runs.stops.append(stop)
    try:
        yield
    finally:
        _runs.stops.remove(stop)
        if not _runs.stops:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if _runs.told:
                _end()


def told() -> bool:
    """Whether the process was told to end."""
    return _runs.told


def _may_handle() -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False
    return bool(_runs.stops) or signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def _on_term(number: int, frame: FrameType | None) -> None:
    # Without a run this is a forked child, to which the parent's handler came down.
    if _runs.told or not _runs.stops:
        _end()
    _runs.told = True
    for stop in list(_runs.stops):
        stop()


def _end() -> None:
    """End as if nobody had handled the signal: whoever waits for this process sees why it ended."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def _after_fork() -> None:
    global _runs
    # The parent's runs go on in the parent.
    _runs = _Runs()


os.register_at_fork(after_in_child=_after_fork)
