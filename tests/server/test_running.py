"""`orchestra server start`, `status` and `stop`: one server of a home, found by its address file."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from orchestra.celery import addresses
from tests.helpers import ROOT, wait_until

pytestmark = pytest.mark.services


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """`orchestra server …`, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "orchestra", "server", *words],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip


@pytest.fixture
def url(home: Path) -> Iterator[str]:
    """Where a server that was started in the background answers."""
    started = command("start", "--port", "0", "--background")
    assert started.returncode == 0, started.stderr
    found = addresses.read(home / "server.json")
    assert found is not None
    yield found.url
    if found.lives:
        os.kill(found.pid, signal.SIGKILL)
        wait_until(lambda: not found.lives, "the server to be gone")


def test_a_server_of_a_home_is_found_and_ended(home: Path, url: str) -> None:
    """There is one only; when it has ended, nothing of it is left."""
    assert httpx2.get(f"{url}/api/admin/version").json() == "0.1.0"
    told = json.loads(command("status", "-o", "json").stdout)
    assert (told["url"], told["answers"]) == (url, True)
    second = command("start", "--port", "0")
    assert (second.returncode, url in second.stderr) == (2, True)

    assert command("stop").returncode == 0

    assert command("status").returncode == 3
    assert command("stop").returncode == 0
    assert not (home / "server.json").exists()


def test_a_port_that_is_taken_is_said_to_be(home: Path) -> None:
    """Also where the server would run in the background."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = command("start", "--port", port, "--background")

    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr


def test_an_address_that_others_reach_is_refused(home: Path) -> None:
    """As long as nobody has to log in."""
    assert command("start", "--host", "0.0.0.0").returncode == 2
