"""Flows for the tests of the command line in a terminal: their tasks wait until a file is there."""

from __future__ import annotations

import time
from pathlib import Path

from orchestra import flow, get_run_logger, task

#: Longer than any terminal is wide.
LONG = "long" * 50


@task
def gated(gate: str) -> int:
    """Ends when the file `gate` is there."""
    while not Path(gate).exists():
        time.sleep(0.02)
    return 1


@flow
def through_gates(folder: str, n: int = 3) -> int:
    """Tasks that end when their gates are opened."""
    return sum(gated.map([f"{folder}/{i}" for i in range(n)]).result())


@task
def one() -> int:
    """Ends at once."""
    return 1


@flow
def short() -> int:
    """One task."""
    return one()


@flow
def broken() -> None:
    """Fails."""
    raise ValueError("no data")


@task(name=LONG)
def telling(text: str) -> str:
    """Logs what it is given, and returns it."""
    get_run_logger().info(text)
    return text


@flow(name=LONG)
def wordy(text: str) -> str:
    """Says much."""
    return telling(text)
