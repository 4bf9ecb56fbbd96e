"""Who runs submitted tasks: the `task_runner=` of a flow. Here are the choices; `orchestra/runners/` carries them out.

On a worker submitted tasks are always Celery's to run; of a thread or process runner `max_workers` stays, as the most
tasks that the run has in flight at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from orchestra.errors import ConfigurationError, DefinitionError


@dataclass(frozen=True, slots=True)
class TaskRunner:
    """What all task runners have in common."""

    @property
    def most_in_flight(self) -> int | None:
        """How many submitted tasks of a run may be in flight at once; None: no limit."""
        return None

    def duplicate(self) -> Self:
        """A task runner like this one."""
        return replace(self)


@dataclass(frozen=True, slots=True)
class InlineTaskRunner(TaskRunner):
    """No concurrency: `.submit()` runs the task at once, as a direct call would, and gives a future that is done."""


@dataclass(frozen=True, slots=True)
class _Bounded(TaskRunner):
    max_workers: int | None = None

    def __post_init__(self) -> None:
        given = self.max_workers
        if given is not None and not (isinstance(given, int) and given >= 1):
            raise ConfigurationError(f"max_workers is a number from 1, or None, not {given!r}")

    @property
    def most_in_flight(self) -> int | None:
        """How many submitted tasks of a run may be in flight at once; None: no limit."""
        return self.max_workers


@dataclass(frozen=True, slots=True)
class ThreadPoolTaskRunner(_Bounded):
    """Threads of this process.

    `max_workers` is how many tasks run at once; None: as many as are submitted, up to 256.
    """


@dataclass(frozen=True, slots=True)
class ProcessPoolTaskRunner(_Bounded):
    """Processes of their own on this host: for work that holds the interpreter's lock, and work that may have to be
    stopped.

    `max_workers` is how many run at once; None: as many as the host has processors. Functions are found by import, or
    pickled where they cannot be imported (`__main__`, nested functions); arguments and results are pickled.
    """


@dataclass(frozen=True, slots=True)
class CeleryTaskRunner(TaskRunner):
    """Celery workers: a flow that is called here has its submitted tasks run there. Direct calls stay here.

    Both sides need the same database and the same `ORCHESTRA_SECRET_KEY`.

    `app` is a Celery app in which orchestra is installed, or its name as Celery's `-A` takes it; None: the one in use.
    `queue` is the Celery queue of tasks that name none; None: as Celery routes them.
    """

    app: Any = None
    queue: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # An app object stays in its process; on a worker the worker's own is used.
        return CeleryTaskRunner, (self.app if isinstance(self.app, str) else None, self.queue)


#: Under the name that it has in Prefect, where it submits to background workers.
OrchestraTaskRunner = CeleryTaskRunner


def task_runner_option(given: Any) -> TaskRunner | None:
    """A flow's `task_runner=`, which may be a class as well.

    Raises:
        DefinitionError: It is none of orchestra's.
    """
    runner = given() if isinstance(given, type) and issubclass(given, TaskRunner) else given
    if runner is None or isinstance(runner, TaskRunner):
        return runner
    raise DefinitionError(
        f"task_runner= takes ThreadPoolTaskRunner(...), ProcessPoolTaskRunner(...), CeleryTaskRunner(...) or "
        f"InlineTaskRunner() of orchestra.task_runners, not {given!r}"
    )
