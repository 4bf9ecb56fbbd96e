"""What runs say."""

from __future__ import annotations

import pytest

from orchestra import flow, get_run_logger, task


def test_runs_have_a_logger(caplog: pytest.LogCaptureFixture) -> None:
    """`get_run_logger()` in a flow or task; each line knows its run."""

    @task
    def step() -> None:
        get_run_logger().warning("in the task")

    @flow
    def work() -> None:
        get_run_logger().info("in the flow")
        step()

    with caplog.at_level("INFO"):
        work()

    lines = {record.getMessage(): record for record in caplog.records}
    assert lines["in the flow"].__dict__["flow_run_id"] == lines["in the task"].__dict__["flow_run_id"]
    assert lines["in the task"].__dict__["task_run_name"] == "step-0"


def test_prints_become_log_lines(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """`log_prints=True` on a flow holds for its tasks too, unless they say otherwise."""

    @task
    def step() -> None:
        print("from the task")

    @task(log_prints=False)
    def loud() -> None:
        print("to the console")

    @flow(log_prints=True)
    def work() -> None:
        print("from the flow")
        step()
        loud()

    with caplog.at_level("INFO"):
        work()

    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if line.startswith("from")] == ["from the flow", "from the task"]
    assert capsys.readouterr().out == "to the console\n"
