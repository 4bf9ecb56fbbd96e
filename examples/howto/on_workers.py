"""More code of docs/howto/common-mistakes.md: mistakes that show on workers, where flow bodies are replayed."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

from orchestra import flow, task

_tosses = itertools.count()


def coin() -> bool:
    """Chance that orchestra does not see: `random.random() < 0.5`, the time of day, a row that somebody changes."""
    return next(_tosses) % 2 == 0


@task
def double(number: int) -> int:
    """Twice."""
    return number * 2


@task
def log(text: str) -> None:
    """A step."""


@task
def open_lock() -> Any:
    """A value that no other process could have."""
    return threading.Lock()


@flow
def decides_by_chance() -> int:
    """Asks for other steps when it is replayed."""
    if coin():
        log("heads")
    return double.submit(1).result()


@flow
def returns_a_lock() -> Any:
    """Its task's result cannot be journaled."""
    return open_lock()


@flow
async def starts_a_thread() -> int:
    """Calls a task in a thread of its own."""
    return await asyncio.to_thread(double, 1)
