"""The REST API: one file per noun, all below `/api`; health and metrics beside it.

Reading takes the scope `read`, every other call at least `run`, and every change passes `acts.perform`, which may ask
for more.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from orchestra.server import problems
from orchestra.server.api import (
    accounts,
    admin,
    artifacts,
    cache,
    deployments,
    events,
    flow_runs,
    flows,
    limits,
    logs,
    task_runs,
    transactions,
    variables,
    work_pools,
    workers,
)
from orchestra.server.api.health import router as health
from orchestra.server.dependencies import acting

__all__ = ["health", "router"]

_PROBLEM = {"content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request cannot be done; the problem says why.", **_PROBLEM},
    "5XX": {"description": "The server or its database cannot do it now.", **_PROBLEM},
}

router = APIRouter(dependencies=[Depends(acting)], responses=_PROBLEMS)
for noun in (
    flows, flow_runs, task_runs, deployments, work_pools, workers, limits, cache, transactions, logs,
    artifacts, variables, events, accounts, admin,
):  # fmt: skip
    router.include_router(noun.router)
