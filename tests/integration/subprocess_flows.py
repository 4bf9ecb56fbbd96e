"""Flows that run in processes of their own, and what becomes of these."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from orchestra import flow, sleep, task


def note(name: str, text: object) -> None:
    """Write something into a file beside the test's database."""
    with (Path(os.environ["ORCHESTRA_HOME"]) / name).open("a") as out:
        out.write(f"{text}\n")


def ended(flow: object, flow_run: object, state: object) -> None:
    """A hook: where it ran, and what it was told."""
    note("hooks", f"{os.environ.get('TEST_COLOUR')} {state.name}")  # type: ignore[attr-defined]


@task
def pid() -> int:
    """The process that runs this."""
    return os.getpid()


@flow
def below() -> tuple[int, str | None]:
    """Waits; then where this runs: its process, and its environment."""
    sleep(1.2)
    return os.getpid(), os.environ.get("TEST_COLOUR")


@flow
def whereabouts(parks: bool = False) -> dict[str, object]:
    """Where this runs: its processes, before and after it has waited for a subflow, its environment and folder."""
    print("said by the body")
    before = pid()
    subprocess.run(["sh", "-c", "echo said below; echo an error >&2"], check=True)
    return {
        "below": below() if parks else None,
        "before": before,
        "after": os.getpid(),
        "colour": os.environ.get("TEST_COLOUR"),
        "home": os.environ.get("HOME"),
        "folder": os.getcwd(),
        "niceness": os.nice(0),
    }


@flow
def lost() -> None:
    """Takes the process of the flow above it along."""
    os._exit(3)


@flow(on_crashed=[ended], on_failure=[ended], on_cancellation=[ended])
def dies(how: str, wait: bool = False) -> None:
    """End badly."""
    note("pids", os.getpid())
    if how == "exits":
        os._exit(3)
    if how == "exits below":
        lost()
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how.startswith("hangs"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGALRM])
        time.sleep(300)
    if how == "leaks":
        kept = [bytearray(50_000_000) for _ in range(40)]
        time.sleep(len(kept))
    if how == "waits below":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        note("pids", child.pid)
        try:
            child.wait()
        finally:
            note("finally", "done")


@flow
def goes_on() -> int:
    """Waits the first time it is run; gives its process the second."""
    note("pids", os.getpid())
    if len((Path(os.environ["ORCHESTRA_HOME"]) / "pids").read_text().split()) == 1:
        note("strays", subprocess.Popen(["sleep", "300"], start_new_session=True).pid)
        time.sleep(300)
    return os.getpid()


@flow
def steps_along(count: int) -> int:
    """Many steps, a while apart."""
    for _ in range(count):
        pid()
        note("pids", os.getpid())
        time.sleep(0.1)
    return count
