"""The part of a client that is about deployments, their schedules, work pools, work queues and workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter

from orchestra.client.backend import Backend
from orchestra.client.methods import ID, LIMIT, Id
from orchestra.client.runs import RunMethods
from orchestra.client.schemas.actions import DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate
from orchestra.client.schemas.objects import Deployment, DeploymentSchedule, FlowRun, Worker, WorkPool, WorkQueue
from orchestra.deployment_options import schedule_from
from orchestra.errors import ConfigurationError
from orchestra.names import pool_queue
from orchestra.schedules import Schedule
from orchestra.store.deployments import NewDeployment
from orchestra.work_pools import check_template, type_named

_DEPLOYMENT: TypeAdapter[Deployment] = TypeAdapter(Deployment)
_DEPLOYMENTS: TypeAdapter[list[Deployment]] = TypeAdapter(list[Deployment])
_SCHEDULES: TypeAdapter[list[DeploymentSchedule]] = TypeAdapter(list[DeploymentSchedule])
_POOL: TypeAdapter[WorkPool] = TypeAdapter(WorkPool)
_POOLS: TypeAdapter[list[WorkPool]] = TypeAdapter(list[WorkPool])
_QUEUES: TypeAdapter[list[WorkQueue]] = TypeAdapter(list[WorkQueue])
_WORKERS: TypeAdapter[list[Worker]] = TypeAdapter(list[Worker])


class DeploymentMethods(RunMethods):
    """What `SyncOrchestraClient` can do with deployments and work pools. Deployments go by id, or by `flow/name`."""

    # -- deployments ---------------------------------------------------------------------------------------------

    def create_deployment(
        self,
        /,
        flow_id: Id,
        name: str,
        *,
        entrypoint: str,
        schedules: Sequence[Schedule | Mapping[str, Any]] | None = None,
        **fields: Any,
    ) -> str:
        """Write a deployment of a flow that is known here, in place of one of its name; gives its id.

        The code is not loaded: nothing is checked against it. `flow.deploy()` and `Deployment.apply()` do that.

        Args:
            flow_id: The flow's.
            name: The deployment's.
            entrypoint: `file.py:flow` or `module:flow`, by which workers load it.
            schedules: All that it is to have; None: those that it has.
            fields: `version`, `description`, `tags`, `parameters`, `parameter_schema`, `enforce_parameter_schema`,
                `work_pool_name`, `work_queue_name`, `job_variables`, `concurrency_limit`, `collision_strategy`,
                `paused`.

        Raises:
            FlowNotFound: There is no flow with this id.
            ConfigurationError: A field or schedule cannot be read.
        """
        flow = self.read_flow(flow_id)
        pool, queue = fields.get("work_pool_name"), fields.get("work_queue_name")
        try:
            new = NewDeployment(name, flow.name, entrypoint, "" if pool is None else pool_queue(pool, queue), **fields)
        except TypeError as error:
            raise ConfigurationError(f"create_deployment() was given what no deployment has: {error}") from error
        wanted = None if schedules is None else [schedule_from(each) for each in schedules]
        return self._seen("create_deployment", ID, lambda at: at.keep_deployment(new, wanted))

    def read_deployment(self, deployment_id: Id) -> Deployment:
        """A deployment with its schedules.

        Raises:
            DeploymentNotFound: There is none with this id.
        """
        return self._seen("read_deployment", _DEPLOYMENT, lambda at: at.read_deployment(str(deployment_id)))

    def read_deployment_by_name(self, name: str) -> Deployment:
        """A deployment by `flow/deployment`.

        Raises:
            DeploymentNotFound: There is none of this name.
        """
        return self.read_deployment(name)

    def read_deployments(
        self,
        *,
        flow_names: Iterable[str] = (),
        work_pool_name: str | None = None,
        limit: int = LIMIT,
        after: str | None = None,
    ) -> list[Deployment]:
        """Deployments by the names of their flows, then their own.

        Args:
            flow_names: Only those of these flows.
            work_pool_name: Only those of this pool.
            limit: Most given.
            after: Id, or `flow/name`, of the last one of the page before.

        Raises:
            DeploymentNotFound: `after` is not there.
        """
        wanted: dict[str, Any] = {"flow_names": list(flow_names), "work_pool_name": work_pool_name}
        return self._seen(
            "read_deployments",
            _DEPLOYMENTS,
            lambda at: at.list_deployments(limit=limit, after=after, **wanted).items,
        )

    def update_deployment(self, deployment_id: Id, deployment: DeploymentUpdate) -> None:
        """Change a deployment; what is not set stays. Runs that are written already are not touched.

        Raises:
            DeploymentNotFound: There is none with this id.
            ParameterTypeError: The parameters do not fit its schema.
        """
        changes = deployment.model_dump(exclude_unset=True)
        self._act("update_deployment", lambda at: at.change_deployment(str(deployment_id), **changes))

    def delete_deployment(self, deployment_id: Id) -> None:
        """Delete a deployment with its schedules; its runs stay.

        Raises:
            DeploymentNotFound: There is none with this id.
        """
        self._act("delete_deployment", lambda at: at.delete_deployment(str(deployment_id)))

    def pause_deployment(self, deployment_id: Id) -> None:
        """Let none of its schedules fire. Safe to repeat.

        Raises:
            DeploymentNotFound: There is none with this id.
        """
        self._act("pause_deployment", lambda at: at.set_paused(str(deployment_id), True))

    def resume_deployment(self, deployment_id: Id) -> None:
        """Let its schedules fire again, from now on. Safe to repeat.

        Raises:
            DeploymentNotFound: There is none with this id.
        """
        self._act("resume_deployment", lambda at: at.set_paused(str(deployment_id), False))

    def create_flow_run_from_deployment(
        self,
        deployment_id: Id,
        *,
        parameters: Mapping[str, Any] | None = None,
        name: str | None = None,
        tags: Iterable[str] = (),
        idempotency_key: str | None = None,
        scheduled_time: datetime | None = None,
        work_queue_name: str | None = None,
        job_variables: Mapping[str, Any] | None = None,
    ) -> FlowRun:
        """Start a run of a deployment, without waiting for it. The arguments are those of `run_deployment`.

        Raises:
            DeploymentNotFound: There is none with this id.
            NoBroker: There is nothing to send it through.
            ParameterTypeError: The parameters do not fit the deployment's schema.
            IdempotencyConflict: The key was used with other parameters.
        """
        run_id = self._started(
            str(deployment_id),
            parameters or {},
            scheduled_time=scheduled_time,
            flow_run_name=name,
            tags=tags,
            idempotency_key=idempotency_key,
            work_queue_name=work_queue_name,
            as_subflow=False,
            job_variables=job_variables,
        )
        return self.read_flow_run(run_id)

    # -- schedules -----------------------------------------------------------------------------------------------

    def read_deployment_schedules(self, deployment_id: Id) -> list[DeploymentSchedule]:
        """The schedules of a deployment.

        Raises:
            DeploymentNotFound: There is none with this id.
        """
        return self._seen("read_schedules", _SCHEDULES, lambda at: at.read_deployment(str(deployment_id)).schedules)

    def create_deployment_schedules(
        self, deployment_id: Id, schedules: Iterable[Schedule | Mapping[str, Any] | tuple[Schedule, bool]]
    ) -> list[DeploymentSchedule]:
        """Give a deployment more schedules; gives them.

        Args:
            deployment_id: The deployment's.
            schedules: Each as `Cron(…)` and the like make it, as a mapping of its fields, or with whether it is active.

        Raises:
            DeploymentNotFound: There is none with this id.
            AlreadyThere: It has a schedule with this slug.
            ConfigurationError: One cannot be read.
        """
        wanted = [_schedule(each) for each in schedules]

        def look(at: Backend) -> list[Any]:
            made = [at.add_schedule(str(deployment_id), each) for each in wanted]
            return [each for each in at.read_deployment(str(deployment_id)).schedules if each.id in made]

        return self._seen("create_schedules", _SCHEDULES, look)

    def update_deployment_schedule(self, deployment_id: Id, schedule_id: Id, active: bool) -> None:
        """Let a schedule fire, or not. For another rule delete it and make one.

        Args:
            deployment_id: The deployment's.
            schedule_id: Its id, or slug.
            active: Whether it fires.

        Raises:
            DeploymentNotFound: There is no such deployment.
            ScheduleNotFound: It has no such schedule.
        """
        place = str(deployment_id), str(schedule_id), active
        self._act("update_schedule", lambda at: at.set_schedule_active(*place))

    def delete_deployment_schedule(self, deployment_id: Id, schedule_id: Id) -> None:
        """Delete a schedule of a deployment, by its id or slug.

        Raises:
            DeploymentNotFound: There is no such deployment.
            ScheduleNotFound: It has no such schedule.
        """
        self._act("delete_schedule", lambda at: at.delete_schedule(str(deployment_id), str(schedule_id)))

    # -- work pools ----------------------------------------------------------------------------------------------

    def create_work_pool(self, work_pool: WorkPoolCreate) -> WorkPool:
        """Make a work pool with its default queue.

        Raises:
            AlreadyThere: There is one of this name.
            ConfigurationError: Its name, type or template cannot be.
        """
        template = work_pool.base_job_template
        if template is None:
            template = type_named(work_pool.type).base_job_template()
        else:
            type_named(work_pool.type)
            check_template(template)
        values: dict[str, Any] = {
            "description": work_pool.description,
            "paused": work_pool.is_paused,
            "concurrency_limit": work_pool.concurrency_limit,
            "base_job_template": template,
        }
        return self._seen(
            "create_work_pool", _POOL, lambda at: at.create_pool(work_pool.name, work_pool.type, **values)
        )

    def read_work_pool(self, work_pool_name: str) -> WorkPool:
        """A work pool.

        Raises:
            WorkPoolNotFound: There is none of this name.
        """
        return self._seen("read_work_pool", _POOL, lambda at: at.read_pool(work_pool_name))

    def read_work_pools(self, *, limit: int = LIMIT, after: str | None = None) -> list[WorkPool]:
        """Work pools by name.

        Args:
            limit: Most given.
            after: Name of the last one of the page before.
        """
        return self._seen("read_work_pools", _POOLS, lambda at: at.list_pools(limit=limit, after=after).items)

    def update_work_pool(self, work_pool_name: str, work_pool: WorkPoolUpdate) -> None:
        """Change a work pool; what is not set stays.

        Raises:
            WorkPoolNotFound: There is none of this name.
            ConfigurationError: Its template cannot be.
        """
        changes = work_pool.model_dump(exclude_unset=True)
        if "is_paused" in changes:
            changes["paused"] = changes.pop("is_paused")
        if "base_job_template" in changes:
            check_template(changes["base_job_template"])
        self._act("update_work_pool", lambda at: at.change_pool(work_pool_name, **changes))

    def delete_work_pool(self, work_pool_name: str) -> None:
        """Delete a work pool and its queues; its deployments stay, NOT_READY.

        Raises:
            WorkPoolNotFound: There is none of this name.
        """
        self._act("delete_work_pool", lambda at: at.delete_pool(work_pool_name))

    def read_work_queues(self, work_pool_name: str | None = None) -> list[WorkQueue]:
        """The queues of a work pool, or of all, in the order in which they are served.

        Raises:
            WorkPoolNotFound: There is no such pool.
        """
        return self._seen("read_work_queues", _QUEUES, lambda at: at.list_queues(work_pool_name))

    def read_workers_for_work_pool(self, work_pool_name: str) -> list[Worker]:
        """The live workers that consume a queue of a work pool, by name.

        Raises:
            WorkPoolNotFound: There is no such pool.
        """

        def look(at: Backend) -> list[Any]:
            at.read_pool(work_pool_name)
            found = at.list_workers(limit=LIMIT, after=None, pool=work_pool_name).items
            return [each for each in found if each.status == "ONLINE"]

        return self._seen("read_workers", _WORKERS, look)


def _schedule(given: Schedule | Mapping[str, Any] | tuple[Schedule, bool]) -> Schedule:
    if isinstance(given, tuple):
        schedule, active = given
        return replace(schedule_from(schedule), active=active)
    return schedule_from(given)
