"""Work pools and their queues: where runs of deployments go, and how they are started there.

A pool is a name, a type and a template; its queue `q` is the Celery queue `P.q`, `default` is `P` itself. Changing a
pool changes no run that is written already.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock, identifiers
from orchestra.errors import AlreadyThere, ConfigurationError, WorkPoolNotFound, WorkQueueNotFound
from orchestra.names import DEFAULT_QUEUE, pool_of, pool_queue
from orchestra.store import events, named_rows
from orchestra.store.database import Database, insert, now
from orchestra.store.queries import Page, page_of
from orchestra.store.tables import deployments, flow_runs, work_pools, work_queues
from orchestra.store.workers import live_queues

#: Letters that neither Celery's `-Q a,b`, nor `P.q`, nor `queue@version` reads as something else.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
#: Ends the Celery queues on which wake-ups travel.
_RESERVED = "wake"


@dataclass(frozen=True, slots=True)
class WorkPool:
    """One work pool."""

    id: str
    name: str
    type: str
    description: str
    is_paused: bool
    #: "PAUSED"; "READY" where a worker that lives consumes one of its queues; else "NOT_READY".
    status: str
    concurrency_limit: int | None
    base_job_template: dict[str, Any]
    created: datetime | None
    updated: datetime | None


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """One queue of a work pool."""

    id: str
    name: str
    work_pool_name: str
    #: The queue that workers consume: `celery worker -Q …`.
    celery_queue: str
    description: str
    #: The lowest number is served first.
    priority: int
    is_paused: bool
    #: "PAUSED", itself or its pool; "READY" where a worker that lives consumes it; else "NOT_READY".
    status: str
    concurrency_limit: int | None
    created: datetime | None
    updated: datetime | None


def check_name(what: str, name: str) -> None:
    """Refuse a name that cannot be part of a Celery queue's.

    Raises:
        ConfigurationError: It cannot; says what can.
    """
    if not _NAME.fullmatch(name) or name == _RESERVED:
        raise ConfigurationError(
            f"{name!r} cannot be the name of a {what}, because it is that of a Celery queue too: use up to 100 "
            f"letters, digits, '-' and '_' (and not {_RESERVED!r} alone)"
        )


def create(
    database: Database,
    name: str,
    type: str,
    *,
    description: str = "",
    paused: bool = False,
    concurrency_limit: int | None = None,
    base_job_template: dict[str, Any] | None = None,
) -> WorkPool:
    """Write a work pool with its default queue, in one transaction.

    Raises:
        ConfigurationError: Its name cannot be a queue's.
        AlreadyThere: There is one of this name, which stays as it is.
    """
    check_name("work pool", name)
    # Made before: a transaction whose answer was lost knows its row again.
    pool_id = identifiers.new_run_id()
    told = events.act("work-pool", "created", pool_id, name, type=type)

    def work(connection: Connection) -> bool:
        values: dict[str, Any] = {
            "id": pool_id,
            "name": name,
            "type": type,
            "description": description,
            "paused": paused,
            "concurrency_limit": concurrency_limit,
            "base_job_template": json.dumps(base_job_template or {}),
            "created_at": now(),
            "updated_at": now(),
        }
        connection.execute(insert(connection, work_pools).values(values).on_conflict_do_nothing())
        if connection.scalar(sa.select(work_pools.c.id).where(work_pools.c.name == name)) != pool_id:
            return False
        _keep_queue(connection, identifiers.new_run_id(), pool_id, DEFAULT_QUEUE)
        events.record(connection, told)
        return True

    if not database.write(work):
        raise AlreadyThere("work pool", name, f"change it by `orchestra work-pool update {name}`, or --overwrite it")
    return read(database, name)


def update(database: Database, name: str, **changes: Any) -> WorkPool:
    """Change a work pool; its columns by name, those not named stay. Safe to repeat.

    Raises:
        WorkPoolNotFound: There is none of this name.
    """
    if "base_job_template" in changes:
        changes["base_job_template"] = json.dumps(changes["base_job_template"])
    statement = sa.update(work_pools).where(work_pools.c.name == name).values(**changes, updated_at=now())
    if not named_rows.change(database, statement.returning(work_pools.c.id), "work-pool", _verb(changes), name):
        raise WorkPoolNotFound(name)
    return read(database, name)


def read(database: Database, name: str) -> WorkPool:
    """The work pool of this name.

    Raises:
        WorkPoolNotFound: There is none.
    """
    found = find(database, name)
    if found is None:
        raise WorkPoolNotFound(name)
    return found


def find(database: Database, name: str) -> WorkPool | None:
    """The work pool of this name, if there is one."""
    query = sa.select(work_pools).where(work_pools.c.name == name)
    found = database.read(lambda connection: _pools(connection, query))
    return found[0] if found else None


def of_deployment(database: Database, deployment_id: str) -> tuple[WorkPool, dict[str, Any]] | None:
    """The work pool of a deployment, and the job variables that the deployment sets; None where it has no pool."""
    query = _select_of_deployment().where(deployments.c.id == deployment_id)
    row = database.read(lambda connection: connection.execute(query).one_or_none())
    # It is looked at for what it holds, not for who listens.
    return None if row is None else (_pool(row, heard=True), json.loads(row.of_deployment))


def of_run(database: Database, run_id: str) -> tuple[WorkPool, dict[str, Any]] | None:
    """The work pool of a flow run's deployment, and the job variables that this and the run set.

    Those of the nearest run above it, for a subflow: its segments go on where that one's do. None where there is none.
    """
    columns = (flow_runs.c.deployment_id, flow_runs.c.parent_run_id, flow_runs.c.job_variables)
    above = sa.select(sa.literal(0).label("level"), *columns).where(flow_runs.c.id == run_id).cte(recursive=True)
    next_above = sa.select(above.c.level + 1, *columns).join(above, flow_runs.c.id == above.c.parent_run_id)
    above = above.union_all(next_above.where(above.c.deployment_id.is_(None)))
    query = _select_of_deployment().add_columns(above.c.job_variables.label("of_run"))
    query = query.join(above, above.c.deployment_id == deployments.c.id)
    row = database.read(lambda connection: connection.execute(query).one_or_none())
    return (
        None
        if row is None
        else (_pool(row, heard=True), json.loads(row.of_deployment) | json.loads(row.of_run or "{}"))
    )


def _select_of_deployment() -> sa.Select[Any]:
    query = sa.select(work_pools, deployments.c.job_variables.label("of_deployment"))
    return query.select_from(deployments).join(work_pools, work_pools.c.name == deployments.c.work_pool_name)


def list_pools(database: Database, *, limit: int = 100, after: str | None = None) -> Page[WorkPool]:
    """Work pools by name, those after the name `after`."""
    query = sa.select(work_pools).order_by(work_pools.c.name).limit(limit + 1)
    if after is not None:
        query = query.where(work_pools.c.name > after)
    found = database.read(lambda connection: _pools(connection, query))
    return page_of(found, limit, lambda pool: pool.name)


def delete(database: Database, name: str) -> None:
    """Delete a work pool and its queues. Its deployments stay, NOT_READY; runs that wait for it wait on.

    Raises:
        WorkPoolNotFound: There is none of this name.
    """
    statement = sa.delete(work_pools).where(work_pools.c.name == name).returning(work_pools.c.id)
    if not named_rows.change(database, statement, "work-pool", "deleted", name):
        raise WorkPoolNotFound(name)


# -- queues ------------------------------------------------------------------------------------------------------


def create_queue(
    database: Database,
    pool: str,
    name: str,
    *,
    description: str = "",
    priority: int = 1,
    concurrency_limit: int | None = None,
) -> WorkQueue:
    """Write a queue of a work pool.

    Raises:
        ConfigurationError: Its name cannot be a Celery queue's.
        WorkPoolNotFound: There is no such pool.
        AlreadyThere: The pool has one of this name, which stays as it is.
    """
    check_name("work queue", name)
    pool_id, queue_id = read(database, pool).id, identifiers.new_run_id()
    values = {"description": description, "priority": priority, "concurrency_limit": concurrency_limit}
    if not _add_queue(database, queue_id, pool_id, pool, name, **values):
        raise AlreadyThere("work queue", name, f"pool {pool!r} needs no second one")
    return read_queue(database, pool, name)


def keep_queue(database: Database, pool: str, name: str) -> None:
    """Write a queue of a work pool, if it is not there. Safe to repeat.

    Raises:
        ConfigurationError: Its name cannot be a Celery queue's.
        WorkPoolNotFound: There is no such pool.
    """
    check_name("work queue", name)
    pool_id, queue_id = read(database, pool).id, identifiers.new_run_id()
    _add_queue(database, queue_id, pool_id, pool, name)


def read_queue(database: Database, pool: str, name: str) -> WorkQueue:
    """A queue of a work pool.

    Raises:
        WorkPoolNotFound: There is no such pool.
        WorkQueueNotFound: The pool has no such queue.
    """
    read(database, pool)
    query = _select_queues().where(work_pools.c.name == pool, work_queues.c.name == name)
    found = database.read(lambda connection: _queues(connection, query))
    if not found:
        raise WorkQueueNotFound(pool, name)
    return found[0]


def list_queues(database: Database, pool: str | None = None) -> list[WorkQueue]:
    """The queues of a work pool, or of all, in the order in which they are served.

    Raises:
        WorkPoolNotFound: There is no such pool.
    """
    query = _select_queues().order_by(work_pools.c.name, work_queues.c.priority, work_queues.c.name)
    if pool is not None:
        read(database, pool)
        query = query.where(work_pools.c.name == pool)
    return database.read(lambda connection: _queues(connection, query))


def celery_queues(database: Database, pool: str, name: str | None = None) -> list[str]:
    """The Celery queues of a work pool, or that of one of its queues.

    Raises:
        WorkPoolNotFound: There is no such pool.
        WorkQueueNotFound: The pool has no such queue.
    """
    found = list_queues(database, pool) if name is None else [read_queue(database, pool, name)]
    return [each.celery_queue for each in found]


def update_queue(database: Database, pool: str, name: str, **changes: Any) -> WorkQueue:
    """Change a queue of a work pool; its columns by name, those not named stay. Safe to repeat.

    Raises:
        WorkPoolNotFound: There is no such pool.
        WorkQueueNotFound: The pool has no such queue.
    """
    found = read_queue(database, pool, name)
    statement = sa.update(work_queues).where(work_queues.c.id == found.id).values(**changes, updated_at=now())
    statement = statement.returning(work_queues.c.id)
    if not named_rows.change(database, statement, "work-queue", _verb(changes), f"{pool}/{name}"):
        raise WorkQueueNotFound(pool, name)
    return read_queue(database, pool, name)


def delete_queue(database: Database, pool: str, name: str) -> None:
    """Delete a queue of a work pool; what waits there waits on, and goes on once a worker consumes it.

    Raises:
        WorkPoolNotFound: There is no such pool.
        WorkQueueNotFound: The pool has no such queue.
        ConfigurationError: It is the default one, without which there is no pool.
    """
    if name == DEFAULT_QUEUE:
        raise ConfigurationError(f"the queue {name!r} belongs to its pool: delete that, or pause the queue")
    statement = sa.delete(work_queues).where(work_queues.c.id == read_queue(database, pool, name).id)
    named_rows.change(database, statement.returning(work_queues.c.id), "work-queue", "deleted", f"{pool}/{name}")


def _verb(changes: dict[str, Any]) -> str:
    if changes.keys() == {"paused"}:
        return "paused" if changes["paused"] else "resumed"
    return "updated"


def _add_queue(database: Database, queue_id: str, pool_id: str, pool: str, name: str, **values: Any) -> bool:
    """Write a queue; false where there is one of its name."""
    told = events.act("work-queue", "created", queue_id, f"{pool}/{name}")

    def work(connection: Connection) -> bool:
        made = _keep_queue(connection, queue_id, pool_id, name, **values)
        if made:
            events.record(connection, told)
        return made

    return database.write(work)


def _keep_queue(connection: Connection, queue_id: str, pool_id: str, name: str, **values: Any) -> bool:
    row = {"id": queue_id, "pool_id": pool_id, "name": name, "created_at": now(), "updated_at": now()}
    connection.execute(insert(connection, work_queues).values(row | values).on_conflict_do_nothing())
    there = sa.select(work_queues.c.id).where(work_queues.c.pool_id == pool_id, work_queues.c.name == name)
    return bool(connection.scalar(there) == queue_id)


def _select_queues() -> Any:
    of_pool = work_pools.c.id == work_queues.c.pool_id
    columns = (work_pools.c.name.label("pool"), work_pools.c.paused.label("pool_paused"))
    return sa.select(work_queues, *columns).join_from(work_queues, work_pools, of_pool)


def _pools(connection: Connection, query: Any) -> list[WorkPool]:
    heard = {pool_of(queue)[0] for queue in live_queues(connection)}
    return [_pool(row, row.name in heard) for row in connection.execute(query)]


def _queues(connection: Connection, query: Any) -> list[WorkQueue]:
    heard = {pool_of(queue) for queue in live_queues(connection)}
    return [_queue(row, (row.pool, row.name) in heard) for row in connection.execute(query)]


def _status(paused: bool, heard: bool) -> str:
    if paused:
        return "PAUSED"
    return "READY" if heard else "NOT_READY"


def _pool(row: Any, heard: bool) -> WorkPool:
    return WorkPool(
        id=row.id,
        name=row.name,
        type=row.type,
        description=row.description,
        is_paused=row.paused,
        status=_status(row.paused, heard),
        concurrency_limit=row.concurrency_limit,
        base_job_template=json.loads(row.base_job_template),
        created=clock.to_datetime(row.created_at),
        updated=clock.to_datetime(row.updated_at),
    )


def _queue(row: Any, heard: bool) -> WorkQueue:
    return WorkQueue(
        id=row.id,
        name=row.name,
        work_pool_name=row.pool,
        celery_queue=pool_queue(row.pool, row.name),
        description=row.description,
        priority=row.priority,
        is_paused=row.paused,
        status=_status(row.paused or row.pool_paused, heard),
        concurrency_limit=row.concurrency_limit,
        created=clock.to_datetime(row.created_at),
        updated=clock.to_datetime(row.updated_at),
    )
