"""Deployments and their schedules: what is to run, with which parameters, where and when.

Writing one again under its flow's and its own name changes it and keeps its id, and those of its schedules that are the
same by slug or by rule. Runs that are written already are not touched by any change here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock, identifiers
from orchestra.errors import AlreadyThere, DeploymentNotFound, ScheduleNotFound
from orchestra.failpoints import failpoint
from orchestra.names import pool_queue
from orchestra.schedules import Schedule
from orchestra.store import events, named_rows
from orchestra.store.database import Database, insert, now
from orchestra.store.queries import Page, page_of
from orchestra.store.tables import deployments, schedules, work_pools
from orchestra.store.workers import live_queues

#: The columns that hold JSON.
_JSON = ("tags", "parameters", "parameter_schema", "job_variables", "pull_steps", "triggers")
#: What a schedule is told by where it has no slug.
_RULE = ("cron", "interval", "rrule", "timezone", "day_or", "anchor", "parameters")
#: Of a schedule that is new, changed or resumed: it counts from now on, and beat looks at it at once.
_BEGUN: dict[str, Any] = {"next_at": now(), "fired_at": now()}


@dataclass(frozen=True, slots=True)
class NewDeployment:
    """A deployment to be; the fields are its columns."""

    name: str
    flow_name: str
    #: `file.py:qualname` or `module:qualname`.
    entrypoint: str
    #: The Celery queue of its runs.
    queue: str
    description: str = ""
    version: str | None = None
    tags: Sequence[str] = ()
    #: As JSON holds them.
    parameters: dict[str, Any] = field(default_factory=dict)
    parameter_schema: dict[str, Any] = field(default_factory=dict)
    enforce_parameter_schema: bool = True
    work_pool_name: str | None = None
    work_queue_name: str | None = None
    job_variables: dict[str, Any] = field(default_factory=dict)
    pull_steps: list[Any] | None = None
    concurrency_limit: int | None = None
    collision_strategy: str = "ENQUEUE"
    triggers: list[Any] = field(default_factory=list)
    #: None: as it is; a new one is not paused.
    paused: bool | None = None
    options: bytes | None = None
    flow_version: str | None = None
    priority: int | None = None
    timeout_seconds: float | None = None
    has_hooks: bool | None = None


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """One schedule of a deployment. `interval` and `max_late` are in seconds."""

    id: str
    deployment_id: str
    slug: str | None
    active: bool
    cron: str | None
    interval: float | None
    rrule: str | None
    timezone: str | None
    day_or: bool
    anchor_date: datetime | None
    parameters: dict[str, Any]
    catchup: str
    catchup_max: int | None
    max_late: float | None
    created: datetime | None
    updated: datetime | None

    def schedule(self) -> Schedule:
        """When it fires, without its parameters and what becomes of missed times."""
        return Schedule(
            cron=self.cron,
            interval=None if self.interval is None else timedelta(seconds=self.interval),
            rrule=self.rrule,
            timezone=self.timezone,
            anchor_date=self.anchor_date,
            day_or=self.day_or,
        )


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment."""

    id: str
    name: str
    flow_name: str
    entrypoint: str
    description: str
    version: str | None
    tags: tuple[str, ...]
    parameters: dict[str, Any]
    parameter_openapi_schema: dict[str, Any]
    enforce_parameter_schema: bool
    work_pool_name: str | None
    work_queue_name: str | None
    #: The Celery queue of its runs.
    queue: str
    job_variables: dict[str, Any]
    pull_steps: list[Any] | None
    concurrency_limit: int | None
    collision_strategy: str
    triggers: tuple[Any, ...]
    paused: bool
    #: "READY" where its work pool, if it names one, is there, and a worker that lives consumes its queue; else
    #: "NOT_READY".
    status: str
    schedules: tuple[ScheduleRecord, ...]
    created: datetime | None
    updated: datetime | None

    @property
    def full_name(self) -> str:
        """`flow/deployment`."""
        return f"{self.flow_name}/{self.name}"


def keep(database: Database, new: NewDeployment, schedules: Iterable[Schedule] | None = None) -> str:
    """Write a deployment, in place of an earlier one of its name, and its schedules, in one transaction; gives its id.

    Safe to repeat: ids stay.

    Args:
        new: The deployment.
        schedules: All that it is to have; None: those that it has.
    """

    # Made before: a transaction whose answer was lost knows its rows again.
    fresh, event_id = identifiers.new_run_id(), events.new_id()

    def work(connection: Connection) -> str:
        deployment_id = _keep(connection, new, fresh)
        failpoint("amid_deploy")
        if schedules is not None:
            _set_schedules(connection, deployment_id, list(schedules))
        verb, name = "created" if deployment_id == fresh else "updated", f"{new.flow_name}/{new.name}"
        events.record(connection, events.act("deployment", verb, deployment_id, name, id=event_id))
        return deployment_id

    return database.write(work)


def find(database: Database, deployment: str) -> Deployment | None:
    """As `read`; None where there is none."""
    found = database.read(lambda connection: _select(connection, _is(deployment)))
    return found[0] if found else None


def read(database: Database, deployment: str) -> Deployment:
    """The deployment with this id, or `flow/name`, with its schedules.

    Raises:
        DeploymentNotFound: There is none.
    """
    found = find(database, deployment)
    if found is None:
        raise DeploymentNotFound(deployment)
    return found


def spec_row(database: Database, deployment_id: str) -> Any:
    """What a run's row takes over from its deployment.

    Raises:
        DeploymentNotFound: There is none with this id.
    """
    column = deployments.c
    shown = (column.options, column.flow_version, column.priority, column.timeout_seconds, column.has_hooks)
    query = sa.select(*shown).where(column.id == deployment_id)
    row = database.read(lambda connection: connection.execute(query).one_or_none())
    if row is None:
        raise DeploymentNotFound(deployment_id)
    return row


def list_deployments(
    database: Database,
    *,
    limit: int = 100,
    after: str | None = None,
    flow_names: Iterable[str] = (),
    work_pool_name: str | None = None,
) -> Page[Deployment]:
    """Deployments by the names of their flows, then their own, with their schedules.

    Args:
        limit: Most of them on the page.
        after: Id, or `flow/name`, of the last one of the page before.
        flow_names: Only those of these flows.
        work_pool_name: Only those of this pool.

    Raises:
        DeploymentNotFound: `after` is not there (any more).
    """
    column = deployments.c
    conditions: list[sa.ColumnElement[bool]] = []
    if names := list(flow_names):
        conditions.append(column.flow_name.in_(names))
    if work_pool_name is not None:
        conditions.append(column.work_pool_name == work_pool_name)

    def look(connection: Connection) -> list[Deployment]:
        return _select(connection, *conditions, *_after(connection, after), limit=limit + 1)

    return page_of(database.read(look), limit, lambda each: each.full_name)


def names(database: Database, *, limit: int) -> list[tuple[str, str]]:
    """Ids of deployments with their full names, in the order of these."""
    column = deployments.c
    query = sa.select(column.id, column.flow_name, column.name).order_by(column.flow_name, column.name).limit(limit)
    rows = database.read(lambda connection: connection.execute(query).all())
    return [(row.id, f"{row.flow_name}/{row.name}") for row in rows]


def set_paused(database: Database, deployment: str, paused: bool) -> None:
    """Pause or resume all schedules of a deployment; each keeps whether it is active. Safe to repeat.

    Raises:
        DeploymentNotFound: There is none with this name or id.
    """

    event_id = events.new_id()

    def work(connection: Connection) -> bool:
        statement = sa.update(deployments).where(_is(deployment)).values(paused=paused, updated_at=now())
        if not paused:
            _begin_resumed(connection, _is(deployment))
        found = connection.execute(statement.returning(*_NAMED)).first()
        return _tell(connection, "paused" if paused else "resumed", found, event_id)

    if not database.write(work):
        raise DeploymentNotFound(deployment)


def update(database: Database, deployment: str, **changes: Any) -> Deployment:
    """Change columns of a deployment; those not named stay. Safe to repeat.

    A work pool or work queue that is named moves its new runs to the Celery queue of that.

    Raises:
        DeploymentNotFound: There is none with this name or id.
    """
    found = read(database, deployment)
    values = {name: json.dumps(value) if name in _JSON else value for name, value in changes.items()}
    if "tags" in changes:
        values["tags"] = json.dumps(sorted(changes["tags"]))
    if not {"work_pool_name", "work_queue_name"}.isdisjoint(changes):
        pool = changes.get("work_pool_name", found.work_pool_name)
        values["queue"] = (
            "" if pool is None else pool_queue(pool, changes.get("work_queue_name", found.work_queue_name))
        )

    event_id = events.new_id()

    def work(connection: Connection) -> bool:
        if changes.get("paused") is False:
            _begin_resumed(connection, _is(found.id))
        statement = sa.update(deployments).where(_is(found.id)).values(**values, updated_at=now())
        changed = connection.execute(statement.returning(*_NAMED)).first()
        return _tell(connection, "updated", changed, event_id)

    if not database.write(work):
        raise DeploymentNotFound(deployment)
    return read(database, found.id)


def delete(database: Database, deployment: str) -> None:
    """Delete a deployment and its schedules; its runs stay, and those that wait to start still do.

    Raises:
        DeploymentNotFound: There is none with this name or id.
    """

    event_id = events.new_id()

    def work(connection: Connection) -> bool:
        found = connection.execute(sa.delete(deployments).where(_is(deployment)).returning(*_NAMED)).first()
        return _tell(connection, "deleted", found, event_id)

    if not database.write(work):
        raise DeploymentNotFound(deployment)


# -- schedules ---------------------------------------------------------------------------------------------------


def add_schedule(database: Database, deployment: str, schedule: Schedule, *, replace: bool = False) -> str:
    """Give a deployment one more schedule; gives its id.

    Args:
        database: Where.
        deployment: Its id, or `flow/name`.
        schedule: The new one.
        replace: In the place of all that it has, in the same transaction: at no time it has none.

    Raises:
        DeploymentNotFound: There is no such deployment.
        AlreadyThere: It has a schedule with this slug.
    """
    found = read(database, deployment)
    # Made before: a transaction whose answer was lost knows its row again.
    schedule_id = identifiers.new_run_id()
    row = _values(schedule) | {"id": schedule_id, "deployment_id": found.id, "created_at": now(), "updated_at": now()}
    row |= _BEGUN
    told = events.act("schedule", "created", schedule_id, schedule.slug, deployment=found.full_name)
    event_id = events.new_id()

    def work(connection: Connection) -> bool:
        if not _lock(connection, _is(found.id)):
            raise DeploymentNotFound(deployment)
        if replace:
            _clear_schedules(connection, found, event_id, schedules.c.id != schedule_id)
            failpoint("amid_deploy")
        connection.execute(insert(connection, schedules).values(row).on_conflict_do_nothing())
        is_there = connection.scalar(sa.select(schedules.c.id).where(schedules.c.id == schedule_id)) is not None
        if is_there:
            events.record(connection, told)
        return is_there

    if not database.write(work):
        raise AlreadyThere("schedule", str(schedule.slug), "delete it first, or take another slug")
    return schedule_id


def set_active(database: Database, deployment: str, schedule: str, active: bool) -> None:
    """Pause or resume one schedule of a deployment, by its slug or id. Safe to repeat.

    Raises:
        DeploymentNotFound: There is no such deployment.
        ScheduleNotFound: It has no such schedule.
    """
    statement = sa.update(schedules).values(active=active, updated_at=now(), **_BEGUN)
    _change_schedule(database, deployment, schedule, statement, "resumed" if active else "paused")


def delete_schedule(database: Database, deployment: str, schedule: str) -> None:
    """Delete one schedule of a deployment, by its slug or id.

    Raises:
        DeploymentNotFound: There is no such deployment.
        ScheduleNotFound: It has no such schedule.
    """
    _change_schedule(database, deployment, schedule, sa.delete(schedules), "deleted")


def clear_schedules(database: Database, deployment: str) -> int:
    """Delete all schedules of a deployment; how many they were. Safe to repeat.

    Raises:
        DeploymentNotFound: There is no such deployment.
    """
    found = read(database, deployment)
    event_id = events.new_id()

    def work(connection: Connection) -> int:
        return _clear_schedules(connection, found, event_id)

    return database.write(work)


# -- how rows are written ----------------------------------------------------------------------------------------

_NAMED = (deployments.c.id, deployments.c.flow_name, deployments.c.name)


def _tell(connection: Connection, verb: str, found: Any, event_id: str) -> bool:
    """Record what was done to a deployment; false where there was none."""
    if found is None:
        return named_rows.is_done(connection, event_id)
    name = f"{found.flow_name}/{found.name}"
    events.record(connection, events.act("deployment", verb, found.id, name, id=event_id))
    return True


def _lock(connection: Connection, which: sa.ColumnElement[bool]) -> bool:
    """Hold a deployment's row, before those of its schedules, as everybody does; false where there is none."""
    query = sa.select(deployments.c.id).where(which).with_for_update(key_share=True)
    return connection.scalar(query) is not None


def _begin_resumed(connection: Connection, which: sa.ColumnElement[bool]) -> None:
    """Let the schedules of a deployment count from now on if it was paused; asked before it is resumed."""
    _lock(connection, which)
    resumed = sa.select(deployments.c.id).where(which, deployments.c.paused)
    connection.execute(sa.update(schedules).where(schedules.c.deployment_id.in_(resumed)).values(**_BEGUN))


def _keep(connection: Connection, new: NewDeployment, fresh: str) -> str:
    values: dict[str, Any] = {name: getattr(new, name) for name in NewDeployment.__slots__}
    values |= {name: None if values[name] is None else json.dumps(values[name]) for name in _JSON if name != "tags"}
    values["tags"] = json.dumps(sorted(new.tags))
    values["updated_at"] = now()
    if new.paused is None:
        del values["paused"]
    elif not new.paused:
        _begin_resumed(connection, _is(f"{new.flow_name}/{new.name}"))
    row = values | {"id": fresh, "created_at": now()}
    statement = insert(connection, deployments).values(row)
    key = [deployments.c.flow_name, deployments.c.name]
    statement = statement.on_conflict_do_update(index_elements=key, set_=values).returning(deployments.c.id)
    return str(connection.scalar(statement))


def _set_schedules(connection: Connection, deployment_id: str, wanted: list[Schedule]) -> None:
    """Make these the schedules of a deployment; the transaction holds its row, so that nobody else does."""
    query = sa.select(schedules).where(schedules.c.deployment_id == deployment_id)
    there = list(connection.execute(query).mappings())
    kept = set()
    for values in map(_values, wanted):
        same = next((row for row in there if row["id"] not in kept and _is_same(row, values)), None)
        schedule_id = identifiers.new_run_id() if same is None else same["id"]
        kept.add(schedule_id)
        if same is None:
            row = values | {"id": schedule_id, "deployment_id": deployment_id, "created_at": now()}
            connection.execute(insert(connection, schedules).values(row | _BEGUN | {"updated_at": now()}))
        elif any(same[name] != value for name, value in values.items()):
            changed = (
                sa.update(schedules).where(schedules.c.id == schedule_id).values(**values, **_BEGUN, updated_at=now())
            )
            connection.execute(changed)
    gone = [row["id"] for row in there if row["id"] not in kept]
    connection.execute(sa.delete(schedules).where(schedules.c.id.in_(gone)))


def _is_same(row: Any, values: dict[str, Any]) -> bool:
    if values["slug"] is not None or row["slug"] is not None:
        return bool(row["slug"] == values["slug"])
    return all(row[name] == values[name] for name in _RULE)


def _values(schedule: Schedule) -> dict[str, Any]:
    return {
        "slug": schedule.slug,
        "active": schedule.active,
        "cron": schedule.cron,
        "interval": None if schedule.interval is None else schedule.interval.total_seconds(),
        "rrule": schedule.rrule,
        "timezone": schedule.timezone,
        "day_or": schedule.day_or,
        "anchor": None if schedule.anchor_date is None else clock.to_instant(schedule.anchor_date),
        "parameters": json.dumps(dict(schedule.parameters)),
        "catchup": schedule.catchup,
        "catchup_max": schedule.catchup_max,
        "max_late": schedule.max_late,
    }


def _clear_schedules(connection: Connection, of: Deployment, event_id: str, *but: sa.ColumnElement[bool]) -> int:
    """Delete the schedules of a deployment, and record that; gives how many they were."""
    number = connection.execute(sa.delete(schedules).where(schedules.c.deployment_id == of.id, *but)).rowcount
    if number:
        told = events.act("deployment", "updated", of.id, of.full_name, id=event_id, deleted_schedules=number)
        events.record(connection, told)
    return number


def _change_schedule(database: Database, deployment: str, schedule: str, statement: Any, verb: str) -> None:
    found = read(database, deployment)
    named = sa.or_(schedules.c.id == schedule, schedules.c.slug == schedule)
    event_id = events.new_id()

    def work(connection: Connection) -> bool:
        changed = statement.where(schedules.c.deployment_id == found.id, named)
        row = connection.execute(changed.returning(schedules.c.id, schedules.c.slug)).first()
        if row is None:
            return named_rows.is_done(connection, event_id)
        told = events.act("schedule", verb, row.id, row.slug, id=event_id, deployment=found.full_name)
        events.record(connection, told)
        return True

    if not database.write(work):
        raise ScheduleNotFound(found.full_name, schedule)


# -- how rows are read -------------------------------------------------------------------------------------------


def _is(deployment: str) -> sa.ColumnElement[bool]:
    """The row with this id, or `flow/name`; names of flows may have a `/`, those of deployments have none."""
    flow_name, slash, name = deployment.rpartition("/")
    if not slash:
        return deployments.c.id == deployment
    return sa.and_(deployments.c.flow_name == flow_name, deployments.c.name == name)


def _after(connection: Connection, after: str | None) -> list[sa.ColumnElement[bool]]:
    if after is None:
        return []
    key = (deployments.c.flow_name, deployments.c.name)
    last = connection.execute(sa.select(*key).where(_is(after))).one_or_none()
    if last is None:
        raise DeploymentNotFound(after)
    return [sa.tuple_(*key) > sa.tuple_(*last)]


def _select(connection: Connection, *conditions: sa.ColumnElement[bool], limit: int | None = None) -> list[Deployment]:
    query = sa.select(deployments, work_pools.c.id.label("pool_id"))
    query = query.outerjoin(work_pools, work_pools.c.name == deployments.c.work_pool_name).where(*conditions)
    query = query.order_by(deployments.c.flow_name, deployments.c.name).limit(limit)
    rows = connection.execute(query).all()
    of_these = sa.select(schedules).where(schedules.c.deployment_id.in_([row.id for row in rows]))
    found: dict[str, list[ScheduleRecord]] = {}
    for row in connection.execute(of_these.order_by(schedules.c.created_at, schedules.c.id)):
        found.setdefault(row.deployment_id, []).append(_schedule(row))
    heard = frozenset(queue.partition("@")[0] for queue in live_queues(connection))
    return [_deployment(row, tuple(found.get(row.id, ())), heard) for row in rows]


def _deployment(row: Any, of_it: tuple[ScheduleRecord, ...], heard: frozenset[str]) -> Deployment:
    # Without a queue, its app's routes say where it goes, which are not known here.
    is_heard = row.queue in heard if row.queue else bool(heard)
    has_pool = row.work_pool_name is None or row.pool_id is not None
    data = {name: json.loads(getattr(row, name) or "null") for name in _JSON}
    return Deployment(
        id=row.id,
        name=row.name,
        flow_name=row.flow_name,
        entrypoint=row.entrypoint,
        description=row.description,
        version=row.version,
        tags=tuple(data["tags"]),
        parameters=data["parameters"],
        parameter_openapi_schema=data["parameter_schema"],
        enforce_parameter_schema=row.enforce_parameter_schema,
        work_pool_name=row.work_pool_name,
        work_queue_name=row.work_queue_name,
        queue=row.queue,
        job_variables=data["job_variables"],
        pull_steps=data["pull_steps"],
        concurrency_limit=row.concurrency_limit,
        collision_strategy=row.collision_strategy,
        triggers=tuple(data["triggers"]),
        paused=row.paused,
        status="READY" if has_pool and is_heard else "NOT_READY",
        schedules=of_it,
        created=clock.to_datetime(row.created_at),
        updated=clock.to_datetime(row.updated_at),
    )


def _schedule(row: Any) -> ScheduleRecord:
    return ScheduleRecord(
        id=row.id,
        deployment_id=row.deployment_id,
        slug=row.slug,
        active=row.active,
        cron=row.cron,
        interval=row.interval,
        rrule=row.rrule,
        timezone=row.timezone,
        day_or=row.day_or,
        anchor_date=clock.to_datetime(row.anchor),
        parameters=json.loads(row.parameters),
        catchup=row.catchup,
        catchup_max=row.catchup_max,
        max_late=row.max_late,
        created=clock.to_datetime(row.created_at),
        updated=clock.to_datetime(row.updated_at),
    )
