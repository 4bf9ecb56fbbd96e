"""Starting runs of deployments from the server, which imports no code of users: their schema says what fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from orchestra.celery import deployed
from orchestra.store.deployments import Deployment


def start(
    deployment: Deployment,
    parameters: Mapping[str, Any],
    *,
    name: str | None = None,
    tags: Sequence[str] = (),
    due: datetime | None = None,
) -> str:
    """Start a run of a deployment; gives its id.

    Args:
        parameters: Over those of the deployment.
        name: Of the run; None: two random words.
        tags: Beside those of the deployment.
        due: When it is to start; None: now.

    Raises:
        ParameterTypeError: They do not fit the deployment's schema; names each misfit.
        NoBroker: The server knows no broker.
    """
    handle = deployed.start(
        deployment.id, parameters, flow_run_name=name, tags=tags, scheduled_time=due, as_subflow=False
    )
    return handle.id
