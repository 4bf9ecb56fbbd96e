"""`orchestra worker start --run-once`: a worker that is told to stop once there is nothing more to do."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import FrameType

from orchestra.cli import _support
from orchestra.store import queries, workers
from orchestra.store.database import Database, database

#: How often it is looked, in seconds, and how often in a row there must be nothing to do: what one run's end lets go
#: on is due a moment later.
_LOOK_EVERY, _LOOKS = 0.5, 3


def run(command: Sequence[str], environment: Mapping[str, str], queues: Sequence[str]) -> int:
    """Start a worker, and stop it in order once nothing of its queues is due or at work; gives its exit code.

    A Ctrl-C or a TERM stops it at once, as it would the worker itself.
    """
    db = database()
    process = subprocess.Popen(list(command), env=dict(environment))

    def pass_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(signal.SIGTERM)

    # The terminal's Ctrl-C reaches the worker by itself.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGTERM, pass_on)
    try:
        if _works_off(db, process, queues):
            _support.say("nothing more is due: the worker stops")
            process.send_signal(signal.SIGTERM)
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _works_off(db: Database, process: subprocess.Popen[bytes], queues: Sequence[str]) -> bool:
    """Wait until nothing is to be done; false where the worker ended before that."""
    idle = 0
    while process.poll() is None:
        is_there = any(each.pid == process.pid for each in workers.live(db))
        idle = idle + 1 if is_there and not queries.is_anything_to_do(db, queues) else 0
        if idle >= _LOOKS:
            return True
        time.sleep(_LOOK_EVERY)
    return False
