"""Which run has a free worker slot first: that of the work queue with the lower number, whichever message came first.

Brokers do not sort queues. So a run that is about to start looks whether one waits in a queue of its pool that is
served before its own, and leaves the worker slot to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import settings
from orchestra.names import pool_of, versioned_queue
from orchestra.states import StateType
from orchestra.store import history
from orchestra.store.announcements import RUN_COLUMNS, Announcement, of_run
from orchestra.store.claims import Claim, held
from orchestra.store.database import Database, now
from orchestra.store.tables import Phase, flow_runs, phase_is, work_pools, work_queues
from orchestra.store.workers import live_queues


def outranking(database: Database, run: Mapping[str, Any], queues: Iterable[str]) -> str | None:
    """The id of a run that waits for a worker in a queue that is served before this run's, the first due; None: none.

    One that is pinned to a version does not count where only other workers have that.

    Args:
        database: Where they are.
        run: The row of the run.
        queues: The Celery queues whose runs may be taken.
    """
    pool, name = pool_of(run["queue"] or "")
    mine = frozenset(queues)

    def look(connection: Connection) -> str | None:
        priorities = {row.name: row.priority for row in connection.execute(_QUEUES, {"b_pool": pool})}
        for other, priority in priorities.items():
            if priority >= priorities.get(name, 1):
                return None
            if found := _first(connection, [queue for queue in mine if pool_of(queue) == (pool, other)], mine):
                return found
        return None

    return database.read(look)


def _first(connection: Connection, queues: list[str], mine: frozenset[str]) -> str | None:
    """The first run that waits in some queues, but for those of versions that only other workers have."""
    query = _FIRST
    while (row := connection.execute(query, {"b_queues": queues}).first()) is not None:
        pinned = None if row.version is None else versioned_queue(row.queue, row.version)
        if pinned is None or pinned in mine or pinned not in live_queues(connection):
            return str(row.id)
        # It would only be sent to them, and be found here again for as long as they are busy.
        query = query.where(sa.or_(flow_runs.c.version.is_(None), flow_runs.c.version != row.version))
    return None


def step_back(database: Database, claim: Claim) -> list[Announcement]:
    """Give up the claim on a run that was not started, which is due again at once; what to announce.

    Nothing where the claim is lost, or the run is being cancelled. A crash before the message is sent costs a lease.
    """
    values = {
        "phase": Phase.READY,
        "due_at": now(),
        "announce_at": now() + settings.current().lease_seconds,
        "announced_at": now(),
        "state_type": StateType.SCHEDULED.value,
        "state_name": "Scheduled",
        "start_time": None,
        "deadline_at": None,
    }
    goes_on = flow_runs.c.state_type != StateType.CANCELLING.value
    statement = sa.update(flow_runs).where(*held(claim), goes_on).values(**values).returning(*RUN_COLUMNS)

    def work(connection: Connection) -> list[Announcement]:
        announcements = [of_run(row) for row in connection.execute(statement)]
        if announcements:
            history.record_run(connection, flow_runs.c.id == claim.run_id)
        return announcements

    return database.write(work)


_QUEUES = (
    sa.select(work_queues.c.name, work_queues.c.priority)
    .join(work_pools, work_pools.c.id == work_queues.c.pool_id)
    .where(work_pools.c.name == sa.bindparam("b_pool"))
    .order_by(work_queues.c.priority, work_queues.c.name)
)
#: The first of the runs of deployments that are due in some queues and that nobody has started.
_FIRST = (
    sa.select(flow_runs.c.id, flow_runs.c.queue, flow_runs.c.version)
    .where(
        phase_is(flow_runs, Phase.READY),
        flow_runs.c.deployment_id.is_not(None),
        flow_runs.c.queue.in_(sa.bindparam("b_queues", expanding=True)),
        flow_runs.c.due_at <= now(),
        flow_runs.c.held.is_(None),
        flow_runs.c.start_time.is_(None),
    )
    .order_by(flow_runs.c.due_at)
    .limit(1)
)
