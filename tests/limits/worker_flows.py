"""Flows that real workers run under limits; what their bodies do stands in the file that LEDGER names."""

from __future__ import annotations

import os
import time
from pathlib import Path

from orchestra import flow, sleep, task
from orchestra.concurrency.sync import concurrency

#: The environment variable that names the file.
LEDGER = "TEST_LIMITS_LEDGER"


def write(*words: object) -> None:
    """Append a line, which ends with the process's id."""
    with Path(os.environ[LEDGER]).open("a") as lines:
        lines.write(" ".join(map(str, (*words, os.getpid()))) + "\n")


def be_in(what: object, seconds: float) -> None:
    """Be in for so long."""
    begin = time.monotonic()
    write("in", what)
    time.sleep(seconds)
    write("span", begin, time.monotonic())


@task(tags=["shared"])
def tagged(number: int) -> int:
    """A task whose tag has a limit."""
    be_in(number, 0.03)
    return number


@task
def held_long_at_first(what: str) -> str:
    """Its first try never ends."""
    with concurrency("shared"):
        first = not any(line.startswith(f"in {what} ") for line in Path(os.environ[LEDGER]).read_text().splitlines())
        be_in(what, 600 if first and what == "long" else 0.01)
    return what


@flow
def tagged_many(count: int) -> list[int]:
    """Submitted and called."""
    futures = [tagged.submit(number) for number in range(count)]
    return [tagged(-1), *(future.result() for future in futures)]


@flow
def holds(what: str) -> str:
    """Waits for a task that holds a slot."""
    value: str = held_long_at_first.submit(what).result()
    return value


@flow
def parks_in_a_block(what: str, seconds: float) -> str:
    """Has a slot while it sleeps, and holds no worker slot."""
    with concurrency("shared"):
        begin = time.monotonic()
        write("in", what)
        sleep(seconds)
    write("out", what, time.monotonic() - begin)
    return what


@flow
def short() -> str:
    """Needs nothing."""
    return "short"
