"""The Celery tasks that carry everything: a segment of a flow run, a step of one, and hooks that are still owed."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from billiard.common import EX_SOFTWARE, TERM_SIGNAL
from celery import Celery, Task, current_task

from orchestra import lazy
from orchestra.celery.apps import FLOW_TASK, HOOKS_TASK, STEP_TASK, in_pool_child, message_serializer
from orchestra.engine import loops
from orchestra.errors import Conflict, Signal, StoreError, Terminated

logger = logging.getLogger("orchestra.worker")

#: Stands for no time limit where the pool has one, in seconds: it takes none for "the pool's".
NO_LIMIT = 10 * 365 * 86_400

#: What the app may set otherwise for the tasks of its own: acknowledged early (the lease, not the message, says that
#: work is under way), no result (it is in the journal), no rate limit, nothing kept in the message but ids.
_PINNED: dict[str, Any] = {
    "acks_late": False,
    "reject_on_worker_lost": False,
    "retry_on_worker_lost": False,
    "ignore_result": True,
    "store_errors_even_if_ignored": False,
    "track_started": False,
    "rate_limit": "0",
    "max_retries": 0,
    "trail": False,
    "typing": False,
    "shared": False,
}


class Pinned(Task):  # type: ignore[misc]  # Celery has no types
    """A task whose options are its own: neither the app's `task_…` settings nor its `task_annotations` change them."""

    abstract = True

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Called by Celery when configuration and annotations have been applied."""
        for name, value in _PINNED.items():
            setattr(cls, name, value)
        cls.serializer = message_serializer(app)
        # The app's limits are for its own tasks. One message carries many steps of a flow, each with its own timeout.
        limited = app.conf.task_time_limit or app.conf.task_soft_time_limit
        cls.time_limit = cls.soft_time_limit = NO_LIMIT if limited else None


def register(app: Celery) -> None:
    """Register the tasks in `app`, with options of their own."""
    for name, run in ((FLOW_TASK, run_flow), (STEP_TASK, run_task), (HOOKS_TASK, run_hooks)):
        app.task(name=name, base=Pinned, **_PINNED)(run)


def lift_limits(app: Celery) -> None:
    """On a worker that was started with `--time-limit` or `--soft-time-limit`."""
    for name in (FLOW_TASK, STEP_TASK, HOOKS_TASK):
        task = app.tasks[name]
        task.time_limit = task.soft_time_limit = NO_LIMIT


def run_flow(run_id: str) -> None:
    """Carry a flow run on, if it is due."""
    _guarded(lambda: _load("run_segment", run_id), f"flow run {run_id}")


def run_task(run_id: str, *place: Any) -> None:
    """Run a step, if it is due.

    Args:
        run_id: Its run, or what stands for one in a canvas that was applied by hand.
        place: Its run attempt and key. The key alone in a canvas from which Celery itself goes on.
    """
    *attempt, step_key = place
    if ":" in run_id:
        run_id = lazy.load("run_of_canvas")(run_id, current_task.request)
    carrier = lazy.load("carrier")()
    if not attempt:
        carrier = lazy.load("entered_carrier")(carrier, run_id)
    ids = (run_id, attempt[0] if attempt else 1, step_key)
    _guarded(lambda: _load("run_step", *ids, carrier=carrier), f"step {step_key!r} of flow run {run_id}")


def run_hooks(run_id: str, run_attempt: int, step_key: str) -> None:
    """Run the hooks of a run or step that has ended, if they are owed.

    Args:
        run_id: Of the flow run.
        run_attempt: In which it, or the step, ended.
        step_key: The step's; empty: the flow run's own.
    """
    _guarded(lambda: _load("run_hooks", run_id, run_attempt, step_key), f"the hooks of flow run {run_id}")


def _load(door: str, *ids: Any, carrier: Any = None) -> None:
    with _told_apart_from_failure(), loops.kept():
        lazy.load(door)(lazy.load("database")(), *ids, carrier or lazy.load("carrier")(), lazy.load("heart")())


def _guarded(work: Callable[[], None], what: str) -> None:
    """Whatever stopped the work, the row is still there: it is announced again, or somebody else has it."""
    try:
        work()
    except (Signal, Conflict) as reason:
        logger.info("%s was given up here: %s", what, str(reason) or type(reason).__name__)
    except StoreError:
        logger.warning("%s was given up here, the database being away; it is taken up again", what, exc_info=True)


@contextmanager
def _told_apart_from_failure() -> Iterator[None]:
    """While a body runs in a child of the pool: the pool's order to end is a signal, and not the body's SystemExit.

    The claim stays, and is freed by the sweeper's process when the child is gone.
    """
    if not in_pool_child():
        yield
        return
    told: list[int] = []

    def on_term(number: int, frame: FrameType | None) -> None:
        if told:
            os._exit(EX_SOFTWARE)
        told.append(number)
        raise Terminated

    pools_own = signal.signal(TERM_SIGNAL, on_term)
    try:
        yield
    finally:
        signal.signal(TERM_SIGNAL, pools_own)
        if told and callable(pools_own):
            pools_own(told[0], None)
