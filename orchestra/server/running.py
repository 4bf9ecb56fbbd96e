"""The server as a process: it listens, tells its home where, and ends in order; and how others find and end it.

The order of a stop: take no new connection, let requests end (those that stream are cut after a while), forget the
address. A second signal ends it at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import httpx2

from orchestra import clock, lazy
from orchestra.celery import addresses
from orchestra.celery.addresses import Address
from orchestra.errors import ConfigurationError
from orchestra.server import create_app

#: The address file in ORCHESTRA_HOME; the lock and the log beside it.
_FILE, _LOCK, _LOG = addresses.SERVER, "server.lock", "server.log"
#: How long requests may go on when the server is told to end, and how long it may take in all, in seconds.
_GRACE, STOP_TIMEOUT = 5, 20.0
#: How long a server in the background may take to answer, in seconds.
START_TIMEOUT = 60.0
#: How long an answer to "do you live?" is waited for, and the pause between two askings, in seconds.
_ANSWER, _PAUSE = 5.0, 0.05


def run(
    home: Path, host: str, port: int, *, hosts: Iterable[str] = (), on_start: Callable[[str], None] = lambda url: None
) -> None:
    """Run the server of a home until it is told to end. To be called in the main thread.

    Args:
        port: Where to listen; 0: any that is free.
        hosts: As of `create_app`: with them, everybody has to log in.
        on_start: Called with its address when that is had, and nothing stands in the way any more.

    Raises:
        ConfigurationError: Another one runs in this home, or the address cannot be had.
    """
    # Only here: who asks how a server is need not load what makes one.
    uvicorn = lazy.resolve("uvicorn")
    with _only_one(home), _listen(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            create_app(hosts=hosts, warm=True),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE,
            limit_concurrency=1000,
        )
        with _orderly():
            addresses.write(home / _FILE, url, os.getpid())
            try:
                on_start(url)
                uvicorn.Server(config).run(sockets=[listener])
            finally:
                (home / _FILE).unlink(missing_ok=True)


def run_in_background(
    home: Path, host: str, port: int, environment: dict[str, str], options: Sequence[str] = ()
) -> Address:
    """Start the server of a home as a process of its own, and wait until it answers.

    Args:
        options: More of `orchestra server start`.

    Raises:
        ConfigurationError: It did not start; the log says why.
    """
    log = home / _LOG
    command = [sys.executable, "-m", "orchestra", "server", "start", "--host", host, "--port", str(port)]
    command += options
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    end = clock.monotonic() + START_TIMEOUT
    while clock.monotonic() < end and process.poll() is None:
        found = find(home)
        if found is not None and found.pid == process.pid and answers(found):
            return found
        time.sleep(_PAUSE)
    process.kill()
    process.wait()
    raise ConfigurationError(f"the server did not start: {_last_line(log)} (all of it: {log})")


def find(home: Path) -> Address | None:
    """The server that runs in a home; None where none does."""
    return addresses.read(home / _FILE)


def answers(address: Address) -> bool:
    """Whether a server, and its database, answer now."""
    try:
        return httpx2.get(f"{address.url}/ready", timeout=_ANSWER, trust_env=False).is_success
    except httpx2.HTTPError:
        return False


def stop(address: Address) -> None:
    """End a server, orderly if it lets us. Safe to repeat."""
    for number, patience in ((signal.SIGTERM, STOP_TIMEOUT), (signal.SIGKILL, _ANSWER)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(address.pid, number)
        end = clock.monotonic() + patience
        while address.lives and clock.monotonic() < end:
            time.sleep(_PAUSE)
        if not address.lives:
            return


@contextlib.contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"the server cannot listen on {host}:{port} ({error.strerror or error}): choose another --port"
            ) from error
        yield listener


@contextlib.contextmanager
def _orderly() -> Iterator[None]:
    """uvicorn raises a signal again once it has ended: let that not end us before our own end."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: None) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold this home's lock; the kernel gives it up for us, whatever ends us."""
    with (home / _LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            found = find(home)
            where = "" if found is None else f", at {found.url} (process {found.pid})"
            raise ConfigurationError(
                f"a server runs already in {str(home)!r}{where}: use that one, or `orchestra server stop` it"
            ) from error
        yield


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
