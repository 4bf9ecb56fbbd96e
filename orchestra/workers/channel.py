"""What a worker and the process that it has started for a run say to each other, over that process's standard input.

A socket: the worker writes one briefing, then single letters; the process writes a letter back where it gives up.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import struct
from dataclasses import dataclass
from typing import Any

#: To the process: the run is being cancelled; the worker shuts down. From it: the database is away.
CANCEL, STOP, AWAY = b"c", b"s", b"a"
_STDIN = 0
#: For how long a process may take to read its briefing, in seconds.
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Briefing:
    """All that the process of a run is told. Without secrets of its own: these are in the environment."""

    run_id: str
    #: Under whose claim it works.
    owner: str
    #: `module:name` of the worker's Celery app; None: one is made of `conf`.
    app: str | None
    conf: dict[str, Any]
    #: Those that the worker consumes.
    queues: frozenset[str]
    #: What can be imported there; None: as the process's own Python says.
    path: list[str] | None
    #: The worker's standard error, and the level from which it logs.
    log_to: int
    log_level: int


class WorkersEnd:
    """The worker's end of the channel."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()

    def brief(self, briefing: Briefing) -> None:
        """Send the briefing, once the process has its end; a process that is gone already hears nothing."""
        self.theirs.close()
        body = pickle.dumps(briefing)
        # It fits into the buffer, unless the app has a great many routes; a process that never reads is not waited for.
        self._ours.settimeout(_PATIENCE)
        with contextlib.suppress(OSError):
            self._ours.sendall(struct.pack(">I", len(body)) + body)
        self._ours.setblocking(False)

    def tell(self, letter: bytes) -> None:
        """Say one letter; a process that is gone hears nothing."""
        with contextlib.suppress(OSError):
            self._ours.send(letter)

    def heard(self) -> bytes:
        """What the process has said."""
        with contextlib.suppress(OSError):
            return self._ours.recv(64)
        return b""

    def close(self) -> None:
        """Close it."""
        self._ours.close()
        self.theirs.close()


class ProcessEnd:
    """The process's end, in the place of its standard input, which is empty for the run's code."""

    def __init__(self) -> None:
        self._socket = socket.socket(fileno=os.dup(_STDIN))
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), _STDIN)

    def briefing(self) -> Briefing:
        """Wait for the briefing.

        Raises:
            EOFError: The worker is gone.
        """
        (size,) = struct.unpack(">I", self._exactly(4))
        # From the worker that started this process.
        found: Briefing = pickle.loads(self._exactly(size))
        self._socket.setblocking(False)
        return found

    def was_told(self, letter: bytes) -> bool:
        """Whether the worker has said this letter by now. May be asked in a signal handler, as nothing is taken out."""
        with contextlib.suppress(OSError):
            return letter in self._socket.recv(64, socket.MSG_PEEK)
        return False

    def say(self, letter: bytes) -> None:
        """Tell the worker."""
        with contextlib.suppress(OSError):
            self._socket.send(letter)

    def _exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            part = self._socket.recv(size - len(found))
            if not part:
                raise EOFError("the worker has ended")
            found += part
        return found
