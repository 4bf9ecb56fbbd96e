"""The command line beside a real worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestra.cli import cli
from orchestra.input import send_input
from tests.conftest import WorkerFactory
from tests.helpers import wait_until

pytestmark = pytest.mark.services

FLOWS = """
from pydantic import BaseModel
from orchestra import flow, get_run_logger, pause_flow_run, sleep, task
from orchestra.input import receive_input

class Approval(BaseModel):
    approved: bool

@task
def square(n: int) -> int:
    get_run_logger().info("squaring %d", n)
    return n * n

@flow
def squares(n: int = 3) -> int:
    return sum(square.map(range(n)).result())

@flow
def broken() -> None:
    raise ValueError("no data")

@flow
def long() -> None:
    sleep(3600)

@flow
def asks() -> str:
    pause_flow_run(timeout=3600)
    return "went on"

@flow
def asks_for_approval() -> bool:
    return pause_flow_run(wait_for_input=Approval, timeout=3600).approved

@flow
def receives() -> int:
    return receive_input(int, timeout=3600).next()
"""


class Shell:
    """Runs the `orchestra` command as a user does, in a folder with flows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *args: str, code: int = 0) -> str:
        """Its stdout."""
        command = [sys.executable, "-m", "orchestra", *args]
        done = subprocess.run(command, cwd=self.folder, text=True, capture_output=True, timeout=60)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def read(self, *args: str) -> Any:
        """What a listing prints as JSON; in this process, which is faster."""
        done = CliRunner().invoke(cli, [*args, "-o", "json"], catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    def told(self, *which: str) -> list[str]:
        """The names of events, the oldest first."""
        return [event["event"] for event in self.read("events", "ls", *which)][::-1]

    def state(self, run_id: str) -> str:
        """The type of a run's state."""
        return str(self.read("flow-run", "inspect", run_id)["state_type"])

    def wait_for(self, run_id: str, state: str) -> None:
        """Wait until a run is in a state of that type."""
        wait_until(lambda: self.state(run_id) == state, f"run {run_id} to be {state}", 30, every=0.1)


@pytest.fixture
def shell(tmp_path: Path, worker_factory: WorkerFactory, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A folder with flows, and a worker that knows them."""
    (tmp_path / "shellflows.py").write_text(FLOWS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    worker_factory("shellflows")
    return Shell(tmp_path)


def test_a_run_is_created_watched_and_read(shell: Shell) -> None:
    """The id alone is the first line; the logs and the canvas name the steps; doctor is content."""
    run_id = shell("flow-run", "create", "--flow", "shellflows:squares", "-p", "n=4", "--watch").splitlines()[0]
    assert shell.state(run_id) == "COMPLETED"
    shown = shell.read("flow-run", "inspect", run_id)
    assert (shown["result"], shown["parameters"]) == (14, {"n": 4})
    assert "squaring 3" in shell("flow-run", "logs", run_id, "--follow")
    assert "group of 4" in shell("flow-run", "canvas", run_id)
    assert len(shell.read("task-run", "ls", "--flow-run", run_id)) == 4
    assert {check["status"] for check in shell.read("doctor")} == {"ok"}
    # Whether it waits, and how often, is a matter of time.
    names = [f"orchestra.flow-run.{name}" for name in ("created", "Pending", "Running", "Completed")]

    def told() -> list[str]:
        found = [name for name in shell.told("--flow-run", run_id) if "flow-run" in name and "Waiting" not in name]
        return list(dict.fromkeys(found))

    wait_until(lambda: told() == names, "each state to be told")
    assert shell.told("--flow-run", run_id).count("orchestra.task-run.Completed") == 4
    assert "orchestra.worker.online" in shell.told()


def test_a_failed_run_is_told_by_the_exit_code_and_retried(shell: Shell) -> None:
    """Watching gives 6, before and after the retry."""
    run_id = shell("flow-run", "create", "--flow", "shellflows:broken", "--watch", code=6).splitlines()[0]
    shell("flow-run", "retry", run_id, "--watch", code=6)
    assert shell.read("flow-run", "inspect", run_id)["run_count"] == 2
    names = ["created", "Pending", "Running", "Failed", "retry-requested", "AwaitingRetry", "Running", "Failed"]
    # That it runs is written behind: it may come a moment after the end.
    wait_until(
        lambda: shell.told("--event", "orchestra.flow-run.*") == [f"orchestra.flow-run.{name}" for name in names],
        "each state to be told",
    )


def test_a_sleeping_run_is_cancelled(shell: Shell) -> None:
    """It ends at once, not at the end of its sleep."""
    run_id = shell("flow-run", "create", "--flow", "shellflows:long").strip()
    shell.wait_for(run_id, "RUNNING")
    shell("flow-run", "cancel", run_id)
    shell("flow-run", "watch", run_id, "--timeout", "30", code=6)
    assert shell.state(run_id) == "CANCELLED"


def test_a_run_that_asks_for_a_person_is_resumed(shell: Shell) -> None:
    """From another process than the one that paused."""
    run_id = shell("flow-run", "create", "--flow", "shellflows:asks").strip()
    shell.wait_for(run_id, "PAUSED")
    shell("flow-run", "resume", run_id)
    shell("flow-run", "watch", run_id, "--timeout", "30")
    assert shell.read("flow-run", "inspect", run_id)["result"] == "went on"


def test_a_run_that_asks_for_input_is_given_it(shell: Shell, tmp_path: Path) -> None:
    """From a file; what does not fit is refused, and what it waits for is shown."""
    run_id = shell("flow-run", "create", "--flow", "shellflows:asks_for_approval").strip()
    shell.wait_for(run_id, "PAUSED")
    (pause,) = shell.read("flow-run", "inspect", run_id)["pauses"]
    assert pause["schema"]["required"] == ["approved"]
    (tmp_path / "answer.json").write_text('{"approved": true}')
    shell("flow-run", "resume", run_id, "--input", "{}", code=2)
    shell("flow-run", "resume", run_id, "--input", "@answer.json")
    shell("flow-run", "watch", run_id, "--timeout", "30")
    assert shell.read("flow-run", "inspect", run_id)["result"] is True


def test_a_run_that_waits_for_a_message_is_woken_by_it(shell: Shell) -> None:
    """Sent by a script; until then it is parked."""
    run_id = shell("flow-run", "create", "--flow", "shellflows:receives").strip()
    wait_until(lambda: shell.read("flow-run", "inspect", run_id)["state_name"] == "Waiting", "it to wait", 30)

    send_input(7, flow_run_id=run_id)
    shell("flow-run", "watch", run_id, "--timeout", "30")
    assert shell.read("flow-run", "inspect", run_id)["result"] == 7
