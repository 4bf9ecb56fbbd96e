"""A Celery app of somebody's own, for `orchestra dev -A`."""

from __future__ import annotations

import os

from celery import Celery

import orchestra.celery

app = Celery("dev_app", broker=os.environ.get("DEV_APP_BROKER"), set_as_current=False)
app.conf.update(task_default_queue="mine", imports=["tests.integration.flows"])
orchestra.celery.install(app)


@app.task(ignore_result=True)
def note(path: str) -> None:
    """A task of its own."""
    with open(path, "a") as file:
        file.write("noted\n")
