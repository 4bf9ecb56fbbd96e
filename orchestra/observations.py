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
from orchestra.errors import DefinitionError
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


def patched(name: str) -> bool:
    """Whether this run goes by a change of the flow's code: `if patched("two-steps"): … else: …`, the old code.

    True for new runs, and in every replay of those that were told so. False for runs that passed this point under the
    code from before the change; they go on by the old code. A branch of the body is told once, and the branches that
    it creates go by that. In a task, and in a flow that runs in this process: True.

    Args:
        name: Of the change; one of its own for each.

    Raises:
        DefinitionError: It is no name.
    """
    if not isinstance(name, str) or not name.strip():
        raise DefinitionError(f"patched() takes the name of a change of the code, not {name!r}")
    runner = _flow_runner()
    return runner is None or runner.patched(name)


def _observed(name: str, look: Callable[[], T]) -> T:
    runner = _flow_runner()
    return look() if runner is None else runner.observe(name, look)


def _flow_runner() -> Runner | None:
    """The runner of the flow body that calls; None in a task's body and outside of runs."""
    flow_run = flow_run_context.get()
    return None if flow_run is None or task_run_context.get() is not None else flow_run.runner
