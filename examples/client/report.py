"""Ask what flows did, and act on their runs."""

from __future__ import annotations

import asyncio

from orchestra import flow, get_client, tags, task
from orchestra.client.schemas.filters import FlowRunFilter, FlowRunFilterTags, LogFilter
from orchestra.client.schemas.sorting import FlowRunSort


@task
def load(day: int) -> int:
    """Some days cannot be loaded."""
    if day == 2:
        raise ValueError("no data for day 2")
    return day * 100


@flow(log_prints=True)
def nightly(day: int) -> int:
    """One night's work."""
    print(f"loading day {day}")
    return load(day)


def failures() -> list[str]:
    """The names of the days that failed, the oldest first."""
    tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=["report"]), state={"type": {"any_": ["FAILED"]}})
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=tagged, sort=FlowRunSort.CREATED_ASC, limit=50)
        return [f"day {run.parameters['day']}: {run.state.message}" for run in runs]


async def lines(flow_run_id: str) -> list[str]:
    """The log lines of one run."""
    async with get_client() as client:
        logs = await client.read_logs(LogFilter(flow_run_id={"any_": [flow_run_id]}))
        return [line.message for line in logs]


def delete_old(keep: int) -> int:
    """Delete all runs but the newest `keep`; gives how many."""
    with get_client(sync_client=True) as client:
        old = [run for run in client.read_flow_runs(limit=None, offset=keep) if run.state.is_final()]
        for run in old:
            client.delete_flow_run(run.id)
        return len(old)


if __name__ == "__main__":
    with tags("report"):
        for day in (1, 2, 3):
            nightly(day, return_state=True)
    print("\n".join(failures()))
    with get_client(sync_client=True) as client:
        newest = client.read_flow_runs(limit=1)[0]
    print(asyncio.run(lines(newest.id))[1])
    print(f"{delete_old(1)} runs are deleted")
