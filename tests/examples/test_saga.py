"""The trip of `examples/saga`: booked as a whole or not at all, though the worker is killed in the middle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestra.handles import FlowRunHandle
from tests.conftest import WorkerFactory
from tests.helpers import ROOT, wait_until

LEASE = "2"
#: Seconds that a company takes: long enough to kill the worker in a call.
ANSWER = "1"


class Trip:
    """The example in a folder of its own, and the command line beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bookings = folder, folder / "bookings"

    def run(self, *words: str, code: int = 0) -> str:
        """Standard output of a Python command in the folder."""
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TRIP_ANSWER_SECONDS": "0"}
        command = [sys.executable, *words]
        ended = subprocess.run(
            command, cwd=self.folder, env=env, text=True, capture_output=True, check=False, timeout=60
        )
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout

    def orchestra(self, *words: str) -> str:
        """Standard output of `orchestra`."""
        return self.run("-m", "orchestra", *words)

    def booked(self) -> set[str]:
        """What is booked now."""
        return {path.name for path in self.bookings.glob("*-*")}

    def calls(self) -> list[str]:
        """The calls that the companies got."""
        log = self.bookings / "calls.log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def trip(tmp_path: Path) -> Trip:
    """The example, copied."""
    return Trip(shutil.copytree(ROOT / "examples" / "saga", tmp_path / "saga"))


def test_a_trip_is_booked_as_a_whole_here(trip: Trip, home: Path) -> None:
    """As the README shows it, without workers."""
    assert trip.run("trip.py", "1") == "['flight-ada', 'hotel-ada', 'car-ada']\n"
    assert trip.booked() == {"flight-ada", "hotel-ada", "car-ada"}

    trip.run("trip.py", code=1)

    assert trip.booked() == {"car-ada"}
    assert trip.calls()[-2:] == ["hotel: cancel for ada", "flight: cancel for ada"]


@pytest.fixture
def workers(
    trip: Trip, database_url: str, worker_factory: WorkerFactory, monkeypatch: pytest.MonkeyPatch
) -> WorkerFactory:
    """Starts workers that know the trip."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", LEASE)
    monkeypatch.setenv("ORCHESTRA_SWEEP_SECONDS", "1")
    return lambda: worker_factory(
        "trip",
        env={
            "PYTHONPATH": f"{ROOT}{os.pathsep}{trip.folder}",
            "TRIP_BOOKINGS": str(trip.bookings),
            "TRIP_ANSWER_SECONDS": ANSWER,
        },
    )


@pytest.mark.services
@pytest.mark.parametrize("killed_in", ["hotel: book", "car: book", "hotel: cancel", "flight: cancel"])
def test_a_killed_worker_leaves_nothing_booked(trip: Trip, workers: WorkerFactory, killed_in: str) -> None:
    """SIGKILL of the whole worker in that call; the next one goes on, and cancels the newest first."""
    worker = workers()
    run_id = trip.orchestra("flow-run", "create", "--flow", "trip:book_trip").strip()
    wait_until(lambda: f"{killed_in} for ada" in trip.calls(), f"the call {killed_in!r}", 20, every=0.02)
    worker.kill_group()
    assert trip.booked(), "killed too late: nothing was left to be cancelled"
    before = trip.calls()

    workers()

    assert FlowRunHandle(run_id).wait(40).name == "Failed"
    assert trip.booked() == set()
    # The call in which it was killed is made once more; every other one is made once.
    assert trip.calls()[len(before)] == f"{killed_in} for ada"
    again = [call for call in trip.calls() if call != f"{killed_in} for ada"]
    assert len(again) == len(set(again)) == 4
    cancelled = [call for call in dict.fromkeys(trip.calls()) if "cancel" in call]
    assert cancelled == ["hotel: cancel for ada", "flight: cancel for ada"]
    shown = json.loads(trip.orchestra("transaction", "inspect", run_id, "-o", "json"))
    assert shown["state"] == "ROLLED_BACK"
    assert [(hook["name"], hook["state"]) for hook in shown["hooks"]] == [
        ("cancel_hotel", "COMPLETED"),
        ("cancel_flight", "COMPLETED"),
    ]
