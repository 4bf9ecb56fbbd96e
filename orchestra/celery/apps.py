"""Which Celery app is in use: the worker's, the one named by ORCHESTRA_APP, the installed one, or orchestra's own."""

from __future__ import annotations

import os
import weakref
from functools import lru_cache
from typing import Any

from celery import Celery
from celery._state import get_current_worker_task
from celery.app.defaults import SETTING_KEYS
from celery.app.utils import find_app

from orchestra import settings
from orchestra.celery.embedded import read_address
from orchestra.errors import ConfigurationError, NoBroker

#: Names of orchestra's Celery tasks.
FLOW_TASK, STEP_TASK, HOOKS_TASK = "orchestra.flow", "orchestra.task", "orchestra.hooks"
#: Those of canvases that are applied by hand: the first and the last node, and one that only joins.
ENTER_TASK, PASS_ON_TASK, JOIN_TASK = "orchestra.enter", "orchestra.pass_on", "orchestra.join"
#: The scheduler of beat that is Celery's default, and the one that we set in its place, as `beat_scheduler` names them.
CELERYS_SCHEDULER, SCHEDULER = "celery.beat:PersistentScheduler", "orchestra.celery.beat:Scheduler"

#: Seconds after which Redis gives an unacknowledged message out again. Messages are acknowledged before they are
#: worked on, so that this concerns only those a dead worker had fetched.
_VISIBILITY_TIMEOUT = 300
#: How long the consumer of our own app waits, in seconds; who publishes waits less (`dispatch`).
CONSUMER_TIMEOUTS: dict[str, Any] = {"socket_timeout": 10, "socket_connect_timeout": 5}
#: Of RabbitMQ's queues; more cost memory.
HIGHEST_PRIORITY = 10
_REDIS_OPTIONS: dict[str, Any] = {
    **CONSUMER_TIMEOUTS,
    "visibility_timeout": _VISIBILITY_TIMEOUT,
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    "socket_keepalive": True,
    "health_check_interval": 15,
}

#: In the order of installation. Not held: an app that its owner has dropped (tests make many) is gone.
_installed: weakref.WeakKeyDictionary[Celery, None] = weakref.WeakKeyDictionary()
_default: list[Celery] = []
_own: weakref.WeakSet[Celery] = weakref.WeakSet()
_worker: list[Celery] = []
_worker_pid = 0


def remember_installed(app: Celery) -> bool:
    """Note an app that orchestra was installed in; false if it was noted before."""
    if app in _installed:
        return False
    _installed[app] = None
    return True


def make_default(app: Celery) -> None:
    """Let this process send through `app`, whichever others there are.

    Raises:
        ConfigurationError: Another one is the default.
    """
    if _default and _default[0] is not app:
        raise ConfigurationError(
            f"install(app, default=True) was called for two Celery apps, {_default[0].main!r} and {app.main!r}: a "
            "process sends through one"
        )
    _default[:] = [app]


def remember_worker(app: Celery) -> None:
    """Note that this process is a worker of `app`."""
    global _worker_pid
    _worker[:] = [app]
    _worker_pid = os.getpid()


def forget_worker(app: Celery) -> None:
    """Note that the worker of `app` that ran in this process has ended, and the process has not."""
    if app in _worker:
        _worker.clear()


def in_pool_child() -> bool:
    """Whether this is a process that a worker has forked."""
    return bool(_worker) and os.getpid() != _worker_pid


def enclosing_task() -> str | None:
    """The name of the Celery task whose body runs in this thread on a worker, of whose slots it holds one."""
    task = get_current_worker_task()
    return None if task is None or task.request.is_eager else str(task.request.shadow or task.name)


def current_app() -> Celery:
    """The app through which this process sends.

    Raises:
        NoBroker: There is neither an app nor a broker.
        ConfigurationError: ORCHESTRA_APP cannot be imported, or nobody installed orchestra in it; or it is installed
            in several apps, and it is not said which of them sends.
    """
    if not _worker and (name := settings.current().app):
        return named(name, f"ORCHESTRA_APP={name!r}")
    if (app := known_app()) is not None:
        return app
    if candidates := _candidates():
        names = ", ".join(sorted(repr(app.main) for app in candidates))
        raise ConfigurationError(
            f"orchestra is installed in {len(candidates)} Celery apps of this process ({names}), and it is not said "
            "which of them sends: call install(app, default=True) for that one, or name it in ORCHESTRA_APP"
        )
    return own_app()


def known_app() -> Celery | None:
    """The app of this process's worker, else the default, else the one that orchestra is installed in.

    None where there is none, or where there are several and none of them is the default.
    """
    if _worker:
        return _worker[0]
    if _default:
        return _default[0]
    candidates = _candidates()
    return candidates[0] if len(candidates) == 1 else None


def _candidates() -> list[Celery]:
    """The apps that may be meant where nobody says: users' own before those that orchestra has built."""
    return [app for app in _installed if app not in _own] or list(_installed)[-1:]


def own_app() -> Celery:
    """The app that orchestra builds for those who have none; the same one for the same broker.

    Raises:
        NoBroker: Neither ORCHESTRA_BROKER_URL nor an embedded broker in ORCHESTRA_HOME.
    """
    return _build(broker_url())


def is_own(app: Celery) -> bool:
    """Whether orchestra has built this app."""
    return app in _own


def broker_url() -> str:
    """ORCHESTRA_BROKER_URL, else the address of the embedded broker in ORCHESTRA_HOME.

    Raises:
        NoBroker: There is neither.
    """
    url = settings.current().broker_url or read_address(settings.current().home_path)
    if not url:
        raise NoBroker
    return url


def message_serializer(app: Celery) -> str:
    """How our messages are written: as JSON where the app's workers accept that, else as the app's own."""
    accepted = {str(each) for each in app.conf.accept_content or ()}
    return "json" if accepted & {"json", "application/json"} else str(app.conf.task_serializer)


def forget() -> None:
    """Forget every app (tests)."""
    _worker.clear()
    _installed.clear()
    _default.clear()
    _build.cache_clear()


@lru_cache(maxsize=4)
def _build(url: str) -> Celery:
    app = Celery("orchestra", broker=url, set_as_current=False)
    _own.add(app)
    app.conf.update(
        task_default_queue="default",
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_max_tasks_per_child=1000,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        task_publish_retry_policy={"max_retries": 1},
    )
    if "worker_soft_shutdown_timeout" in SETTING_KEYS:
        app.conf.worker_soft_shutdown_timeout = 25.0
    if url.startswith(("amqp", "pyamqp")):
        # RabbitMQ keeps to priorities only on queues that were declared with them.
        app.conf.task_queue_max_priority = HIGHEST_PRIORITY
    if url.startswith(("redis", "valkey")):
        app.conf.broker_transport_options = _REDIS_OPTIONS
        _join_by_redis(app, url)
        if "worker_disable_prefetch" in SETTING_KEYS:
            app.conf.worker_disable_prefetch = True
    return app


def _join_by_redis(app: Celery, url: str) -> None:
    """Let the broker's server count the parts of chords, as canvases need it; results are kept of no task of ours."""
    app.conf.result_backend = url
    app.conf.redis_socket_timeout = _REDIS_OPTIONS["socket_timeout"]
    app.conf.redis_socket_connect_timeout = _REDIS_OPTIONS["socket_connect_timeout"]
    # What is not counted in this time is not worth a held slot: the journal counts too.
    app.conf.result_backend_transport_options = {
        "retry_policy": {"max_retries": 2, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}
    }


@lru_cache(maxsize=4)
def named(name: str, said: str | None = None) -> Celery:
    """The app with this name, as Celery's `-A` takes it.

    Args:
        name: The name.
        said: Where it was given, for error messages.

    Raises:
        ConfigurationError: It cannot be imported, or nobody installed orchestra in it.
    """
    said = said or f"app={name!r}"
    try:
        app = find_app(name)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"{said} cannot be imported: {reason}") from error
    require_installed(app, said)
    return app


def require_installed(app: Celery, name: str) -> None:
    """Check that flows can run on this app's workers.

    Raises:
        ConfigurationError: Nobody installed orchestra in it.
    """
    if app not in _installed:
        raise ConfigurationError(
            f"orchestra is not installed in the Celery app of {name}: call orchestra.celery.install(app) where that "
            "app is made"
        )
