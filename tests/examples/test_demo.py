"""The demo, as a person runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT


@pytest.mark.services
@pytest.mark.timeout(240)
def test_the_demo_kills_a_worker_and_gets_the_right_answer(tmp_path: Path) -> None:
    """It ends well only if the answer is right and nothing is left running."""
    command = [sys.executable, "-m", "examples.demo", "--home", str(tmp_path)]

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=220)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "kill -9" in ended.stdout
