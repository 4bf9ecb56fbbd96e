"""The Celery tasks at the ends and joints of canvases: light to import, as every process registers them."""

from __future__ import annotations

from typing import Any, ClassVar

from celery import Celery, Task

from orchestra import lazy
from orchestra.celery.apps import ENTER_TASK, JOIN_TASK, PASS_ON_TASK
from orchestra.errors import StoreError

#: Acknowledged when done, as no row is owed for them before; retried by Celery, as often as it takes.
_PINNED: dict[str, Any] = {
    "acks_late": True,
    "reject_on_worker_lost": True,
    "ignore_result": False,
    "track_started": False,
    "rate_limit": "0",
    "max_retries": None,
    "trail": False,
    "typing": False,
    "shared": False,
}
#: Until a node that found no database is tried again, in seconds.
_STORE_PAUSE = 2.0


class Pinned(Task):  # type: ignore[misc]  # Celery has no types
    """A task whose options are its own: the app's `task_annotations` do not change them."""

    abstract = True
    pinned: ClassVar[dict[str, Any]] = _PINNED

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Called by Celery when configuration and annotations have been applied."""
        for name, value in cls.pinned.items():
            setattr(cls, name, value)


class Join(Pinned):
    """A task that carries no value."""

    abstract = True
    pinned: ClassVar[dict[str, Any]] = _PINNED | {"ignore_result": True, "serializer": "json"}


class PassOn(Pinned):
    """A task that tells when Celery has gone on behind it."""

    abstract = True

    def after_return(
        self, status: str, retval: Any, task_id: str, args: tuple[Any, ...], kwargs: dict[str, Any], einfo: Any
    ) -> None:
        """Called when what comes next has been sent, and the result is stored."""
        lazy.load("passed_on")(self, *args, status, retval)


def register(app: Celery) -> None:
    """Register them in `app`, with options of their own.

    What users' own values travel in, the arguments and results of flows and tasks, is serialized as the app says.
    """
    for name, base, run in ((ENTER_TASK, Pinned, enter), (JOIN_TASK, Join, join), (PASS_ON_TASK, PassOn, pass_on)):
        app.task(name=name, base=base, bind=True, **base.pinned)(run)


def enter(task: Task, /, *args: Any, **kwargs: Any) -> Any:
    """Create the run of a flow or task that is a member of a canvas."""
    return _with_store(task, "enter_door", args, kwargs)


def join(task: Task) -> None:
    """Do nothing: all before it has ended."""


def pass_on(task: Task, run: str) -> Any:
    """Give the outcome of such a run to what comes behind it."""
    return _with_store(task, "pass_on", run)


def _with_store(task: Task, door: str, *args: Any) -> Any:
    try:
        return lazy.load(door)(task, *args)
    except StoreError as error:
        raise task.retry(exc=error, countdown=_STORE_PAUSE) from error
