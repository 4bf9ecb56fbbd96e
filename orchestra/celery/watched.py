"""Celery's task events of steps that run inside a segment, so that Flower shows them beside those sent as messages.

Only while somebody watches: the worker was started with `-E`, or Flower has turned its events on. What is told is a
hint for people: one that cannot be sent is dropped.
"""

from __future__ import annotations

import logging
import mmap
import threading
from typing import Any

from celery import Celery, current_task, signals
from celery.events import EventDispatcher

from orchestra import clock
from orchestra.runners.carrier import RanInline
from orchestra.states import StateType

logger = logging.getLogger("orchestra.dispatch")

#: What is buffered is sent at the next event after so many seconds, and at the end of each message.
_FLUSH_EVERY = 0.5
#: After a failure nothing is sent for so many seconds.
_SILENCE = 10.0


class Watched:
    """Whether this worker's events are on (one byte that its forked children share), and the sending of some."""

    def __init__(self, app: Celery, hostname: str) -> None:
        self._app, self._hostname = app, hostname
        self._byte = mmap.mmap(-1, 1)
        self._lock = threading.Lock()
        self._dispatcher: EventDispatcher | None = None
        self._flushed_at = self._silent_until = float("-inf")
        self._is_told = False
        signals.task_postrun.connect(self._flush)

    def look(self, worker: Any) -> None:
        """In the worker's own process: see whether the events of its tasks are on."""
        dispatcher = getattr(getattr(worker, "consumer", None), "event_dispatcher", None)
        if dispatcher is None:
            self._byte[0] = bool(worker.task_events)
            return
        # Without gossip and heartbeats it may be on for those alone.
        groups = dispatcher.groups
        self._byte[0] = bool(dispatcher.enabled and (not groups or "task" in groups))

    def __bool__(self) -> bool:
        return self._byte[0] == 1

    def tell(self, ran: RanInline) -> None:
        """Send what Celery would have sent of a task of its own."""
        request = getattr(current_task, "request", None)
        parent = {} if request is None else {"parent_id": request.id, "root_id": request.root_id}
        args = f"step {ran.step_key} of flow run {ran.flow_run_id}"
        begun = {"uuid": ran.task_run_id, "timestamp": ran.start_time}
        ended = {"uuid": ran.task_run_id, "timestamp": ran.end_time}
        if ran.state_type == StateType.COMPLETED:
            end = ("task-succeeded", {"result": ran.state_name, "runtime": ran.end_time - ran.start_time})
        else:
            end = ("task-failed", {"exception": ran.message or ran.state_name, "traceback": ""})
        with self._lock:
            if clock.monotonic() < self._silent_until:
                return
            try:
                dispatcher = self._own_dispatcher()
                dispatcher.send("task-received", name=ran.name, args=args, kwargs="{}", **parent, **begun)
                dispatcher.send("task-started", **begun)
                dispatcher.send(end[0], **end[1], **ended)
                self._is_told = True
                if clock.monotonic() - self._flushed_at > _FLUSH_EVERY:
                    self._flush_now(dispatcher)
            # Whatever a transport raises: the step has ended well, and only who watches misses it.
            except Exception:
                self._be_silent()

    def _own_dispatcher(self) -> EventDispatcher:
        """This process's: a connection does not survive a fork, and children tell nothing before they are one."""
        if self._dispatcher is None:
            self._dispatcher = self._app.events.Dispatcher(
                self._app.connection_for_write(),
                hostname=self._hostname,
                buffer_while_offline=False,
                buffer_group=frozenset({"task"}),
            )
        return self._dispatcher

    def _flush(self, **_: Any) -> None:
        """Send what is buffered, at the end of a message."""
        if not self._is_told:
            return
        with self._lock:
            try:
                self._flush_now(self._own_dispatcher())
            # As above: Celery would log it as a failed signal of each message.
            except Exception:
                self._be_silent()

    def _flush_now(self, dispatcher: EventDispatcher) -> None:
        dispatcher.flush(errors=False)
        self._is_told, self._flushed_at = False, clock.monotonic()

    def _be_silent(self) -> None:
        logger.info("events of inline steps cannot be sent now", exc_info=True)
        self._silent_until, self._is_told = clock.monotonic() + _SILENCE, False
        self._dispatcher = None
