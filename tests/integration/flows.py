"""Flows for the tests with real workers."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from orchestra import flow, get_run_logger, task


def note(path: str, what: str) -> None:
    """Append a line to a file, whole."""
    with open(path, "a") as file:
        file.write(f"{what} {os.getpid()}\n")


def notes(path: Path | str) -> list[str]:
    """What was noted, in order, without the pids."""
    return [line.split()[0] for line in Path(path).read_text().splitlines()] if Path(path).exists() else []


@task
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


@task
def noted(path: str, what: str, seconds: float = 0.0) -> str:
    """Notes that it starts, and takes its time."""
    note(path, what)
    time.sleep(seconds)
    return what


@task
def without_a_breath(path: str, seconds: int) -> str:
    """Holds the GIL all the while, so that no other thread of its process runs."""
    note(path, "hung")
    ctypes.PyDLL(None).sleep(seconds)
    return "woke"


@flow
def both(n: int = 3) -> int:
    """A direct call, then submitted ones."""
    first = add(n, 1)
    return sum(future.result() for future in [add.submit(first, i) for i in range(n)])


@flow
def in_turn(path: str, seconds: float = 1.0) -> list[str]:
    """Two direct calls."""
    return [noted(path, "first", seconds), noted(path, "second")]


@flow
def telling(text: str) -> None:
    """Logs a line at its very end."""
    get_run_logger().info(text)


@flow
def submitted(path: str, seconds: float = 1.0) -> str:
    """One submitted call."""
    return str(noted.submit(path, "submitted", seconds).result())


@flow
def hanging(path: str, seconds: int) -> str:
    """A body that gives no sign of life."""
    return str(without_a_breath.submit(path, seconds).result())


@flow
def child(path: str) -> str:
    """Started by another flow."""
    return noted(path, "child")


@flow
def starting_another(path: str) -> str:
    """Starts a run of its own, and is replayed after it."""
    handle = child.delay(path)
    noted.submit(path, "after").result()
    return str(handle.id)


@flow(queue="aside")
def elsewhere() -> str:
    """Runs on a queue of its own."""
    return str(add.submit(1, 1).result())


@flow
def waits_for_another(n: int = 3) -> list[object]:
    """Starts a run of its own accord, looks at it, and takes its result."""
    handle = both.delay(n)
    was_ready = handle.ready()
    seen = [was_ready, handle.result(), handle.successful()]
    add.submit(1, 2).result()
    return seen


@flow
def fails() -> None:
    """Fails."""
    raise ValueError("as it should")


@flow
def catches_another() -> str:
    """Takes the failure of a run that it started."""
    try:
        fails.delay().result()
    except ValueError as error:
        return f"caught {error}"
    return "nothing"
