"""The runs that schedules will make, computed from their rules: none is written before its time."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from orchestra import clock
from orchestra.fire_times import fire_times
from orchestra.store import deployments, work_pools
from orchestra.store.database import Database
from orchestra.store.deployments import Deployment, ScheduleRecord

logger = logging.getLogger("orchestra.schedules")


@dataclass(frozen=True, slots=True, order=True)
class UpcomingRun:
    """A run to be."""

    expected_start_time: datetime
    flow_name: str
    deployment_name: str
    #: The schedule's slug, else its id.
    schedule: str
    work_queue_name: str
    state_name: str = "Scheduled"


def of_deployments(found: Iterable[Deployment], number: int, after: float) -> list[UpcomingRun]:
    """The next so many runs of these deployments, the first first; a paused one has none.

    Args:
        after: An instant; those after it are given.
    """
    each = [of_schedule(one, schedule, after) for one in found if not one.paused for schedule in one.schedules]
    return list(islice(heapq.merge(*each), number))


def of_pool(database: Database, pool: str, number: int, *, queue: str | None = None) -> list[UpcomingRun]:
    """The next so many runs of the deployments of a work pool, the first first.

    Args:
        queue: Only those of this queue of the pool.

    Raises:
        WorkPoolNotFound: There is no such pool.
        WorkQueueNotFound: The pool has no such queue.
    """
    celery_queue = None if queue is None else work_pools.read_queue(database, pool, queue).celery_queue
    work_pools.read(database, pool)
    now, found, after = database.now(), list[UpcomingRun](), None
    while True:
        page = deployments.list_deployments(database, work_pool_name=pool, after=after)
        wanted = [each for each in page.items if celery_queue in (None, each.queue)]
        found = sorted([*found, *of_deployments(wanted, number, now)])[:number]
        if (after := page.next) is None:
            return found


def of_schedule(deployment: Deployment, record: ScheduleRecord, after: float) -> Iterator[UpcomingRun]:
    """The runs that a schedule will make, without end; none of one that is paused, or that cannot be read here."""
    if not record.active:
        return
    name = record.slug or record.id
    try:
        for instant in fire_times(record.schedule(), after):
            when = clock.to_datetime(instant)
            yield UpcomingRun(when, deployment.flow_name, deployment.name, name, deployment.queue)
    except Exception as error:
        # One that this host cannot read (a zone that it does not know, say) hides no other.
        logger.warning("the times of schedule %s of %s cannot be told: %s", name, deployment.full_name, error)
