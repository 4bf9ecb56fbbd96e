"""Start a run of a deployment: what `run_deployment` and the command line share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Unpack

from orchestra.celery import submit
from orchestra.celery.dispatch import carrier
from orchestra.context import flow_run_context, tags_context
from orchestra.deployment_options import RunOptions
from orchestra.engine import deployed
from orchestra.handles import FlowRunHandle
from orchestra.names import pool_queue
from orchestra.runners.carrier import Carrier
from orchestra.store import deployments
from orchestra.store.database import database
from orchestra.store.runs import NewRun
from orchestra.store.tables import LONGEST_KEY, LONGEST_NAME


def start(
    name: str,
    parameters: Mapping[str, Any],
    **options: Unpack[RunOptions],
) -> FlowRunHandle:
    """Write a run of a deployment and announce it once; gives its handle. As `.delay()` otherwise.

    Raises:
        DeploymentNotFound: There is none with this name (`flow/deployment`) or id.
        NoBroker: There is neither an app nor a broker.
        ParameterTypeError: The parameters do not fit the deployment's schema.
        IdempotencyConflict: The key was used with other parameters.
    """
    carrying = carrier()
    return FlowRunHandle(start_through(carrying, name, parameters, **options), carrying)


def start_through(
    carrying: Carrier,
    name: str,
    parameters: Mapping[str, Any],
    *,
    scheduled_time: datetime | None = None,
    flow_run_name: str | None = None,
    tags: Iterable[str] = (),
    idempotency_key: str | None = None,
    work_queue_name: str | None = None,
    as_subflow: bool = True,
    job_variables: Mapping[str, Any] | None = None,
) -> str:
    """As `start`, through a carrier that the caller has; gives the run's id."""
    found = deployments.read(database(), name)
    new = deployed.new_run(
        database(),
        found,
        parameters,
        name=flow_run_name,
        tags={*tags, *tags_context.get()},
        scheduled_time=scheduled_time,
        idempotency_key=idempotency_key,
        job_variables=job_variables,
    )
    if work_queue_name is not None:
        new.queue = pool_queue(found.work_pool_name, work_queue_name) if found.work_pool_name else work_queue_name
    if not new.queue:
        routed, priority = carrying.route(found.entrypoint)
        new.queue = routed or carrying.default_queue
        new.priority = priority if new.priority is None else new.priority
    submit.check_text("work_queue_name", new.queue, LONGEST_NAME)
    submit.check_text("idempotency_key", new.idempotency_key, LONGEST_KEY)
    carrying.check_queue(new.queue)
    if as_subflow:
        _put_below(new)
    return submit.as_step(f"{found.full_name}-run", new, lambda: submit.write(new, carrying))


def _put_below(new: NewRun) -> None:
    """Make it a child of the run whose body, or whose task's body, asks for it: it is cancelled with that."""
    here = flow_run_context.get()
    if here is None:
        return
    new.parent_run_id, new.parent_attempt = here.run_id, here.run_attempt
    new.root_run_id, new.depth = here.root_run_id or here.run_id, here.depth + 1
