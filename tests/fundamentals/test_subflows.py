"""Flows that call flows."""

from __future__ import annotations

import pytest

from orchestra import flow, task
from orchestra.runtime import flow_run


def test_a_flow_in_a_flow_is_a_child_run() -> None:
    """It has an id of its own, and knows its parent and the outermost run."""

    @flow
    def child() -> tuple[str | None, ...]:
        return flow_run.id, flow_run.parent_flow_run_id, flow_run.root_flow_run_id

    @flow
    def parent() -> tuple[tuple[str | None, ...], str | None]:
        return child(), flow_run.id

    (child_id, above, root), parent_id = parent()

    assert above == root == parent_id
    assert child_id != parent_id


def test_a_subflow_takes_futures_as_parameters() -> None:
    """They are waited for, and its parameters validated."""

    @task
    def number() -> str:
        return "20"

    @flow
    def double(value: int) -> int:
        return value * 2

    @flow
    def parent() -> int:
        return double(number.submit())  # type: ignore[arg-type]

    assert parent() == 40


def test_a_failed_subflow_raises_in_its_parent() -> None:
    """Its own exception, or its state where `return_state=True`."""

    @flow
    def child() -> None:
        raise ValueError("in the child")

    @flow
    def parent() -> str | None:
        return child(return_state=True).message

    @flow
    def strict() -> None:
        child()

    assert parent() == "ValueError: in the child"
    with pytest.raises(ValueError, match="in the child"):
        strict()
