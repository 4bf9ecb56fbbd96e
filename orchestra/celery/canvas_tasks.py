"""The Celery tasks at the ends and joints of a canvas: light to import, as every process registers them."""

from __future__ import annotations

from typing import Any

from celery import Celery, Task

from orchestra import lazy
from orchestra.celery.apps import ENTER_TASK, JOIN_TASK, PASS_ON_TASK
from orchestra.errors import StoreError

#: Acknowledged when done, as no row is owed for these; retried by Celery, as often as it takes.
_PINNED: dict[str, Any] = {
    "base": Task,
    "bind": True,
    "acks_late": True,
    "reject_on_worker_lost": True,
    "ignore_result": True,
    "serializer": "json",
    "rate_limit": "0",
    "max_retries": None,
    "trail": False,
    "typing": False,
    "shared": False,
}
#: Until a node that found no database is tried again, in seconds.
_STORE_PAUSE = 2.0


def register(app: Celery) -> None:
    """Register them in `app`, with options of their own."""
    app.task(name=ENTER_TASK, **_PINNED)(enter)
    app.task(name=JOIN_TASK, **_PINNED)(join)
    app.task(name=PASS_ON_TASK, **_PINNED | {"ignore_result": False})(pass_on)


def enter(task: Task, token: str, path: str, parameters: str, seal: str = "") -> None:
    """Create the run of a canvas that was applied by hand."""
    _with_store(task, "enter_canvas", token, path, parameters, seal)


def join(task: Task) -> None:
    """Do nothing: all before it has ended."""


def pass_on(task: Task, token: str) -> Any:
    """Give the outcome of such a run to what comes behind it in the workflow."""
    return _with_store(task, "pass_canvas_on", token)


def _with_store(task: Task, door: str, *args: Any) -> Any:
    try:
        return lazy.load(door)(lazy.load("database")(), task, *args)
    except StoreError as error:
        raise task.retry(exc=error, countdown=_STORE_PAUSE) from error
