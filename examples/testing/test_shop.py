"""Tests of the flow, from the quickest to the fullest."""

from __future__ import annotations

import pytest
from shop import checkout, price

from orchestra import disable_run_logger
from orchestra.client.orchestration import SyncOrchestraClient
from orchestra.testing.utilities import orchestra_test_harness


def test_the_function_of_a_task() -> None:
    with disable_run_logger():
        assert price.fn("bread") == 3.5


def test_a_task_by_itself() -> None:
    assert price("milk") == 1.25


def test_a_flow_and_what_it_recorded(orchestra_db: SyncOrchestraClient) -> None:
    assert checkout(["bread", "milk"]) == 4.75

    (run,) = orchestra_db.read_flow_runs()
    assert run.state.is_completed()
    assert [step.name for step in orchestra_db.read_task_runs()] == ["price-1", "price-0"]


def test_a_flow_that_fails(orchestra_db: SyncOrchestraClient) -> None:
    state = checkout(["caviar"], return_state=True)

    assert state.is_failed()
    with pytest.raises(KeyError, match="caviar"):
        state.result()


@pytest.fixture(scope="module")
def one_database_for_all():
    with orchestra_test_harness():
        yield


def test_without_the_plugin(one_database_for_all: None) -> None:
    assert checkout(["milk"]) == 1.25
