"""What a flow body sees of the outside, in a form that a replay sees again: time, chance, and anything `once`.

In a flow on a worker each call is a step of the journal. In a task, or in a flow that runs in this process, these are
plain calls.
"""

from __future__ import annotations

import asyncio
import random as _random
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from orchestra import clock
from orchestra.awaitables import Done, in_coroutine
from orchestra.context import flow_run_context, task_run_context
from orchestra.runners.base import Runner

T = TypeVar("T")


def sleep(seconds: float | timedelta) -> Awaitable[None]:
    """Go on after `seconds`; in a coroutine: `await sleep(…)`. In a flow on a worker no slot is held meanwhile."""
    duration, runner = clock.seconds(seconds), _flow_runner()
    if in_coroutine():
        return asyncio.sleep(duration) if runner is None else runner.sleep_async(duration)
    if runner is None:
        time.sleep(duration)
    else:
        runner.sleep(duration)
    return Done()


def now() -> datetime:
    """The present time, aware, in UTC."""
    return datetime.fromtimestamp(_observed("now", clock.now), UTC)


def uuid4() -> uuid.UUID:
    """A random UUID."""
    return uuid.UUID(_observed("uuid4", lambda: str(uuid.uuid4())))


def random() -> float:
    """A random number from 0 up to 1."""
    return _observed("random", _random.random)


def once(fn: Callable[[], T]) -> T:
    """What `fn()` gives; on replay what it gave, without calling it again.

    If the worker dies while `fn` runs, it may be called once more.
    """
    return _observed("once", fn)


def _observed(name: str, look: Callable[[], T]) -> T:
    runner = _flow_runner()
    return look() if runner is None else runner.observe(name, look)


def _flow_runner() -> Runner | None:
    """The runner of the flow body that calls; None in a task's body and outside of runs."""
    flow_run = flow_run_context.get()
    return None if flow_run is None or task_run_context.get() is not None else flow_run.runner
