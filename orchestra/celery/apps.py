"""Which Celery app is in use: the worker's, the one named by ORCHESTRA_APP, the installed one, or orchestra's own."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from celery import Celery
from celery.app.defaults import SETTING_KEYS
from celery.app.utils import find_app

from orchestra import settings
from orchestra.celery.embedded import read_address
from orchestra.errors import ConfigurationError, NoBroker

#: Names of orchestra's Celery tasks.
FLOW_TASK, STEP_TASK, HOOKS_TASK = "orchestra.flow", "orchestra.task", "orchestra.hooks"
#: Those of canvases that are applied by hand: the first and the last node, and one that only joins.
ENTER_TASK, PASS_ON_TASK, JOIN_TASK = "orchestra.enter", "orchestra.pass_on", "orchestra.join"

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

_installed: list[Celery] = []
_worker: list[Celery] = []
_worker_pid = 0


def remember_installed(app: Celery) -> bool:
    """Note an app that orchestra was installed in; false if it was noted before."""
    if app in _installed:
        return False
    _installed.append(app)
    return True


def remember_worker(app: Celery) -> None:
    """Note that this process is a worker of `app`."""
    global _worker_pid
    _worker[:] = [app]
    _worker_pid = os.getpid()


def in_pool_child() -> bool:
    """Whether this is a process that a worker has forked."""
    return bool(_worker) and os.getpid() != _worker_pid


def current_app() -> Celery:
    """The app through which this process sends.

    Raises:
        NoBroker: There is neither an app nor a broker.
        ConfigurationError: ORCHESTRA_APP cannot be imported, or nobody installed orchestra in it.
    """
    if _worker:
        return _worker[0]
    if name := settings.current().app:
        return named(name, f"ORCHESTRA_APP={name!r}")
    if _installed:
        return _installed[-1]
    return own_app()


def own_app() -> Celery:
    """The app that orchestra builds for those who have none; the same one for the same broker.

    Raises:
        NoBroker: Neither ORCHESTRA_BROKER_URL nor an embedded broker in ORCHESTRA_HOME.
    """
    return _build(broker_url())


def broker_url() -> str:
    """ORCHESTRA_BROKER_URL, else the address of the embedded broker in ORCHESTRA_HOME.

    Raises:
        NoBroker: There is neither.
    """
    url = settings.current().broker_url or read_address(settings.current().home_path)
    if not url:
        raise NoBroker
    return url


def forget() -> None:
    """Forget every app (tests)."""
    _worker.clear()
    _installed.clear()
    _build.cache_clear()


@lru_cache(maxsize=4)
def _build(url: str) -> Celery:
    app = Celery("orchestra", broker=url, set_as_current=False)
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
