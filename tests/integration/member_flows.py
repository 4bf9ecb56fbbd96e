"""Flows and tasks that are members of a project's canvases, or run in the background; some note what they get."""

from __future__ import annotations

import json
import os
import time
from datetime import date
from pathlib import Path
from typing import Any

from orchestra import flow, sleep, task


def write(where: str, what: Any) -> None:
    """Add a line to a file; whole lines, from any process."""
    descriptor = os.open(where, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, json.dumps(what).encode() + b"\n")
    finally:
        os.close(descriptor)


def notes(where: str | Path) -> list[Any]:
    """The lines of such a file."""
    return [json.loads(line) for line in Path(where).read_text().splitlines()] if Path(where).exists() else []


@task
def add(x: int, y: int = 1) -> int:
    """The sum of two."""
    return x + y


@task(retries=1, retry_delay_seconds=1.1)
def flaky(x: int, marker: str) -> int:
    """Fails once, and is tried again without a slot."""
    write(marker, x)
    if len(notes(marker)) < 2:
        raise ConnectionError("not yet")
    return x


@task(queue="aside")
def aside(x: int) -> int:
    """On a queue of its own."""
    return x


@flow
def doubled(n: int) -> int:
    """One direct call."""
    return add(n, n)


@flow
def summed(numbers: list[int]) -> int:
    """Submits, waits, and gives a sum."""
    parts = [add.submit(number, 0) for number in numbers]
    return sum(part.result() for part in parts)


@flow
def parking(n: int) -> int:
    """Waits without a slot."""
    sleep(1.2)
    return add.submit(n, n).result()


@flow
def failing(n: int) -> int:
    """Fails in a task."""
    raise ValueError(f"no {n}")


@flow
def described(*values: Any, when: date | None = None) -> list[Any]:
    """What it got, as JSON."""
    return [*(type(value).__name__ for value in values), when and when.isoformat()]


@flow
def handing_on_a_set(n: int) -> set[int]:
    """Gives what JSON cannot say."""
    return {n}


@flow
def told(task_id: str, where: str) -> None:
    """Notes the id of a member that failed."""
    write(where, task_id)


@flow
def noted(value: Any, where: str) -> Any:
    """Notes what it got, and hands it on."""
    write(where, value)
    return value


@flow
def starting(where: str) -> int:
    """Starts a task in the background, once, however often the body is replayed."""
    handle = noting.delay(7, where)
    sleep(0.1)
    return int(handle.result())


@task
def noting(value: Any, where: str, seconds: float = 0.0) -> Any:
    """Notes what it got, takes its time, and hands it on."""
    write(where, value)
    time.sleep(seconds)
    return value


@task
def refusing(n: int) -> int:
    """Fails."""
    raise ValueError(f"no {n}")
