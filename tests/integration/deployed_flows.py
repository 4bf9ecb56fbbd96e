"""Flows that are deployed: loaded by their file on workers that were told of none."""

from __future__ import annotations

from orchestra import flow, task
from orchestra.deployments import run_deployment


@task
def double(number: int) -> int:
    """A task."""
    return number * 2


@flow
def doubled(number: int, times: int = 1) -> int:
    """A flow with a task, a submitted one, and a default."""
    return double(number) + double.submit(times).result()


@flow
def above(number: int) -> int:
    """Runs a deployment, as a step."""
    result: int = run_deployment("doubled/nightly", {"number": number}).result()
    return result
