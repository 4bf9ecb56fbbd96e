"""What a result of 100 MB costs in memory: a few times its size, said in docs/howto/results.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.results.flows import MIB

pytestmark = pytest.mark.slow

#: Of the result, in bytes.
SIZE = 100 * MIB
#: What a process may need at most, as multiples of the result: what holds it counts as one.
WRITING, READING = 4.0, 5.0

WRITE = """
import os, re, sys
from orchestra import flow

def memory(what):
    return int(re.search(what + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

@flow(persist_result=True)
def large(size):
    return os.urandom(size)

large(1)
before = memory("VmRSS")
state = large(int(sys.argv[1]), return_state=True)
print(state.state_details.flow_run_id, memory("VmHWM") - before)
"""
READ = """
import re, sys
from orchestra.handles import FlowRunHandle

def memory(what):
    return int(re.search(what + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

handle = FlowRunHandle(sys.argv[1])
before = memory("VmRSS")
assert len(handle.result()) == int(sys.argv[2])
print(memory("VmHWM") - before)
"""


def told(code: str, *arguments: object) -> list[str]:
    """What a process of its own prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("place", ["database", "folder"])
@pytest.mark.usefixtures("database")
def test_a_result_of_100_mb_takes_a_few_times_its_size(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is written, and where it is read."""
    monkeypatch.setenv("ORCHESTRA_LOG_TO_CONSOLE", "false")
    if place == "folder":
        monkeypatch.setenv("ORCHESTRA_RESULT_STORAGE", str(tmp_path / "kept"))

    run_id, written = told(WRITE, SIZE)
    [read] = told(READ, run_id, SIZE)

    print(f"{place}: written with {int(written) / SIZE:.1f}, read with {int(read) / SIZE:.1f} times the size")
    assert int(written) < WRITING * SIZE
    assert int(read) < READING * SIZE
