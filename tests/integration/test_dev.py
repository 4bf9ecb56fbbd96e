"""`orchestra dev`: what it brings up, and that it leaves nothing behind, however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import orchestra.celery
from orchestra import settings
from orchestra.celery.embedded import read_address
from tests import servers
from tests.helpers import ROOT, command_line, environment_of, processes, wait_until
from tests.integration import dev_app, flows

pytestmark = pytest.mark.services

COMMAND = [sys.executable, "-c", "from orchestra import dev; raise SystemExit(dev.run(concurrency=2))"]


class Dev:
    """An `orchestra dev` in a home of the test's."""

    def __init__(self, home: Path, log: Path, command: list[str] = COMMAND, **environment: str) -> None:
        """Start it."""
        self.home, self.log_file = home, log
        env = {**os.environ, "ORCHESTRA_FLOWS": flows.__name__, "PYTHONUNBUFFERED": "1", **environment}
        with log.open("wb") as out:
            files: Any = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
            self.process = subprocess.Popen(command, env=env, cwd=ROOT, start_new_session=True, **files)

    def wait_ready(self) -> None:
        """Wait until its worker consumes."""

        def ready() -> bool:
            assert self.process.poll() is None, self.log()
            return " ready." in self.log()

        wait_until(ready, "the worker to be ready", 60)

    def log(self) -> str:
        """All that was written."""
        return self.log_file.read_text(errors="replace")

    def family(self) -> dict[int, str]:
        """All processes of this home, it itself included."""
        mark = f"ORCHESTRA_HOME={self.home}"
        return {pid: command_line(pid) for pid in processes() if pid != os.getpid() and mark in environment_of(pid)}

    def wait_gone(self, timeout: float = 20.0) -> None:
        """Wait until no process of this home is left."""
        wait_until(lambda: not self.family(), "every process to end", timeout)


@pytest.fixture
def dev(home: Path, tmp_path: Path) -> Iterator[Dev]:
    """One that is ready."""
    with running(Dev(home, tmp_path / "dev.log")) as started:
        yield started


@contextlib.contextmanager
def running(started: Dev) -> Iterator[Dev]:
    """While it runs; nothing is left of it."""
    try:
        started.wait_ready()
        settings.reset()
        yield started
    finally:
        for pid in started.family():
            os.kill(pid, signal.SIGKILL)
        started.process.wait()


def test_flows_run_without_any_configuration(dev: Dev) -> None:
    """`.delay()` in the same home finds the embedded broker; queues that flows name are consumed."""
    assert flows.both.delay(3).result(timeout=30) == 15
    assert flows.elsewhere.delay().result(timeout=30) == "2"


OF_AN_APP = [sys.executable, "-m", "orchestra", "dev", "-A", dev_app.__name__, "-c", "2", "--no-server"]


def test_an_app_of_ones_own_is_brought_up_on_its_own_broker(
    home: Path, tmp_path: Path, broker_server: servers.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tasks and its default queue go on beside flows; no broker is embedded, and Ctrl-C ends worker and beat."""
    monkeypatch.setenv("DEV_APP_BROKER", broker_server.url)
    monkeypatch.setenv("ORCHESTRA_APP", dev_app.__name__)
    monkeypatch.setattr(dev_app.app.conf, "broker_url", broker_server.url)
    with running(Dev(home, tmp_path / "dev.log", OF_AN_APP)) as dev:
        orchestra.celery.install(dev_app.app)
        dev_app.note.delay(str(tmp_path / "notes"))
        assert flows.both.delay(3).result(timeout=30) == 15
        wait_until((tmp_path / "notes").exists, "the app's own task")
        assert read_address(home) is None

        dev.process.send_signal(signal.SIGINT)

        assert dev.process.wait(60) == 0, dev.log()
        dev.wait_gone()


def test_an_app_without_a_broker_is_refused(home: Path) -> None:
    """The error says what to set."""
    ended = subprocess.run(OF_AN_APP, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)

    assert (ended.returncode, "broker_url" in ended.stderr) == (2, True), ended.stderr


def test_ctrl_c_ends_all_of_it(dev: Dev) -> None:
    """In order, with nothing left running and no address that leads nowhere."""
    dev.process.send_signal(signal.SIGINT)

    assert dev.process.wait(40) == 0
    dev.wait_gone()
    assert read_address(dev.home) is None
    assert "Warm shutdown" in dev.log()


def test_ctrl_c_lets_a_body_finish(dev: Dev, tmp_path: Path) -> None:
    """What is under way is not cut off; what is left waits for the next start."""
    file = str(tmp_path / "notes")
    handle = flows.in_turn.delay(file, 2.0)
    wait_until(lambda: flows.notes(file), "the first body to start")

    dev.process.send_signal(signal.SIGINT)
    assert dev.process.wait(40) == 0

    assert flows.notes(file) == ["first"]
    assert not handle.state.is_final()
    again = Dev(dev.home, tmp_path / "again.log")
    assert handle.result(timeout=60) == ["first", "second"]
    again.process.send_signal(signal.SIGINT)
    assert again.process.wait(40) == 0


def test_a_second_ctrl_c_ends_it_at_once(dev: Dev, tmp_path: Path) -> None:
    """Although a body takes long."""
    file = str(tmp_path / "notes")
    flows.submitted.delay(file, 60.0)
    wait_until(lambda: flows.notes(file), "the body to start")

    dev.process.send_signal(signal.SIGINT)
    wait_until(lambda: "Warm shutdown" in dev.log(), "the stop to begin")
    dev.process.send_signal(signal.SIGINT)

    assert dev.process.wait(15) == 130
    dev.wait_gone()


def test_nothing_is_left_when_it_is_killed(dev: Dev) -> None:
    """SIGKILL cannot be caught; the kernel ends the rest."""
    os.kill(dev.process.pid, signal.SIGKILL)
    dev.process.wait()

    dev.wait_gone()
    assert read_address(dev.home) is None


def test_a_killed_worker_is_started_again(dev: Dev) -> None:
    """As by a supervisor."""
    worker = next(pid for pid, line in dev.family().items() if " worker " in line)

    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: dev.log().count(" ready.") == 2, "another worker to be ready", 60)

    assert flows.both.delay(2).result(timeout=60) == 7


def test_a_second_one_in_the_same_home_is_refused(dev: Dev) -> None:
    """With the process id of the first."""
    ended = subprocess.run(COMMAND, env=dict(os.environ), cwd=ROOT, text=True, capture_output=True, timeout=60)

    assert ended.returncode == 1
    assert f"runs already in {str(dev.home)!r} (process {dev.process.pid})" in ended.stderr


def test_a_home_with_a_long_path_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the path is too long for a socket, a short temporary folder is used, and removed."""
    home = tmp_path / ("deep" * 30)
    monkeypatch.setenv("ORCHESTRA_HOME", str(home))
    settings.reset()
    dev = Dev(home, tmp_path / "dev.log")
    dev.wait_ready()
    address = read_address(home)

    assert flows.both.delay(3).result(timeout=30) == 15
    dev.process.send_signal(signal.SIGINT)
    assert dev.process.wait(40) == 0

    assert address is not None
    socket = Path(address.removeprefix("redis+socket://"))
    assert len(str(socket)) <= 100
    assert not socket.parent.exists()
