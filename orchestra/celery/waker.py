"""Wakes a worker's event loop when one of its threads has finished a task.

A worker that takes no message while all of its slots are busy looks for the next one when its loop turns. In a pool of
processes the end of a task turns it, by a pipe; a thread ends silently, and the loop would sleep for up to a second.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Any

from celery import bootsteps, signals

#: When the loop turns after a task, in seconds: the thread counts the task off just after it has told us of its end.
_TURNS = (0.001, 0.02)


class WakerStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """What a worker's consumer does more where its slots are threads."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        """Nothing yet: there is no loop."""
        super().__init__(consumer, **options)
        self._pipe: tuple[int, int] | None = None

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Listen in the worker's loop; called by Celery at each start of it, which has forgotten its readers."""
        if not type(consumer.pool).__module__.endswith(".thread"):
            return
        if self._pipe is None:
            self._pipe = os.pipe()
            for end in self._pipe:
                os.set_blocking(end, False)
            _wakers.add(self)
        hub.add_reader(self._pipe[0], self._turn, hub)

    def wake(self) -> None:
        """Make the loop turn. From any thread."""
        if self._pipe is not None:
            # A full pipe wakes it as well.
            with contextlib.suppress(OSError):
                os.write(self._pipe[1], b"\0")

    def _turn(self, hub: Any) -> None:
        assert self._pipe is not None
        with contextlib.suppress(BlockingIOError):
            os.read(self._pipe[0], 4096)
        for seconds in _TURNS:
            hub.call_later(seconds, _nothing)

    def terminate(self, consumer: Any) -> None:
        """Close the pipe: the worker ends."""
        _wakers.discard(self)
        pipe, self._pipe = self._pipe, None
        for end in pipe or ():
            os.close(end)


_wakers: weakref.WeakSet[WakerStep] = weakref.WeakSet()


def _on_task_end(**_: Any) -> None:
    for waker in list(_wakers):
        waker.wake()


def _nothing() -> None:
    """A timer that is due turns the loop; that is all it is for."""


signals.task_postrun.connect(_on_task_end, weak=False)
