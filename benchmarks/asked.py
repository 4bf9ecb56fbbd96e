"""What people and programs ask of the server: every page and every list, with the filters that matter, and searches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from benchmarks.history import WIDE, Size, number_id, wide_step


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: a GET, or the POST of a search."""

    path: str
    body: dict[str, Any] | None = None

    def __str__(self) -> str:
        return self.path if self.body is None else f"{self.path} {json.dumps(self.body)}"

    @property
    def address(self) -> str:
        """As a client sends it."""
        return quote(self.path, safe="/?&=:@*%.,")


_PAGES = """
/
/?range=15m
/?range=7d
/?range=30d
/runs
/runs?after={deep}
/runs?state=FAILED
/runs?state=COMPLETED
/runs?state=FAILED&after={deep}
/runs?state=FAILED&state=CRASHED&by=end&range=24h
/runs?state=FAILED&flow=flow-7
/runs?state=PAUSED&flow=flow-7&text=otter
/runs?flow=flow-7&after={deep}
/runs?deployment={deployment}
/runs?deployment={deployment}&state=FAILED
/runs?text=nothing-like-it
/runs?text=otter-99
/runs?text={run}
/runs?tags=nightly&state=FAILED
/runs?tags=rare
/runs?tags=none
/runs?top=1&range=7d
/runs?parent={run}
/runs?state=Late
/runs?state=TimedOut
/runs?range=30d&by=end
/runs/acts?act=cancel&state=FAILED
/runs/acts?act=delete&text=nothing-like-it
/flows
/workers
/workers/w7@host-7
/work-pools
/work-pools/pool-7
/deployments
/deployments?flow=flow-7
/deployments/{deployment}
/deployments/{deployment}/run
/limits
/limits?name=limit-7
/artifacts
/artifacts?type=table
/artifacts?key=report-8
/artifacts?key=report-8&type=table
/artifacts?run={run}
/artifacts/{artifact}
/events
/events?range=24h
/events?event=shop.order.refused
/events?event=orchestra.flow-run.Failed
/events?event=orchestra.task-run.*
/events?event=none
/events?resource=shop.order.7
/events?resource=shop.*
/events?run={run}
/events?resource=orchestra.flow-run.{run}
/events?resource=orchestra.task-run.{step}
/runs/{run}
/runs/{run}/again
/runs/{wide}
/runs/{wide}/parts/head
/runs/{wide}/parts/timeline
/runs/{wide}/parts/steps
/runs/{wide}/parts/logs
/runs/{wide}/parts/result
/runs/{wide}/parts/artifacts
/runs/{wide}/parts/events
/runs/{wide}/parts/history
/runs/{wide}/parts/steps?after={late_task}
/runs/{wide}/parts/steps?step_text=work-9999
/runs/{wide}/parts/steps?step_state=FAILED
/runs/{wide}/parts/steps?task=etl:work_3
/runs/{wide}/parts/logs?level=40&log_text=nothing
/runs/{wide}/parts/logs?log_text=line 9
/runs/{wide}/graph.json
/task-runs/{step}
/task-runs/{early_task}
/task-runs/{late_task}
/metrics
/ready
/health
"""

_LISTS = """
/flows
/flows?after=flow-3
/flows/name/flow-3
/flows/flow-3
/flow_runs
/flow_runs?limit=200
/flow_runs?after={deep}
/flow_runs?flow_name=flow-7
/flow_runs?state_type=FAILED
/flow_runs?state_type=PAUSED&flow_name=flow-7
/flow_runs?state_type=CANCELLING&flow_name=flow-7
/flow_runs?state_type=FAILED&flow_name=flow-7&after={deep}
/flow_runs?state_name=Late
/flow_runs?state_name=Odd
/flow_runs?state_name=TimedOut
/flow_runs?tag=rare
/flow_runs?tag=none
/flow_runs?tag=nightly&state_type=CRASHED
/flow_runs?parent_flow_run_id={run}
/flow_runs?deployment_id={deployment}
/flow_runs?deployment_id={deployment}&state_type=CRASHED
/flow_runs/{run}
/flow_runs/{run}/state
/flow_runs/{run}/states
/flow_runs/{run}/steps
/flow_runs/{run}/graph
/flow_runs/{run}/task_runs
/flow_runs/{run}/logs
/flow_runs/{wide}
/flow_runs/{wide}/steps
/flow_runs/{wide}/task_runs
/flow_runs/{wide}/task_runs?after={late_task}
/flow_runs/{wide}/logs
/flow_runs/{wide}/logs?tail=true
/flow_runs/{wide}/logs?level=40
/flow_runs/{wide}/logs?task_run_id={early_task}
/task_runs
/task_runs?limit=200
/task_runs?after={step}
/task_runs?state_type=FAILED
/task_runs?state_type=CRASHED
/task_runs?state_type=RUNNING
/task_runs?state_name=Cached
/task_runs?state_name=Odd
/task_runs?tag=nightly
/task_runs?tag=none
/task_runs?every_kind=true
/task_runs?flow_run_id={run}
/task_runs?flow_run_id={wide}&state_type=FAILED
/task_runs/{step}
/task_runs/{step}/logs
/task_runs/{early_task}/logs?tail=true
/deployments
/deployments?flow_name=flow-7
/deployments?work_pool_name=pool-7
/deployments/name/flow-7/nightly-7
/deployments/{deployment}
/deployments/{deployment}/upcoming
/deployments/{deployment}/schedules
/work_pools
/work_pools/pool-7
/work_pools/pool-7/slots
/work_pools/pool-7/waiting
/work_pools/pool-7/queues
/work_pools/pool-7/queues/fast
/work_queues
/work_queues?work_pool_name=pool-7
/workers
/global_concurrency_limits
/global_concurrency_limits/limit-7
/global_concurrency_limits/limit-7/holders
/cache
/cache?task=work_3
/cache?older_than=600
/transactions
/transactions?flow_run_id={run}
/transactions?state=ROLLED_BACK
/transactions?state=ACTIVE
/transactions/{with_transaction}
/artifacts
/artifacts?key=report-8
/artifacts?key=report-8&type=table
/artifacts?type=table
/artifacts?type=none
/artifacts?flow_run_id={run}
/artifacts?task_run_id={step}
/artifacts/latest
/artifacts/latest?type=table
/artifacts/report-8/latest
/variables
/variables/variable_7
/events
/events?limit=200
/events?event=shop.order.refused
/events?event=orchestra.flow-run.*
/events?event=orchestra.task-run.Failed
/events?event=none
/events?resource=shop.order.7
/events?resource=shop.*
/events?flow_run_id={run}
/users
/api-keys
/me
/admin/version
"""


def pages(size: Size) -> Iterator[Ask]:
    """The pages of the admin view, and their parts."""
    return (Ask(line) for line in _PAGES.format_map(_named(size)).split("\n") if line)


def lists(size: Size) -> Iterator[Ask]:
    """The lists and records of the API."""
    return (Ask(f"/api{line}") for line in _LISTS.format_map(_named(size)).split("\n") if line)


def searches(size: Size) -> Iterator[Ask]:
    """Searches by Prefect's filters that an index serves."""
    run, step = number_id("run", size.runs // 2), number_id("step", size.runs)
    lately = {"after_": (datetime.now(UTC) - timedelta(hours=6)).isoformat()}
    for sort in ("CREATED_DESC", "CREATED_ASC", "ID_DESC", "START_TIME_ASC", "START_TIME_DESC", "END_TIME_DESC"):
        yield Ask("/api/flow_runs/filter", {"sort": sort, "limit": 50})
    of_runs: tuple[dict[str, Any], ...] = (
        {"id": {"any_": [run]}},
        {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}},
        {"state": {"name": {"any_": ["Late"]}}},
        {"parent_flow_run_id": {"any_": [run]}},
        {"deployment_id": {"any_": [number_id("deployment", 7)]}},
        {"created": lately},
    )
    for test in of_runs:
        yield Ask("/api/flow_runs/filter", {"flow_runs": test, "limit": 50})
    for test in ({"id": {"any_": [step]}}, {"flow_run_id": {"any_": [run]}}):
        yield Ask("/api/task_runs/filter", {"task_runs": test, "limit": 50})
        yield Ask("/api/task_runs/count", {"task_runs": test})
    for test in ({"flow_run_id": {"any_": [run]}}, {"task_run_id": {"any_": [step]}}, {"timestamp": lately}):
        yield Ask("/api/logs/filter", {"logs": test, "sort": "TIMESTAMP_DESC", "limit": 50})
    yield Ask("/api/logs/filter", {"sort": "TIMESTAMP_DESC", "limit": 50})
    yield Ask("/api/flows/filter", {"sort": "UPDATED_DESC"})


def _named(size: Size) -> dict[str, str]:
    return {
        "run": number_id("run", size.runs // 2),
        "deep": number_id("run", size.runs // 10),
        "with_transaction": number_id("run", size.runs // 2 // 4 * 4),
        "step": number_id("step", size.runs),
        "wide": WIDE,
        "early_task": wide_step(size.tasks // 100),
        "late_task": wide_step(size.tasks * 4 // 5),
        "deployment": number_id("deployment", 7),
        "artifact": number_id("artifact", size.runs // 4),
    }
