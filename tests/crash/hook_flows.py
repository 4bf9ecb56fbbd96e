"""Flows and tasks whose hooks note in a ledger of their own what they were told; one kills its process once."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from orchestra import flow, task
from tests.crash import ledger


def first(subject: Any, run: Any, state: Any) -> None:
    """Any hook."""
    write(run, "first", state)


def second(subject: Any, run: Any, state: Any) -> None:
    """Another one."""
    write(run, "second", state)


def deadly_once(subject: Any, run: Any, state: Any) -> None:
    """Kills its process in its midst, the first time."""
    if write(run, "deadly", state) == 1:
        os.kill(os.getpid(), 9)


@task(on_completion=[first, second], on_running=first)
def hooked_task(number: int) -> int:
    """One more."""
    return number + 1


@flow(on_completion=[first, second], on_running=[first])
def hooked() -> int:
    """A submitted call, and a direct one."""
    return hooked_task(hooked_task.submit(1).result())


@flow(on_completion=[first, deadly_once, second])
def killed_in_a_hook() -> str:
    """Its second hook dies once."""
    return "done"


@task(on_completion=[first, deadly_once, second])
def task_killed_in_a_hook() -> str:
    """Likewise."""
    return "done"


@flow
def killed_in_a_task_hook(submitted: bool) -> str:
    """A task whose second hook dies once."""
    return str(task_killed_in_a_hook.submit().result()) if submitted else task_killed_in_a_hook()


@flow(on_failure=first)
def failing() -> None:
    """Fails."""
    raise ValueError("no")


@flow(on_cancellation=first)
def held(seconds: float) -> None:
    """Is cancelled before it starts."""


def write(run: Any, hook: str, state: Any) -> int:
    """Note a call; gives how often the hook has been called for that run, this call included."""
    descriptor = os.open(_file(Path(os.environ[ledger.VARIABLE])), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, f"{run.id} {hook} {state.name}\n".encode())
    finally:
        os.close(descriptor)
    return calls(Path(os.environ[ledger.VARIABLE]), run.id)[f"{hook} {state.name}"]


def calls(of: Path, *runs: str) -> Counter[str]:
    """How often each hook was called for these runs, by its name and the state's."""
    if not _file(of).exists():
        return Counter()
    lines = [line.split(" ", 1) for line in _file(of).read_text().splitlines()]
    return Counter(what for run, what in lines if run in runs)


def _file(of: Path) -> Path:
    return of.with_name("hooks")
