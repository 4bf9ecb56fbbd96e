"""Flows whose tasks are cached, and that note where their bodies start."""

from __future__ import annotations

import os
import threading
import time

from orchestra import flow, task
from orchestra.cache_policies import INPUTS
from orchestra.locking.filesystem import FileSystemLockManager
from tests.integration.flows import note


@task(cache_policy=INPUTS - "file" - "seconds")
def slow(x: int, file: str, seconds: float) -> int:
    """Takes its time, so that others ask meanwhile."""
    note(file, str(os.getpid()))
    time.sleep(seconds)
    return x * 2


@task(cache_policy=(INPUTS - "file").configure(lock_manager=FileSystemLockManager("locks")))  # type: ignore[arg-type]
def managed(x: int, file: str) -> int:
    """As `slow`, locked by files."""
    note(file, str(os.getpid()))
    time.sleep(0.3)
    return x * 2


@flow
def asks(x: int, file: str, seconds: float) -> int:
    """Asks directly."""
    return slow(x, file, seconds)


@flow
def asks_often(x: int, file: str, seconds: float, times: int) -> list[int]:
    """Asks for one key in many submitted calls."""
    return [future.result() for future in [slow.submit(x, file, seconds) for _ in range(times)]]


@task
def other(x: int) -> int:
    """Something else to do."""
    return x + 1


@flow
def other_work(x: int) -> int:
    """What a free slot can do meanwhile."""
    return other(x)


def ask_in_threads(name: str, file: str, seconds: float, threads: int) -> None:
    """Ask for one key from several threads at once; print the answers."""
    asked = {"slow": lambda: slow(7, file, seconds), "managed": lambda: managed(7, file)}[name]
    barrier = threading.Barrier(threads)
    answers: list[int] = []

    def ask() -> None:
        barrier.wait()
        answers.append(asked())

    started = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    print(*answers)
