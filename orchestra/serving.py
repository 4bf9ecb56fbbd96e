"""`flow.serve()` and `serve(*deployments)`: deployments that are run where they are declared, until Ctrl-C.

Each has a Celery queue of its own, which this process's worker consumes; whoever else shares the database and the
broker can start runs of it. The order of a stop: the worker (it finishes what runs and gives back the rest), beat, an
embedded broker of ours, then the schedules are paused.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Sequence

from orchestra import dev
from orchestra.deployments import Deployment
from orchestra.errors import ConfigurationError, DefinitionError, DeploymentNotFound
from orchestra.identifiers import fingerprint
from orchestra.store import deployments as store
from orchestra.store.database import database

logger = logging.getLogger("orchestra.serving")


def serve(
    *deployments: Deployment,
    limit: int | None = None,
    pause_on_shutdown: bool = True,
    print_starting_message: bool = True,
) -> None:
    """Write deployments down and run their runs here, until Ctrl-C or SIGTERM. To be called in the main thread.

    Args:
        deployments: As `flow.to_deployment(…)` makes them.
        limit: How many runs are at work at once, each in a process; None: one per processor.
        pause_on_shutdown: Pause their schedules at the end: nobody would run what they start.
        print_starting_message: Say how to start a run.

    Raises:
        DefinitionError: There is none, or something that is no deployment.
        ConfigurationError: One names a work pool; a part cannot start; it is not called in the main thread.
        SystemExit: A second Ctrl-C ended what was at work (130).
    """
    _check(deployments, limit)
    ids: list[str] = []

    def begin() -> None:
        for each in deployments:
            each.queue = queue_of(each.full_name)
            if each.paused is None:
                each.paused = False
            ids.append(each.apply())
        if print_starting_message:
            _say_start([each.full_name for each in deployments])

    try:
        code = dev.serve([queue_of(each.full_name) for each in deployments], concurrency=limit, on_ready=begin)
    finally:
        if pause_on_shutdown:
            _pause(ids)
    if code:
        raise SystemExit(code)


def queue_of(full_name: str) -> str:
    """The Celery queue of a served deployment: readable, and its own."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", full_name)[:60].strip("-")
    return f"serve.{readable}.{fingerprint(full_name.encode())[:8]}"


def _check(deployments: Sequence[Deployment], limit: int | None) -> None:
    if not deployments:
        raise DefinitionError("serve() needs at least one deployment, as flow.to_deployment(…) makes it")
    for each in deployments:
        if not isinstance(each, Deployment):
            raise DefinitionError(f"serve() takes deployments, as flow.to_deployment(…) makes them, not {each!r}")
        if each.work_pool_name is not None:
            raise ConfigurationError(
                f"deployment {each.full_name!r} names work pool {each.work_pool_name!r}, but is served here: leave the "
                "pool out, or deploy() it"
            )
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit= is a number of runs from 1, not {limit!r}")
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError("serve() waits for Ctrl-C, so it is called in the main thread")


def _say_start(names: Sequence[str]) -> None:
    for name in names:
        sys.stderr.write(f"Serving {name!r}; start a run: orchestra deployment run '{name}'\n")
    sys.stderr.write("Ctrl-C ends it\n")


def _pause(ids: Sequence[str]) -> None:
    for deployment_id in ids:
        try:
            store.set_paused(database(), deployment_id, True)
        except DeploymentNotFound:
            logger.info("deployment %s was deleted meanwhile", deployment_id)
