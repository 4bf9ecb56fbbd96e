"""The two Celery tasks that carry everything: a segment of a flow run, and a step of one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery import Celery, Task

from orchestra import lazy
from orchestra.celery.apps import FLOW_TASK, STEP_TASK
from orchestra.errors import Conflict, Signal, StoreError

logger = logging.getLogger("orchestra.worker")

#: What the app may set otherwise for the tasks of its own: acknowledged early (the lease, not the message, says that
#: work is under way), no result (it is in the journal), no rate limit, nothing kept in the message but ids.
_PINNED: dict[str, Any] = {
    "base": Task,
    "acks_late": False,
    "reject_on_worker_lost": False,
    "ignore_result": True,
    "store_errors_even_if_ignored": False,
    "track_started": False,
    "serializer": "json",
    "rate_limit": "0",
    "max_retries": 0,
    "trail": False,
    "typing": False,
    "shared": False,
}


def register(app: Celery) -> None:
    """Register both tasks in `app`, with options of their own."""
    app.task(name=FLOW_TASK, **_PINNED)(run_flow)
    app.task(name=STEP_TASK, **_PINNED)(run_task)


def run_flow(run_id: str) -> None:
    """Carry a flow run on, if it is due."""
    _guarded(lambda: _load("run_segment", run_id), f"flow run {run_id}")


def run_task(run_id: str, run_attempt: int, step_key: str) -> None:
    """Run a step, if it is due."""
    _guarded(lambda: _load("run_step", run_id, run_attempt, step_key), f"step {step_key!r} of flow run {run_id}")


def _load(door: str, *ids: Any) -> None:
    lazy.load(door)(lazy.load("database")(), *ids, lazy.load("carrier")(), lazy.load("heart")())


def _guarded(work: Callable[[], None], what: str) -> None:
    """Whatever stopped the work, the row is still there: it is announced again, or somebody else has it."""
    try:
        work()
    except (Signal, Conflict) as reason:
        logger.info("%s was given up here: %s", what, reason or type(reason).__name__)
    except StoreError:
        logger.warning("%s was given up here, the database being away; it is taken up again", what, exc_info=True)
