"""A process that a worker starts for one run: its streams, its memory, and its end, with all that it has started."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestra import clock
from orchestra.celery.processes import children, look
from orchestra.errors import ConfigurationError
from orchestra.workers import guard
from orchestra.workers.channel import Briefing, WorkersEnd

#: What runs there: this Python, and the worker's modules.
COMMAND = (sys.executable, "-m", "orchestra.workers.execute")
_GUARD = (sys.executable, "-I", "-S", guard.__file__)
#: For how long its guard may take to kill it, in seconds.
_PATIENCE = 5.0
#: How often it is looked at, in seconds. In this time it may use more memory than it may.
_EVERY = 0.1
#: Likewise when it writes nothing any more, and is about to end.
_SOON = 0.01
#: Bytes of one line; longer ones are cut into several.
_LONGEST_LINE = 65536
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Start:
    """How a process is started."""

    #: In the place of `COMMAND`.
    command: str | None
    #: Over the worker's own environment; None takes a variable out.
    env: Mapping[str, str | None] | None
    working_dir: str | None

    def argv(self) -> Sequence[str]:
        """The words of the command.

        Raises:
            ConfigurationError: They cannot be told, or there is no such program.
        """
        if not self.command:
            return COMMAND
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise ConfigurationError(f"the command {self.command!r} cannot be read: {error}") from error
        if not words or shutil.which(words[0], path=self.environment().get("PATH")) is None:
            raise ConfigurationError(f"there is no program for the command {self.command!r} on this worker")
        return words

    def environment(self) -> dict[str, str]:
        """All of its environment."""
        # What it prints is to be read when it is printed, and not to be lost where it is killed.
        joined = {"PYTHONUNBUFFERED": "1", **os.environ, **(self.env or {})}
        return {name: value for name, value in joined.items() if value is not None}

    def folder(self) -> str | None:
        """The working directory.

        Raises:
            ConfigurationError: There is none of this name.
        """
        if self.working_dir is None:
            return None
        folder = Path(self.working_dir).expanduser()
        if not folder.is_dir():
            raise ConfigurationError(f"there is no working_dir {self.working_dir!r} on this worker")
        return str(folder)


class RunProcess:
    """One process, below its guard. It dies with the thread that starts it, and all that it has started with it."""

    def __init__(self, start: Start, briefing: Callable[[int], Briefing], say: Callable[[str, str], object]) -> None:
        """Start it.

        Args:
            start: How.
            briefing: Makes what it is told, given the number of the descriptor to which it logs.
            say: Takes each line that it writes: "stdout" or "stderr", and the text.

        Raises:
            ConfigurationError: It cannot be started.
        """
        #: `pid:start`, as in the names of owners, once it is there.
        self.name: str | None = None
        #: What it has said over the channel, when it has ended.
        self.said = b""
        argv, environment, folder = start.argv(), start.environment(), start.folder()
        self._channel = WorkersEnd()
        self._streams = selectors.DefaultSelector()
        # Read non-blocking, and not to the end: what it leaves behind may hold the other ends.
        writing = {stream: self._pipe(stream, say) for stream in ("stdout", "stderr")}
        log_to = os.dup(2)
        try:
            self._guard: subprocess.Popen[bytes] = subprocess.Popen(
                [*_GUARD, str(os.getpid()), *argv],
                stdin=self._channel.theirs.fileno(),
                pass_fds=[log_to],
                env=environment,
                cwd=folder,
                # In a session of its own: Ctrl-C in a terminal is for the worker.
                start_new_session=True,
                stdout=writing["stdout"],
                stderr=writing["stderr"],
            )
        except OSError as error:
            self._close()
            raise ConfigurationError(f"the process cannot be started: {error}") from error
        finally:
            for descriptor in (log_to, *writing.values()):
                os.close(descriptor)
        self._started_at = clock.monotonic()
        self._channel.brief(briefing(log_to))

    def watch(self, seconds: float = float("inf")) -> Iterator[float]:
        """Read what it writes until it has ended; gives the seconds since it was started, a few times a second.

        Args:
            seconds: For how long at most.
        """
        until = clock.monotonic() + seconds
        while not self._has_ended() and clock.monotonic() < until:
            self._read(_EVERY)
            self.name = self.name or self._name()
            yield clock.monotonic() - self._started_at

    def memory(self) -> int:
        """Bytes of memory that it and all that it has started hold, by the kernel; what they share counts for each."""
        return sum(_resident(pid) for pid in _below(self._guard.pid))

    def tell(self, letter: bytes) -> None:
        """Say a letter of the channel to it."""
        self._channel.tell(letter)

    def stop(self, grace: float) -> None:
        """End it: SIGTERM to all of its group, and SIGKILL after `grace` seconds; at once where that is 0."""
        if grace:
            self._signal_group(signal.SIGTERM)
            for _ in self.watch(grace):
                pass
        self._kill()

    def end(self) -> int:
        """Kill what is left of it, and read what is left of its output; gives its exit code."""
        self._kill()
        code: int = self._guard.wait()
        while self._read(0):
            pass
        self.said = self._channel.heard()
        self._close()
        return code

    def _kill(self) -> None:
        """By its guard, which finds all of it; where that does not answer, at least its group."""
        if not self._has_ended():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._guard.pid, guard.KILL)
            for _ in self.watch(_PATIENCE):
                pass
        # Not waited for until now, so that its pid, which is the group's number, is nobody else's.
        self._signal_group(signal.SIGKILL)

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self._guard.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._guard.pid, number)

    def _name(self) -> str | None:
        found = next((look(pid) for pid in children(self._guard.pid)), None)
        return None if found is None else found.name

    def _pipe(self, stream: str, say: Callable[[str, str], object]) -> int:
        """Read a stream of it from now on; gives the end to write to."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self._streams.register(reading, selectors.EVENT_READ, _Lines(stream, say))
        return writing

    def _read(self, seconds: float) -> bool:
        """Read once what is there, waiting for so long; whether there was something."""
        if not self._streams.get_map():
            select.select([], [], [], min(seconds, _SOON))
            return False
        ready = self._streams.select(seconds)
        for key, _ in ready:
            if data := os.read(key.fd, _LONGEST_LINE):
                key.data.add(data)
            else:
                self._end_stream(key.fd, key.data)
        return bool(ready)

    def _end_stream(self, reading: int, lines: _Lines) -> None:
        lines.finish()
        self._streams.unregister(reading)
        os.close(reading)

    def _close(self) -> None:
        for key in list(self._streams.get_map().values()):
            self._end_stream(key.fd, key.data)
        self._streams.close()
        self._channel.close()


class _Lines:
    """Cuts a stream into lines."""

    def __init__(self, stream: str, say: Callable[[str, str], object]) -> None:
        self._stream, self._say = stream, say
        self._rest = b""

    def add(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._tell(line)
        if len(self._rest) > _LONGEST_LINE:
            self.finish()

    def finish(self) -> None:
        """Take what has no end yet as a line."""
        rest, self._rest = self._rest, b""
        if rest:
            self._tell(rest)

    def _tell(self, line: bytes) -> None:
        # Of a progress bar, which writes over itself, the last.
        text = line.decode(errors="backslashreplace").rstrip().rpartition("\r")[2]
        if text:
            self._say(self._stream, text)


def _below(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from _below(child)


def memory_is_known() -> bool:
    """Whether the kernel tells what memory processes hold, and which are below others."""
    return Path("/proc/self/statm").exists()


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0
