"""Bodies on workers of gevent's pool, where threads are greenlets of one thread.

A timeout reaches a body at its next yield. An asyncio loop would hold up, and be mixed up with, the loops of other
greenlets: what is async runs in native threads, of gevent's own threadpool. Nothing here loads gevent.
"""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from orchestra import clock
from orchestra.engine import interrupts
from orchestra.errors import Signal

T = TypeVar("T")


class _Expired(Signal):
    """The body's time is over; a signal, so that its `except Exception` does not eat it."""


def active() -> bool:
    """Whether the threads of this process are greenlets."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


@contextmanager
def deadline(what: str, seconds: float) -> Iterator[None]:
    """Interrupt the body inside at its first yield after `seconds`.

    Raises:
        RunTimeout: The time was over, also if the body never yielded, or swallowed the interruption.
    """
    expired, end = _Expired(what), clock.monotonic() + seconds
    try:
        with sys.modules["gevent"].Timeout(seconds, expired):
            yield
    except _Expired as error:
        if error is not expired:
            raise
    if clock.monotonic() >= end:
        raise interrupts.timeout_error(what, seconds)


def natively(work: Callable[[], T]) -> T:
    """What `work` gives, done in a native thread if this one belongs to greenlets, or a loop runs in it already."""
    hub: Any = sys.modules["gevent"].get_hub()
    context = contextvars.copy_context()
    value, error = hub.threadpool.apply(_outcome, (context, work))
    if error is not None:
        raise error
    done: T = value
    return done


def is_native() -> bool:
    """Whether this thread is one of gevent's threadpool."""
    return not sys.modules["gevent"].get_hub().main_hub


def _outcome(context: contextvars.Context, work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    # As values: the threadpool has ideas of its own about SystemExit and the like.
    try:
        return context.run(work), None
    except BaseException as error:
        return None, error
