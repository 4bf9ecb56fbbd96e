"""`orchestra dev`: an embedded broker, a worker, beat and the server, for one home; all ended by Ctrl-C.

The order of a stop: the worker first (it finishes what runs and gives back the rest), then beat, then the server, then
the broker. A second Ctrl-C ends all at once. If we are killed, the kernel ends them.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from orchestra import clock, settings
from orchestra.celery import addresses, apps
from orchestra.celery.embedded import EmbeddedBroker, read_address, start_child
from orchestra.engine import definitions
from orchestra.errors import ConfigurationError

logger = logging.getLogger("orchestra.dev")

#: How long the worker may take to finish what it runs, and beat and the server to end, in seconds.
WORKER_TIMEOUT, BEAT_TIMEOUT, SERVER_TIMEOUT = 60.0, 5.0, 10.0
#: How often it is looked whether all of it lives, in seconds.
_CHECK_EVERY = 0.2
#: A part that lived less than this has failed to start, in seconds; so often in a row, and we give up.
_SHORT_LIFE, _MOST_FAILURES = 5.0, 5
#: Exit code after a second Ctrl-C.
EX_INTERRUPTED = 130


@dataclass(slots=True)
class Part:
    """One process of the whole: started again when it dies, until it fails too often."""

    name: str
    command: Sequence[str]
    #: What the kernel sends it when we are killed.
    dies_by: signal.Signals
    environment: dict[str, str]
    #: How long it may take to end, in seconds.
    timeout: float
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    _started_at: float = field(default=0.0)

    def start(self) -> None:
        """Start it, with our output."""
        self._started_at = clock.monotonic()
        self.process = start_child(self.command, dies_by=self.dies_by, env=self.environment)

    def check(self) -> None:
        """Start it again if it has ended.

        Raises:
            ConfigurationError: It ended too often, or said that it cannot start.
        """
        if self.process is None or (code := self.process.poll()) is None:
            return
        self.failures = self.failures + 1 if clock.monotonic() - self._started_at < _SHORT_LIFE else 1
        if self.failures >= _MOST_FAILURES or (code == 1 and self.failures > 1):
            raise ConfigurationError(f"the {self.name} ended with {code}, again; see its output above")
        logger.warning("the %s ended with %s; starting it again", self.name, code)
        self.start()

    def end(self) -> None:
        """SIGTERM, and SIGKILL where that is not enough."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            logger.warning("the %s did not end within %g s and is killed", self.name, self.timeout)
            self.kill()

    def kill(self) -> None:
        """SIGKILL it and its children at once."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def run(
    *,
    flows: Sequence[str] = (),
    queues: Sequence[str] = (),
    concurrency: int | None = None,
    pool: str = "prefork",
    beat: bool = True,
    server_port: int | None = None,
    log_level: str = "INFO",
    on_ready: Callable[[str, str | None], None] | None = None,
) -> int:
    """Bring it all up, wait for Ctrl-C (or SIGTERM), end it all; gives the exit code.

    To be called in the main thread.

    Args:
        flows: Modules with flows; else those of ORCHESTRA_FLOWS.
        queues: Consumed beside `default` and the queues that the flows name.
        concurrency: The worker's slots; None: one per processor.
        pool: Celery's name of the worker's pool.
        beat: Whether to run Celery's beat too.
        server_port: Where the server listens; where that is taken, another port. None: it does not run.
        on_ready: Called with the broker's URL and the server's when all parts are started.

    With an app of one's own (ORCHESTRA_APP), worker and beat are that app's, and so is the broker.

    Raises:
        ConfigurationError: Another one runs in this home; no server is to be found; a part cannot start; the app names
            no broker.
    """
    if flows:
        settings.override(flows=tuple(flows))
    home = settings.current().home_path
    with _only_one(home), _Stop() as stop, _broker(home) as (url, broker):
        parts = _parts(home, url, queues, concurrency, pool, beat, log_level)
        server_url, server = _server(home, url, server_port)
        parts += server
        try:
            for part in parts:
                part.start()
            if on_ready is not None:
                on_ready(url, server_url)
            _watch(parts, broker, stop)
        finally:
            _end(parts, stop)
    return EX_INTERRUPTED if stop.insisted else 0


def serve(
    queues: Sequence[str], *, concurrency: int | None, log_level: str = "INFO", on_ready: Callable[[], None]
) -> int:
    """As `run`, but for these queues only, and beside others: what there is of a broker is used, and left as it is.

    Args:
        queues: All that the worker consumes.
        concurrency: The worker's slots; None: one per processor.
        on_ready: Called when there is a broker, before the worker is there.

    Raises:
        ConfigurationError: No server is to be found; a part cannot start; the app names no broker.
    """
    home = settings.current().home_path
    with _Stop() as stop, _any_broker(home) as (url, broker), tempfile.TemporaryDirectory() as folder:
        app = settings.current().app or "celery_app"
        celery = [sys.executable, "-m", "celery", "-A", app]
        slots = ["-c", str(concurrency)] if concurrency else []
        work = ["worker", "-n", f"serve-{os.getpid()}@%h", "-Q", ",".join(queues), "-l", log_level, *slots]
        files = ["-s", str(Path(folder) / "beat-schedule"), "--pidfile", ""]
        environment = _environment(home, url)
        parts = [
            _worker([*celery, *work, "--without-mingle", "--without-gossip"], environment),
            _beat([*celery, "beat", "-l", log_level, *files], environment),
        ]
        try:
            on_ready()
            for part in parts:
                part.start()
            _watch(parts, broker, stop)
        finally:
            _end(parts, stop)
    return EX_INTERRUPTED if stop.insisted else 0


@contextlib.contextmanager
def _any_broker(home: Path) -> Iterator[tuple[str, EmbeddedBroker | None]]:
    """The configured broker, or the embedded one that somebody runs in this home; else one that ends with us."""
    if url := _app_broker() or settings.current().broker_url or read_address(home):
        yield url, None
        return
    with _only_one(home), _broker(home) as found:
        yield found


def _watch(parts: Sequence[Part], broker: EmbeddedBroker | None, stop: _Stop) -> None:
    while not stop.asked.wait(_CHECK_EVERY):
        if broker is not None and not broker.running:
            logger.warning("the embedded broker ended; starting it again")
            broker.start()
        for part in parts:
            part.check()


def _end(parts: Sequence[Part], stop: _Stop) -> None:
    """End the parts in their order; a second Ctrl-C kills them."""

    def kill() -> None:
        for part in parts:
            part.kill()

    stop.on_insist(kill)
    for part in parts:
        part.end()


@contextlib.contextmanager
def _broker(home: Path) -> Iterator[tuple[str, EmbeddedBroker | None]]:
    """The configured broker, or an embedded one that ends with us."""
    if url := _app_broker() or settings.current().broker_url:
        yield url, None
        return
    broker = EmbeddedBroker(home)
    try:
        broker.start()
        yield broker.url, broker
    finally:
        broker.stop()


def _app_broker() -> str | None:
    name = settings.current().app
    if not name:
        return None
    url = apps.current_app().conf.broker_url
    if not url:
        raise ConfigurationError(
            f"the Celery app {name!r} names no broker: set its broker_url, or leave the app out to have "
            "`orchestra dev` bring up a broker for orchestra's own app"
        )
    return str(url)


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold this home's lock; the kernel gives it up for us, whatever ends us."""
    with (home / "dev.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise ConfigurationError(
                f"`orchestra dev` runs already in {str(home)!r} (process {lock.read().strip() or 'unknown'}): use that "
                "one, or end it, or set ORCHESTRA_HOME to another folder"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _parts(
    home: Path, url: str, queues: Sequence[str], concurrency: int | None, pool: str, beat: bool, log_level: str
) -> list[Part]:
    environment = _environment(home, url)
    app = settings.current().app
    own = list(apps.current_app().amqp.queues.consume_from) if app else ["default"]
    named = definitions.queues_of(definitions.import_modules(settings.current().flows))
    consumed = ",".join(dict.fromkeys([*own, *queues, *named]))
    celery = [sys.executable, "-m", "celery", "-A", app or "celery_app"]
    slots = ["-c", str(concurrency)] if concurrency else []
    work = ["worker", "-n", "dev@%h", "-Q", consumed, "-P", pool, "-l", log_level, *slots]
    quiet = ["--without-mingle", "--without-gossip"]
    parts = [_worker([*celery, *work, *quiet], environment)]
    if beat:
        files = ["-s", str(home / "beat-schedule"), "--pidfile", ""]
        parts.append(_beat([*celery, "beat", "-l", log_level, *files], environment))
    return parts


def _worker(command: Sequence[str], environment: dict[str, str]) -> Part:
    # Killed with us, not stopped: with its broker gone at the same moment an orderly stop could hang.
    return Part("worker", command, signal.SIGKILL, environment, WORKER_TIMEOUT)


def _beat(command: Sequence[str], environment: dict[str, str]) -> Part:
    return Part("beat", command, signal.SIGTERM, environment, BEAT_TIMEOUT)


def _server(home: Path, broker: str, port: int | None) -> tuple[str | None, list[Part]]:
    """Where the server answers, and the part that runs it: none, where one runs in this home already."""
    if port is None:
        return None, []
    if (found := addresses.read(home / addresses.SERVER)) is not None:
        return found.url, []
    taken = _port(port)
    command = [sys.executable, "-m", "orchestra", "server", "start", "--port", str(taken)]
    part = Part("server", command, signal.SIGTERM, _environment(home, broker), SERVER_TIMEOUT)
    return f"http://127.0.0.1:{taken}", [part]


def _port(wanted: int) -> int:
    """That port of 127.0.0.1 if it is free, else another one; whoever is quicker may still take it."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)) as probe:
            return int(probe.getsockname()[1])
    raise ConfigurationError("no port of 127.0.0.1 is free for the server: leave it out by --no-server")


def _environment(home: Path, url: str) -> dict[str, str]:
    current = settings.current()
    here = {"ORCHESTRA_HOME": str(home), "ORCHESTRA_FLOWS": ",".join(current.flows)}
    if current.app:
        here["ORCHESTRA_APP"] = current.app
    else:
        here["ORCHESTRA_BROKER_URL"] = url
    if current.database_url:
        here["ORCHESTRA_DATABASE_URL"] = current.database_url
    return {**os.environ, **here}


class _Stop:
    """Ctrl-C, SIGTERM and the end of the terminal: the first asks us to stop, the second insists."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.insisted = False
        self._insist: Callable[[], None] = lambda: None
        self._old: dict[int, object] = {}

    def __enter__(self) -> _Stop:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._old[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave
        self._old.clear()

    def on_insist(self, act: Callable[[], None]) -> None:
        """What the second signal does."""
        self._insist = act
        if self.insisted:
            act()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked.is_set():
            self.insisted = True
            self._insist()
        self.asked.set()
