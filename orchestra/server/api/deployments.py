"""`/api/deployments`: what is to run, with which parameters, where and when; and runs of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field

from orchestra.accounts import Scope
from orchestra.engine import deployed, upcoming
from orchestra.engine import work_pools as acting
from orchestra.engine.upcoming import UpcomingRun
from orchestra.errors import AlreadyThere
from orchestra.names import pool_queue
from orchestra.schedules import Schedule
from orchestra.server import announcing
from orchestra.server.acts import perform
from orchestra.server.api.flow_runs import NewFlowRun, start
from orchestra.server.api.shapes import (
    MOST,
    After,
    Body,
    Deleted,
    FlowRunRead,
    Id,
    IdempotencyKey,
    Limit,
    Name,
    Page,
    Positive,
    Seconds,
    Tags,
    Text,
    Values,
)
from orchestra.server.dependencies import Asker, Db
from orchestra.store import deployments, queries, work_pools
from orchestra.store.database import Database
from orchestra.store.deployments import Deployment, ScheduleRecord

router = APIRouter(prefix="/deployments", tags=["deployments"])

#: A deployment's own name is the last part of `flow/deployment`.
_OwnName = Annotated[Name, Field(pattern=r"^[^\x00-\x1f\x7f/]*$")]


# -- seeing ------------------------------------------------------------------------------------------------------


@router.get("", response_model=Page[Deployment])
def list_deployments(
    db: Db,
    limit: Limit = 50,
    after: After = None,
    flow_name: Annotated[list[Name], Query(description="Only those of these flows.", max_length=20)] = [],  # noqa: B006
    work_pool_name: Annotated[Name | None, Query(description="Only those of this work pool.")] = None,
) -> queries.Page[Deployment]:
    """Deployments by the names of their flows, then their own, with their schedules."""
    return deployments.list_deployments(
        db, limit=limit, after=after, flow_names=flow_name, work_pool_name=work_pool_name
    )


@router.get("/name/{flow_name:path}/{deployment_name}")
def read_deployment_by_name(db: Db, flow_name: Id, deployment_name: Id) -> Deployment:
    """The deployment of this name."""
    return deployments.read(db, f"{flow_name}/{deployment_name}")


@router.get("/{deployment_id}")
def read_deployment(db: Db, deployment_id: Id) -> Deployment:
    """A deployment, with its schedules."""
    return deployments.read(db, deployment_id)


@router.get("/{deployment_id}/upcoming")
def read_upcoming_runs(
    db: Db, deployment_id: Id, limit: Annotated[int, Query(ge=1, le=MOST, description="Most runs given.")] = 20
) -> list[UpcomingRun]:
    """The next runs of the active schedules of a deployment, the first first; none while it is paused."""
    return upcoming.of_deployments([deployments.read(db, deployment_id)], limit, db.now())


# -- running -----------------------------------------------------------------------------------------------------


@router.post("/{deployment_id}/create_flow_run", status_code=201)
def create_flow_run_from_deployment(
    db: Db, who: Asker, deployment_id: Id, key: IdempotencyKey, new: NewFlowRun | None = None
) -> FlowRunRead:
    """Start a run. The parameters are checked against the deployment's schema; no code of the flow is loaded."""
    return start(db, who, deployment_id, new or NewFlowRun(), key)


@router.post("/{deployment_id}/pause")
def pause_deployment(db: Db, who: Asker, deployment_id: Id) -> Deployment:
    """Let none of its schedules fire until it is resumed; runs can still be started by hand."""
    perform(who, "pause", f"deployment {deployment_id}", lambda: deployments.set_paused(db, deployment_id, True))
    return deployments.read(db, deployment_id)


@router.post("/{deployment_id}/resume")
def resume_deployment(db: Db, who: Asker, deployment_id: Id) -> Deployment:
    """Let its active schedules fire again."""
    perform(who, "resume", f"deployment {deployment_id}", lambda: deployments.set_paused(db, deployment_id, False))
    return deployments.read(db, deployment_id)


# -- schedules ---------------------------------------------------------------------------------------------------


class NewSchedule(Body):
    """A schedule to be: one of `cron`, `interval` and `rrule`."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"cron": "0 3 * * *", "timezone": "Europe/Berlin"}]}
    )

    cron: Name | None = Field(default=None, description="As `0 9 * * mon-fri`.")
    interval: Annotated[float, Field(ge=1, lt=1e10)] | None = Field(default=None, description="In seconds.")
    rrule: Text | None = Field(default=None, description="As `FREQ=WEEKLY;BYDAY=MO`.")
    timezone: Name | None = Field(default=None, description="An IANA name, as Europe/Berlin; null: UTC.")
    anchor_date: datetime | None = Field(default=None, description="When an interval begins.")
    day_or: bool = Field(default=True, description="Of a day of the month and a weekday: either, or both.")
    active: bool = True
    parameters: Values = Field(default_factory=dict, description="Over those of the deployment.")
    slug: Name | None = Field(default=None, description="A name that is its own within the deployment.")
    catchup: Literal["latest", "none", "all"] = Field(
        default="latest", description="Which missed times are made up for."
    )
    catchup_max: Positive | None = Field(default=None, description="Most missed times that are made up for.")
    max_late: Seconds | None = Field(default=None, description="A time missed by more than that is not made up for.")

    def rule(self) -> Schedule:
        """As a value.

        Raises:
            ConfigurationError: It cannot be read.
        """
        values = self.model_dump(exclude={"interval"})
        return Schedule(**values, interval=None if self.interval is None else timedelta(seconds=self.interval))


class ScheduleChange(Body):
    """What to change of a schedule."""

    active: bool


@router.get("/{deployment_id}/schedules")
def list_schedules(db: Db, deployment_id: Id) -> list[ScheduleRecord]:
    """The schedules of a deployment."""
    return list(deployments.read(db, deployment_id).schedules)


@router.post("/{deployment_id}/schedules", status_code=201)
def create_schedule(
    db: Db,
    who: Asker,
    deployment_id: Id,
    new: NewSchedule,
    replace: Annotated[bool, Query(description="In the place of all that there are.")] = False,
) -> ScheduleRecord:
    """Give a deployment one more schedule."""
    found = deployments.read(db, deployment_id)
    deployed.check_some(found, new.parameters)
    rule = new.rule()

    def act() -> str:
        return deployments.add_schedule(db, found.id, rule, replace=replace)

    schedule_id = perform(who, "add a schedule to", f"deployment {deployment_id}", act)
    return next(each for each in deployments.read(db, found.id).schedules if each.id == schedule_id)


@router.patch("/{deployment_id}/schedules/{schedule}", status_code=204)
def update_schedule(db: Db, who: Asker, deployment_id: Id, schedule: Id, change: ScheduleChange) -> None:
    """Pause or resume one schedule, by its id or slug."""

    def act() -> None:
        deployments.set_active(db, deployment_id, schedule, change.active)

    verb = "resume" if change.active else "pause"
    perform(who, verb, f"schedule {schedule} of deployment {deployment_id}", act)


@router.delete("/{deployment_id}/schedules/{schedule}", status_code=204)
def delete_schedule(db: Db, who: Asker, deployment_id: Id, schedule: Id) -> None:
    """Delete one schedule, by its id or slug."""

    def act() -> None:
        deployments.delete_schedule(db, deployment_id, schedule)

    perform(who, "delete", f"schedule {schedule} of deployment {deployment_id}", act)


@router.delete("/{deployment_id}/schedules")
def clear_schedules(db: Db, who: Asker, deployment_id: Id) -> Deleted:
    """Delete all schedules of a deployment."""
    what = f"all schedules of deployment {deployment_id}"
    return Deleted(deleted=perform(who, "delete", what, lambda: deployments.clear_schedules(db, deployment_id)))


# -- writing -----------------------------------------------------------------------------------------------------


class DeploymentChange(Body):
    """What to change of a deployment; what is not named stays."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"parameters": {"limit": 20}}]})

    description: Text | None = None
    version: Name | None = None
    tags: Tags | None = None
    parameters: Values | None = None
    enforce_parameter_schema: bool | None = None
    work_queue_name: Name | None = None
    job_variables: Values | None = None
    concurrency_limit: Positive | None = Field(default=None, description="Null takes it away.")
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"] | None = None
    paused: bool | None = None

    def changes(self) -> dict[str, Any]:
        """The columns that are named; only a limit and a version may be null."""
        given = self.model_dump(exclude_unset=True, exclude={"paused"})
        return {name: value for name, value in given.items() if value is not None or name in _NULLABLE}


_NULLABLE = frozenset({"concurrency_limit", "version", "work_queue_name"})


class NewDeployment(Body):
    """A deployment to be. A worker loads its flow by the entrypoint; `orchestra deploy` reads more of the code."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "nightly",
                    "flow_name": "etl",
                    "entrypoint": "etl:pipeline",
                    "work_pool_name": "etl",
                    "parameters": {"limit": 10},
                    "schedules": [{"cron": "0 3 * * *"}],
                }
            ]
        },
    )

    name: _OwnName
    flow_name: Name
    entrypoint: Annotated[str, Field(max_length=1024, pattern=r"^[^\x00-\x1f\x7f]+:[^\x00-\x1f\x7f:]+$")] = Field(
        description="`module:flow`, or `file.py:flow`."
    )
    description: Text = ""
    version: Name | None = None
    tags: Tags = Field(default_factory=list)
    parameters: Values = Field(default_factory=dict)
    parameter_openapi_schema: Values = Field(default_factory=dict, description="What parameters must fit.")
    enforce_parameter_schema: bool = True
    work_pool_name: Name | None = None
    work_queue_name: Name | None = None
    job_variables: Values = Field(default_factory=dict)
    concurrency_limit: Positive | None = None
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"] = "ENQUEUE"
    paused: bool | None = Field(default=None, description="Null: as it is; a new one is not paused.")
    schedules: Annotated[list[NewSchedule], Field(max_length=100)] | None = Field(
        default=None, description="All that it is to have; null: those that it has."
    )


@router.post("", status_code=201)
def create_deployment(db: Db, who: Asker, new: NewDeployment) -> Deployment:
    """Write a deployment of a flow down. One of its name is not changed by it."""
    full_name, keep = f"{new.flow_name}/{new.name}", _keeping(db, new)

    def act() -> str:
        if deployments.find(db, full_name) is not None:
            raise AlreadyThere("deployment", full_name, "change it by PATCH, or take another name")
        return keep()

    return deployments.read(db, perform(who, "create", f"deployment {full_name}", act, needs=Scope.ADMIN))


@router.put("")
def keep_deployment(db: Db, who: Asker, new: NewDeployment) -> Deployment:
    """Write a deployment of a flow down, in place of one of its name, which keeps its id."""
    what, keep = f"deployment {new.flow_name}/{new.name}", _keeping(db, new)
    return deployments.read(db, perform(who, "write", what, keep, needs=Scope.ADMIN))


def _keeping(db: Database, new: NewDeployment) -> Callable[[], str]:
    """What writes it, once it is known to be right; gives its id."""
    rules = None if new.schedules is None else [each.rule() for each in new.schedules]
    given = new.model_dump(exclude={"schedules", "parameter_openapi_schema"})
    row = deployments.NewDeployment(
        **given,
        parameter_schema=new.parameter_openapi_schema,
        queue=_queue(db, new.work_pool_name, new.work_queue_name),
    )
    if new.enforce_parameter_schema:
        name = f"{new.flow_name}/{new.name}"
        deployed.check(name, new.parameter_openapi_schema, new.parameters, partial=True)
    return lambda: acting.keep_deployment(db, row, rules, announcing.announce)


@router.patch("/{deployment_id}")
def update_deployment(db: Db, who: Asker, deployment_id: Id, change: DeploymentChange) -> Deployment:
    """Change a deployment; runs that are written already stay as they are."""
    found = deployments.read(db, deployment_id)
    changes = change.changes()
    if "parameters" in changes and changes.get("enforce_parameter_schema", True):
        deployed.check_some(found, changes["parameters"])
    if changes.get("work_queue_name") is not None and found.work_pool_name is not None:
        work_pools.read_queue(db, found.work_pool_name, changes["work_queue_name"])

    def act() -> None:
        if changes:
            acting.change_deployment(db, found.id, announcing.announce, **changes)
        if change.paused is not None:
            deployments.set_paused(db, found.id, change.paused)

    perform(who, "change", f"deployment {deployment_id}", act, needs=Scope.ADMIN)
    return deployments.read(db, found.id)


@router.delete("/{deployment_id}", status_code=204)
def delete_deployment(db: Db, who: Asker, deployment_id: Id) -> None:
    """Delete a deployment and its schedules; its runs stay."""

    def act() -> None:
        acting.delete_deployment(db, deployment_id, announcing.announce)

    perform(who, "delete", f"deployment {deployment_id}", act, needs=Scope.ADMIN)


def _queue(db: Database, pool: str | None, queue: str | None) -> str:
    """The Celery queue of a deployment's runs; empty: as Celery routes its flow."""
    if pool is None:
        return queue or ""
    if queue is not None:
        work_pools.read_queue(db, pool, queue)
    return pool_queue(pool, queue)
