"""Flows on Celery: `install(app)` beside an existing app, or the app that orchestra builds itself.

    app = Celery("proj", broker=...)
    orchestra.celery.install(app)

Only Celery's extension points are used: a few tasks, a boot step of the worker and one of its consumer, and beat's
scheduler. No setting of the app is changed but `beat_scheduler`, and that only where it is Celery's default.
"""

from __future__ import annotations

from typing import Any

from celery import Celery

from orchestra.celery import apps, canvas_tasks, flow_task

__all__ = ["app", "install"]


def install(app: Celery, *, default: bool = False) -> Celery:
    """Let flows run on `app` and its workers; returns `app`. Repeating it changes nothing.

    Its workers carry flows out; `.delay()` in this process goes through it. No configuration is read: it may be given
    to the app before or after.

    Args:
        app: The Celery app.
        default: Where orchestra is installed in several apps of one process: send through this one.

    Raises:
        ConfigurationError: Another app is the default.
    """
    if default:
        apps.make_default(app)
    if apps.remember_installed(app):
        flow_task.register(app)
        canvas_tasks.register(app)
        # By name: what a worker needs is loaded by a worker only.
        app.steps["worker"].add("orchestra.celery.worker:OrchestraStep")
        app.steps["consumer"].add("orchestra.celery.waker:WakerStep")
        if app.configured:
            _set_scheduler(app)
        else:
            app.on_after_configure.connect(_set_scheduler)
    return app


def _set_scheduler(sender: Celery, **_: Any) -> None:
    """Let beat fire the schedules of deployments too; one that the app has chosen itself stays."""
    if sender.conf.beat_scheduler == apps.CELERYS_SCHEDULER:
        sender.conf.beat_scheduler = apps.SCHEDULER


def app() -> Celery:
    """The app that orchestra builds for those who have none, from ORCHESTRA_BROKER_URL or the embedded broker.

    Raises:
        NoBroker: There is neither.
    """
    return install(apps.own_app())
