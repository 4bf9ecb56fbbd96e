"""The ledger: which bodies were started and ended, when, where, and for which step.

One `os.write` per line on a descriptor opened with O_APPEND: whole lines, from any process, kept when it is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestra.context import task_run_context

#: Names the ledger's file in a worker's environment.
VARIABLE = "ORCHESTRA_TEST_LEDGER"


@dataclass(frozen=True)
class Line:
    """One start or end of a task's body."""

    what: str
    task: str
    run: str
    step: str
    attempt: int
    key: str
    pid: int
    #: Seconds since the epoch, by this host's clock.
    at: float


@contextlib.contextmanager
def entry() -> Iterator[None]:
    """Write down that a task's body starts, and that it ended or was interrupted; not that it failed or was killed."""
    write("start")
    try:
        yield
    except Exception:
        raise
    except BaseException:
        write("interrupted")
        raise
    write("end")


def write(what: str) -> None:
    """Add a line about the task run whose body this is."""
    running = task_run_context.get()
    assert running is not None
    run_id = running.flow_run.run_id if running.flow_run else ""
    facts = (running.task.name, run_id, running.step_key or "", running.attempt, running.idempotency_key)
    line = Line(what, *facts, os.getpid(), time.time())
    descriptor = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, json.dumps(asdict(line)).encode() + b"\n")
    finally:
        os.close(descriptor)


def is_first() -> bool:
    """Whether the body that asks is the first one started for its step."""
    running = task_run_context.get()
    assert running is not None
    lines = read(Path(os.environ[VARIABLE]))
    return sum((line.what, line.key) == ("start", running.idempotency_key) for line in lines) == 1


def read(path: Path) -> list[Line]:
    """All lines, in the order in which they were written."""
    if not path.exists():
        return []
    return [Line(**json.loads(text)) for text in path.read_text().splitlines()]
