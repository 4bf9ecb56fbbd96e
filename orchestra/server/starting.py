"""Starting runs from the server, which imports no code of users: what a deployment, or another run, keeps is enough."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from orchestra.engine import deployed
from orchestra.errors import IllegalTransition
from orchestra.names import run_name
from orchestra.results import check_parameters
from orchestra.serializers import encode
from orchestra.server.announcing import carrier
from orchestra.store import runs
from orchestra.store.database import Database
from orchestra.store.deployments import Deployment


def start(
    database: Database,
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
    new = deployed.new_run(database, deployment, parameters, name=name, tags=tags, scheduled_time=due)
    return _create(database, new)


def again(database: Database, flow_run_id: str, parameters: Mapping[str, Any]) -> str:
    """Start a run of the same flow as another one, on the same queue; gives its id.

    Whether the parameters fit is told by the worker, which has the flow.

    Args:
        parameters: All of them, as JSON has them.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It ran in a process of its own, which is not here.
        NoBroker: The server knows no broker.
    """
    row = runs.read(database, flow_run_id)
    if row["runner"] == "local":
        raise IllegalTransition(flow_run_id, row["state_name"], "run again on a worker: it was called in a process")
    what = f"the set of parameters of a run of {row['flow_name']!r}"
    same = "flow_name path entrypoint options queue priority version timeout_seconds has_hooks".split()
    new = runs.NewRun(
        **{name: row[name] for name in same},
        name=run_name(),
        parameters=check_parameters(encode(dict(parameters), what=what), what=what),
        tags=json.loads(row["tags"]),
    )
    return _create(database, new)


def _create(database: Database, new: runs.NewRun) -> str:
    """Write a run and tell workers; a crash between the two leaves it to their sweeper."""
    carrying = carrier()
    if not new.queue:
        routed, priority = carrying.route(new.path)
        new.queue = routed or carrying.default_queue
        new.priority = priority if new.priority is None else new.priority
    carrying.check_queue(new.queue)
    created = runs.create(database, new)
    carrying.announce(created.announcements)
    return str(created.row["id"])
