"""Runs of deployments: how one is made of its deployment, and what holds it back on a worker.

Nothing of the flow's code is loaded where a run is started: the JSON schema that the deployment keeps says what fits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from orchestra import clock, names
from orchestra.engine import input_schema, sources
from orchestra.errors import ConfigurationError, DefinitionNotFound, ParameterTypeError, SourceUnavailable
from orchestra.results import check_parameters
from orchestra.serializers import clean_text, encode
from orchestra.store import claims, deployments, journal, work_pools
from orchestra.store.claims import Claimed
from orchestra.store.database import Database
from orchestra.store.deployments import Deployment
from orchestra.store.runs import NewRun
from orchestra.store.tables import LONGEST_NAME

#: For how long a run of a paused pool is left alone before it is looked at again, in seconds.
PAUSED_WAIT = 5.0


def new_run(
    database: Database,
    deployment: Deployment,
    parameters: Mapping[str, Any],
    *,
    name: str | None = None,
    tags: Iterable[str] = (),
    scheduled_time: datetime | None = None,
    idempotency_key: str | None = None,
    job_variables: Mapping[str, Any] | None = None,
) -> NewRun:
    """A run of a deployment to be. Its queue is the deployment's; empty where Celery's routes decide.

    Args:
        parameters: Over those of the deployment.
        tags: Beside those of the deployment.
        scheduled_time: When it is due; a naive one is read as UTC. None: at once.
        job_variables: Over those of the deployment.

    Raises:
        ParameterTypeError: The parameters do not fit the deployment's schema.
        SerializationError: The parameters cannot be encoded.
    """
    spec = deployments.spec_row(database, deployment.id)
    what = f"the set of parameters of deployment {deployment.full_name!r}"
    values = fitting(deployment, parameters)
    return NewRun(
        flow_name=deployment.flow_name,
        path=deployment.entrypoint,
        entrypoint=deployment.entrypoint,
        name=clean_text(name)[:LONGEST_NAME] if name else names.run_name(),
        parameters=check_parameters(encode(values, what=what), what=what),
        options=spec.options,
        description=deployment.description,
        queue=deployment.queue,
        priority=spec.priority,
        due_at=None if scheduled_time is None else clock.to_instant(scheduled_time),
        idempotency_key=None if idempotency_key is None else clean_text(idempotency_key),
        tags=sorted({clean_text(tag) for tag in (*deployment.tags, *tags)}),
        version=spec.flow_version,
        timeout_seconds=spec.timeout_seconds,
        has_hooks=spec.has_hooks,
        deployment_id=deployment.id,
        named=bool(name),
        job_variables=json.dumps(dict(job_variables)) if job_variables else None,
    )


def fitting(deployment: Deployment, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a run: these over those of the deployment, as JSON holds them.

    Raises:
        ParameterTypeError: They do not fit the deployment's schema; names each misfit.
    """
    try:
        given = {name: input_schema.as_json(value) for name, value in parameters.items()}
    except ValueError as error:
        raise ParameterTypeError(
            f"a parameter for deployment {deployment.full_name!r} cannot be written as JSON, which is what a run of "
            f"a deployment is given: {error}"
        ) from error
    values = deployment.parameters | given
    if deployment.enforce_parameter_schema:
        check(deployment.full_name, deployment.parameter_openapi_schema, values)
    return values


def check(deployment: str, schema: Mapping[str, Any], values: Mapping[str, Any], *, partial: bool = False) -> None:
    """Refuse parameters that do not fit a deployment's schema.

    Args:
        partial: Others may be given later.

    Raises:
        ParameterTypeError: Names each misfit.
    """
    wanted = {name: each for name, each in schema.items() if not (partial and name == "required")}
    if problems := input_schema.problems(wanted, dict(values)):
        raise ParameterTypeError(f"the parameters of deployment {deployment!r} do not fit: {'; '.join(problems)}")


def entrypoint_here(database: Database, row: Mapping[str, Any]) -> str:
    """By what this process loads a run of a deployment: what its pull steps bring is brought here.

    Raises:
        DefinitionNotFound: It cannot be had here now; says why.
    """
    entrypoint: str = row["entrypoint"]
    found = deployments.find(database, row["deployment_id"])
    if found is None or not found.pull_steps:
        return entrypoint
    try:
        return str(sources.pull(found.pull_steps) / entrypoint)
    except (SourceUnavailable, ConfigurationError) as error:
        raise DefinitionNotFound(entrypoint, str(error)) from error


def hold_back(database: Database, claimed: Claimed) -> bool:
    """Leave a claimed run of a deployment alone for now, if it must not start; one that has begun goes on.

    The place for what else holds runs of deployments back, as their concurrency limits.

    Returns:
        Whether it was given back.
    """
    row = claimed.row
    parked_before = row["streak_parks"] or row["outcome"] is not None
    if row["deployment_id"] is None or parked_before or claimed.claim.cancelled or claimed.over_budget:
        return False
    if row["queue"] not in work_pools.paused_queues(database):
        return False
    if row["run_attempt"] > 1 or journal.load(database, row["id"], 1):
        return False
    reason = f"the work pool or work queue of Celery queue {row['queue']!r} is paused"
    claims.give_back(database, claimed.claim, due_in=PAUSED_WAIT, message=reason, unstarted=True)
    return True
