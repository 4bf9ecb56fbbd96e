"""Changes of what holds runs of deployments back: limits, pauses and priorities act at once on the runs that wait."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from orchestra.engine import operations
from orchestra.engine.operations import Announce
from orchestra.schedules import Schedule
from orchestra.store import deployments, run_slots, work_pools
from orchestra.store.database import Database
from orchestra.store.deployments import Deployment, NewDeployment
from orchestra.store.work_pools import WorkPool, WorkQueue


def change(database: Database, name: str, announce: Announce | None = None, **changes: Any) -> WorkPool:
    """Change a work pool, as `work_pools.update`.

    Raises:
        WorkPoolNotFound: There is none of this name.
    """
    with _acting_at_once(database, announce):
        return work_pools.update(database, name, **changes)


def delete(database: Database, name: str, announce: Announce | None = None) -> None:
    """Delete a work pool, as `work_pools.delete`; nothing holds back what waits for it any more.

    Raises:
        WorkPoolNotFound: There is none of this name.
    """
    with _acting_at_once(database, announce):
        work_pools.delete(database, name)


def change_queue(
    database: Database, pool: str, name: str, announce: Announce | None = None, **changes: Any
) -> WorkQueue:
    """Change a queue of a work pool, as `work_pools.update_queue`.

    Raises:
        WorkPoolNotFound: There is no such pool.
        WorkQueueNotFound: The pool has no such queue.
    """
    with _acting_at_once(database, announce):
        return work_pools.update_queue(database, pool, name, **changes)


def delete_queue(database: Database, pool: str, name: str, announce: Announce | None = None) -> None:
    """Delete a queue of a work pool, as `work_pools.delete_queue`.

    Raises:
        WorkPoolNotFound: There is no such pool.
        WorkQueueNotFound: The pool has no such queue.
        ConfigurationError: It is the default one.
    """
    with _acting_at_once(database, announce):
        work_pools.delete_queue(database, pool, name)


def keep_deployment(
    database: Database,
    new: NewDeployment,
    schedules: Iterable[Schedule] | None = None,
    announce: Announce | None = None,
) -> str:
    """Write a deployment, as `deployments.keep`."""
    with _acting_at_once(database, announce):
        return deployments.keep(database, new, schedules)


def change_deployment(
    database: Database, deployment: str, announce: Announce | None = None, **changes: Any
) -> Deployment:
    """Change a deployment, as `deployments.update`.

    Raises:
        DeploymentNotFound: There is none with this name or id.
    """
    with _acting_at_once(database, announce):
        return deployments.update(database, deployment, **changes)


def delete_deployment(database: Database, deployment: str, announce: Announce | None = None) -> None:
    """Delete a deployment, as `deployments.delete`.

    Raises:
        DeploymentNotFound: There is none with this name or id.
    """
    with _acting_at_once(database, announce):
        deployments.delete(database, deployment)


@contextmanager
def _acting_at_once(database: Database, announce: Announce | None) -> Iterator[None]:
    """Make what is at work count before and after a change, and let those go on that may. A crash costs a sweep."""
    run_slots.adopt(database)
    yield
    run_slots.adopt(database)
    operations.tell(database, run_slots.serve(database), announce)
    run_slots.show_as_awaiting(database)
