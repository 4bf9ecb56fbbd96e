"""Starting a run as another one was: what that one keeps is enough, and no code of users is imported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestra.celery import submit
from orchestra.errors import IllegalTransition
from orchestra.names import run_name
from orchestra.results import check_parameters
from orchestra.serializers import encode
from orchestra.server.announcing import carrier
from orchestra.store import runs
from orchestra.store.database import Database


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
    carrying = carrier()
    carrying.check_queue(new.queue)
    return submit.write(new, carrying)
