"""Changes of what holds runs of deployments back: limits, pauses and priorities act at once on the runs that wait."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from orchestra.engine import operations
from orchestra.schedules import Schedule
from orchestra.store import deployments, run_slots, work_pools
from orchestra.store.database import Database
from orchestra.store.deployments import NewDeployment
from orchestra.store.work_pools import WorkPool, WorkQueue


def change(database: Database, name: str, **changes: Any) -> WorkPool:
    """Change a work pool, as `work_pools.update`.

    Raises:
        WorkPoolNotFound: There is none of this name.
    """
    with _acting_at_once(database):
        return work_pools.update(database, name, **changes)


def delete(database: Database, name: str) -> None:
    """Delete a work pool, as `work_pools.delete`; nothing holds back what waits for it any more.

    Raises:
        WorkPoolNotFound: There is none of this name.
    """
    with _acting_at_once(database):
        work_pools.delete(database, name)


def change_queue(database: Database, pool: str, name: str, **changes: Any) -> WorkQueue:
    """Change a queue of a work pool, as `work_pools.update_queue`.

    Raises:
        WorkPoolNotFound: There is no such pool.
        WorkQueueNotFound: The pool has no such queue.
    """
    with _acting_at_once(database):
        return work_pools.update_queue(database, pool, name, **changes)


def delete_queue(database: Database, pool: str, name: str) -> None:
    """Delete a queue of a work pool, as `work_pools.delete_queue`.

    Raises:
        WorkPoolNotFound: There is no such pool.
        WorkQueueNotFound: The pool has no such queue.
        ConfigurationError: It is the default one.
    """
    with _acting_at_once(database):
        work_pools.delete_queue(database, pool, name)


def keep_deployment(database: Database, new: NewDeployment, schedules: Iterable[Schedule] | None = None) -> str:
    """Write a deployment, as `deployments.keep`."""
    with _acting_at_once(database):
        return deployments.keep(database, new, schedules)


def delete_deployment(database: Database, deployment: str) -> None:
    """Delete a deployment, as `deployments.delete`.

    Raises:
        DeploymentNotFound: There is none with this name or id.
    """
    with _acting_at_once(database):
        deployments.delete(database, deployment)


@contextmanager
def _acting_at_once(database: Database) -> Iterator[None]:
    """Make what is at work count before and after a change, and let those go on that may. A crash costs a sweep."""
    run_slots.adopt(database)
    yield
    run_slots.adopt(database)
    operations.tell(database, run_slots.serve(database))
    run_slots.show_as_awaiting(database)
