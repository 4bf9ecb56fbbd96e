"""Loggers of runs that need not run here, as hooks have them."""

from __future__ import annotations

import logging
from typing import Any

from orchestra import flow, get_client, task
from orchestra.client.schemas.filters import LogFilter
from orchestra.logging import flow_run_logger, get_logger, task_run_logger
from orchestra.store.behind import behind


def tell(flow: Any, flow_run: Any, state: Any) -> None:
    """A hook of a flow."""
    flow_run_logger(flow_run, flow).info("the flow ended %s", state.name)


def tell_of_task(task: Any, task_run: Any, state: Any) -> None:
    """A hook of a task."""
    task_run_logger(task_run, task).warning("the task ended %s", state.name)


@task(on_completion=[tell_of_task])
def step() -> int:
    """A task."""
    return 1


@flow(on_completion=[tell])
def work() -> int:
    """A flow."""
    return step()


def test_a_hooks_lines_belong_to_its_run(home: object) -> None:
    """Those of a task run also to its flow run."""
    work()
    behind().flush(10)
    with get_client(sync_client=True) as client:
        (run,), (task_run,) = client.read_flow_runs(), client.read_task_runs()
        lines = client.read_logs(LogFilter.model_validate({"flow_run_id": {"any_": [run.id]}}))

    told = {line.message: line.task_run_id for line in lines}
    assert told["the task ended Completed"] == task_run.id
    assert told["the flow ended Completed"] is None


def test_a_logger_of_ones_own_belongs_to_no_run() -> None:
    """It stands below `orchestra`."""
    assert get_logger("shop").name == "orchestra.shop"
    assert get_logger() is logging.getLogger("orchestra")
