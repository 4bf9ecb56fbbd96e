"""Failpoints: off unless asked for, and doing what was asked, once, over all processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestra.failpoints import Failpoint, failpoint, parse
from tests.helpers import ROOT, process_state, wait_until

VISIT = """
from orchestra.failpoints import failpoint
for _ in range({times}):
    failpoint('here')
    print('passed', flush=True)
"""


def start(spec: str, folder: Path, times: int = 1) -> subprocess.Popen[str]:
    """A process that passes the failpoint `here`."""
    env = {**os.environ, "ORCHESTRA_FAILPOINTS": spec, "ORCHESTRA_FAILPOINT_DIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", VISIT.format(times=times)], cwd=ROOT, env=env, text=True, stdout=-1, stderr=-1
    )


def visit(spec: str, folder: Path, times: int = 1) -> tuple[int, str]:
    """The exit code of a process that passes the failpoint `here`, and what it printed."""
    process = start(spec, folder, times)
    out, err = process.communicate(timeout=20)
    return process.returncode, out + err


@pytest.mark.parametrize(
    ("spec", "point"),
    [
        ("a=kill", Failpoint("a", "kill")),
        ("a=raise:0.5", Failpoint("a", "raise", 0.5)),
        ("a=stop:1:3", Failpoint("a", "stop", 1.0, 3)),
        ("a=exit::2", Failpoint("a", "exit", 1.0, 2)),
        (" a=sleep1.5 ,", Failpoint("a", "sleep1.5")),
    ],
)
def test_a_spec_is_name_action_probability_and_visit(spec: str, point: Failpoint) -> None:
    """`name=action[:probability][:nth]`."""
    assert parse(spec) == {"a": point}


def test_several_points_are_parted_by_commas() -> None:
    """One variable arms them all."""
    assert set(parse("a=kill,b=raise")) == {"a", "b"}


def test_a_point_that_nobody_armed_does_nothing() -> None:
    """As in every process outside of these tests."""
    failpoint("here")


@pytest.mark.parametrize(
    ("spec", "code", "output"),
    [
        ("here=kill", -signal.SIGKILL, ""),
        ("here=exit", 70, ""),
        ("here=raise", 1, "FailpointHit: here"),
        ("here=raise:0", 0, "passed"),
        ("there=kill", 0, "passed"),
    ],
)
def test_an_armed_point_does_what_was_asked(spec: str, code: int, output: str, tmp_path: Path) -> None:
    """Die, leave, fail, or nothing where another point was armed."""
    ended, said = visit(spec, tmp_path)

    assert ended == code
    assert output in said


def test_a_point_told_to_sleep_is_passed_late(tmp_path: Path) -> None:
    """For as many seconds as the action names."""
    before = time.monotonic()

    assert visit("here=sleep0.5", tmp_path)[0] == 0
    assert time.monotonic() - before > 0.5


def test_a_point_told_to_stop_goes_on_when_continued(tmp_path: Path) -> None:
    """SIGSTOP, as a machine that sleeps."""
    process = start("here=stop", tmp_path)
    wait_until(lambda: process_state(process.pid) == "T", "the process to stop itself")

    process.send_signal(signal.SIGCONT)

    assert process.communicate(timeout=20)[0] == "passed\n"


def test_the_nth_visit_is_counted_over_all_processes(tmp_path: Path) -> None:
    """Three visits of three processes; the action happens at the second, and never again."""
    codes = [visit("here=exit::2", tmp_path)[0] for _ in range(3)]

    assert codes == [0, 70, 0]


def test_the_nth_visit_is_counted_within_a_process(tmp_path: Path) -> None:
    """The process passes twice, then dies at the third."""
    code, said = visit("here=kill::3", tmp_path, times=5)

    assert (code, said.count("passed")) == (-signal.SIGKILL, 2)


def test_points_in_a_file_are_armed_and_disarmed_while_processes_run(tmp_path: Path) -> None:
    """`@file`: what it holds now counts; a file that is not there arms nothing."""
    armed = tmp_path / "armed"

    assert visit(f"@{armed}", tmp_path)[0] == 0
    armed.write_text("here=exit")
    assert visit(f"@{armed}", tmp_path)[0] == 70
    armed.write_text("")
    assert visit(f"@{armed}", tmp_path)[0] == 0
