"""Runs of deployments: how one is made of its deployment, and what holds it back on a worker (the slots of
limits, and pauses).

Nothing of the flow's code is loaded where a run is started: the JSON schema that the deployment keeps says what fits.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestra import clock, graph, lazy, names
from orchestra import work_pools as types
from orchestra.engine import sources
from orchestra.errors import (
    CancelledRun,
    ConfigurationError,
    DefinitionNotFound,
    ParameterTypeError,
    SourceUnavailable,
)
from orchestra.results import check_parameters
from orchestra.runners.carrier import Carrier
from orchestra.serializers import clean_text, encode, encode_exception
from orchestra.states import StateType
from orchestra.store import deployments, interventions, journal, precedence, run_slots, runs, work_pools
from orchestra.store.claims import Claim, Claimed
from orchestra.store.database import Database
from orchestra.store.deployments import Deployment
from orchestra.store.journal import Ending
from orchestra.store.runs import NewRun
from orchestra.store.tables import LONGEST_NAME

logger = logging.getLogger("orchestra.engine")


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
        ConfigurationError: The job variables do not fit the work pool.
    """
    if job_variables:
        _check_job(database, deployment, job_variables)
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


def _check_job(database: Database, deployment: Deployment, job_variables: Mapping[str, Any]) -> None:
    where = f"a run of deployment {deployment.full_name!r}"
    found = work_pools.of_deployment(database, deployment.id)
    if found is None:
        raise ConfigurationError(f"{where} is given job variables, and there is no work pool to take them")
    pool, variables = found
    types.check_job(pool.type, pool.base_job_template, variables | dict(job_variables), where)


def fitting(deployment: Deployment, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a run: these over those of the deployment, as JSON holds them.

    Raises:
        ParameterTypeError: They do not fit the deployment's schema; names each misfit.
    """
    try:
        # jsonschema loads where a run is started, and not in the process of each run.
        as_json = lazy.load("input_schema").as_json
        given = {name: as_json(value) for name, value in parameters.items()}
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
    if problems := lazy.load("input_schema").problems(wanted, dict(values)):
        raise ParameterTypeError(f"the parameters of deployment {deployment!r} do not fit: {'; '.join(problems)}")


def check_some(deployment: Deployment, values: Mapping[str, Any]) -> None:
    """Refuse parameters that do not fit the schema of a deployment, where it is to be kept to; others may be missing.

    Raises:
        ParameterTypeError: Names each misfit.
    """
    if deployment.enforce_parameter_schema:
        check(deployment.full_name, deployment.parameter_openapi_schema, values, partial=True)


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


@dataclass(frozen=True, slots=True)
class Job:
    """How a run of a deployment is carried out: the type of its work pool, and the template, filled in for the run."""

    pool: str
    kind: str
    configuration: dict[str, Any]


def job_of(database: Database, row: Mapping[str, Any]) -> Job | None:
    """The job of a run's row, for a subflow that of the run above it; None where it has no work pool."""
    if row["deployment_id"] is None and row["parent_run_id"] is None:
        return None
    found = work_pools.of_run(database, row["id"])
    if found is None:
        return None
    pool, variables = found
    return Job(pool.name, pool.type, types.job_of(pool.base_job_template, variables))


@dataclass(frozen=True, slots=True)
class Admission:
    """What becomes of a claimed run of a deployment."""

    goes_on: bool
    #: The run that is to have the worker slot instead.
    instead: str | None = None


def admit(database: Database, claimed: Claimed, carrier: Carrier) -> Admission:
    """See whether a claimed run of a deployment may go on: its pool is not paused, and there is a slot for it.

    Where it must wait, its claim is given up, and whoever frees a slot, or resumes the pool, lets it go on. One more
    than its deployment's limit allows may be cancelled instead. One that is about to start leaves the worker slot to a
    run of a work queue that is served before its own. What ends now needs no slot.

    Raises:
        ClaimLost: Another claim was made.
    """
    row = claimed.row
    if claimed.claim.cancelled or claimed.over_budget:
        return Admission(True)
    gate = run_slots.gate(database, row)
    if gate.holds or not (gate.limits or gate.paused or gate.is_outranked):
        return Admission(True)
    begun = _has_begun(database, row)
    other = precedence.outranking(database, row, carrier.queues) if gate.is_outranked and not begun else None
    if other is not None and (stepped_back := precedence.step_back(database, claimed.claim)):
        carrier.announce(stepped_back)
        return Admission(False, other)
    if not gate.limits and (begun or not gate.paused):
        return Admission(True)
    return Admission(_has_slot(database, claimed, carrier, begun=begun))


def _has_slot(database: Database, claimed: Claimed, carrier: Carrier, *, begun: bool) -> bool:
    """Ask for a slot of each limit; where there is none, the run waits, or is cancelled."""
    claim, row = claimed.claim, claimed.row
    asked = run_slots.ask(database, claim, row, begun=begun)
    carrier.announce(asked.announcements)
    if asked.refused:
        _cancel(database, claim, row, carrier, asked.reason)
    elif not asked.granted:
        logger.info("flow run %s: %s", claim.run_id, asked.reason)
    return asked.granted


def _has_begun(database: Database, row: Mapping[str, Any]) -> bool:
    """Whether a run's body was called before."""
    if row["streak_parks"] or row["outcome"] is not None or row["run_attempt"] > 1 or row["lapses"]:
        return True
    return row["claim_number"] > 1 and not journal.is_empty(database, row["id"], 1)


def _cancel(database: Database, claim: Claim, row: Mapping[str, Any], carrier: Carrier, reason: str) -> None:
    """End a run as CANCELLED that was not started. Nothing is loaded for that: a worker runs its hooks."""
    data, _ = encode_exception(CancelledRun(reason))
    ending = Ending(StateType.CANCELLED, "Cancelled", reason, data)
    debt = None if row["has_hooks"] is False else interventions.debt_of_cancelled(row, reason)
    logger.warning("flow run %s was %s", claim.run_id, reason)
    carrier.announce(runs.finish(database, claim, ending, [], window=lambda queue: graph.window(0), debt=debt))


def hand_on(database: Database, run_id: str, carrier: Carrier) -> None:
    """Let another run have the slot of one that has ended here, or whose attempt has."""
    carrier.announce(run_slots.leave(database, run_id))


def give_up(database: Database, claimed: Claimed, carrier: Carrier) -> None:
    """Let another run have the slot of a claimed one that cannot be carried on here, before it is given back."""
    if claimed.row["deployment_id"] is not None:
        carrier.announce(run_slots.give_up(database, claimed.claim))
