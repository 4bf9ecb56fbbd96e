"""Flows with cached tasks, for tests that kill workers."""

from __future__ import annotations

from orchestra import flow, task
from orchestra.cache_policies import INPUTS
from tests.engine.flows import effects


@task(cache_policy=INPUTS)
def double(x: int) -> int:
    """Computed once, for all runs."""
    effects.append(f"double {x}")
    return x * 2


@flow
def direct() -> list[int]:
    """Directly, twice."""
    return [double(1), double(1)]


@flow
def submitted() -> list[int]:
    """By messages, twice at once."""
    return [future.result() for future in [double.submit(1), double.submit(1)]]
