"""`serve(*tasks)`: a Celery worker, in this process, for tasks that run outside of flows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from orchestra.celery import install
from orchestra.celery.apps import current_app
from orchestra.celery.dispatch import CeleryCarrier
from orchestra.errors import DefinitionError
from orchestra.specs import TaskSpec
from orchestra.tasks import Task


def serve(*tasks: Task[..., Any], limit: int | None = 10) -> None:
    """Run the background runs of these tasks, and whatever else is on their queues, until this process is stopped.

    Args:
        tasks: The tasks.
        limit: How many run at once, in threads; None: as many as there are CPUs.

    Raises:
        DefinitionError: There is none, or something that is no task.
        NoBroker: There is neither an app nor a broker to receive from.
    """
    for each in tasks:
        if not isinstance(each, Task):
            raise DefinitionError(f"serve() takes tasks, not {each!r}: decorate the function with @task")
    serve_specs([each.spec for each in tasks], limit=limit)


def serve_specs(tasks: Sequence[TaskSpec], *, limit: int | None) -> None:
    """As `serve`, by specs."""
    if not tasks:
        raise DefinitionError("serve() needs at least one task")
    app = install(current_app())
    carrier = CeleryCarrier(app)
    queues = sorted({task.queue or carrier.route(task.routed_as)[0] or carrier.default_queue for task in tasks})
    slots = str(limit or os.cpu_count() or 1)
    app.worker_main(["worker", "--pool", "threads", "-c", slots, "-Q", ",".join(queues), "--loglevel", "INFO"])
