"""States: types, names, what they carry and tell."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestra import flow, states, task
from orchestra.errors import CancelledRun, CrashedRun, FailedRun, MissingResult, UnfinishedRun
from orchestra.handles import FlowRunHandle
from orchestra.states import NOT_KEPT, State, StateType
from tests.drive import Driver
from tests.semantics.conftest import Run

MAKERS: list[tuple[Any, str, str]] = [
    (states.Scheduled, "SCHEDULED", "Scheduled"),
    (states.Late, "SCHEDULED", "Late"),
    (states.AwaitingRetry, "SCHEDULED", "AwaitingRetry"),
    (states.AwaitingConcurrencySlot, "SCHEDULED", "AwaitingConcurrencySlot"),
    (states.Pending, "PENDING", "Pending"),
    (states.Running, "RUNNING", "Running"),
    (states.Retrying, "RUNNING", "Retrying"),
    (states.Completed, "COMPLETED", "Completed"),
    (states.Failed, "FAILED", "Failed"),
    (states.Crashed, "CRASHED", "Crashed"),
    (states.Cancelling, "CANCELLING", "Cancelling"),
    (states.Cancelled, "CANCELLED", "Cancelled"),
    (states.Paused, "PAUSED", "Paused"),
    (states.Suspended, "PAUSED", "Suspended"),
]


@task
def double(x: int) -> int:
    """Twice."""
    return 2 * x


@task
def fails() -> int:
    """Fails."""
    raise ValueError("broken")


@flow
def reads_sync() -> list[Any]:
    good, bad = double(1, return_state=True), fails(return_state=True)
    return [good.result(), type(bad.result(raise_on_failure=False)).__name__, bad.message]


def by_helper(found: list[State[Any]]) -> list[Any]:
    """A plain function, which awaits nothing."""
    return [state.result() for state in found]


@flow
async def reads_async() -> list[Any]:
    good, bad = double(1, return_state=True), fails(return_state=True)
    first = await good.result()
    several = await asyncio.gather(*(state.result() for state in (good, good)))
    error = await bad.result(raise_on_failure=False)
    try:
        await bad.result()
    except ValueError as raised:
        return [first, several, type(error).__name__, str(raised), by_helper([good])]


@flow(persist_result=True)
def keeps() -> list[int]:
    return [1, 2]


@flow
def keeps_nothing() -> list[int]:
    return [1, 2]


@pytest.mark.parametrize(("make", "type", "name"), MAKERS, ids=[name for _, _, name in MAKERS])
def test_each_kind_of_state_has_a_constructor(make: Any, type: str, name: str) -> None:
    """With its type and its name; the message is the first argument."""
    state = make("why")

    assert (state.type, state.name, state.message) == (type, name, "why")
    assert make(message="why") == state


def test_every_kind_says_what_it_is() -> None:
    """One `is_…` is true of each type; `is_final` of those that have ended."""
    for kind in StateType:
        state = State(kind)
        said = [other for other in StateType if getattr(state, f"is_{other.value.lower()}")()]
        assert said == [kind]
        assert state.is_final() == (kind in ("COMPLETED", "FAILED", "CANCELLED", "CRASHED"))


def test_a_state_may_have_a_name_and_data_of_its_own() -> None:
    """`Completed(message=…, data=…, name=…)`."""
    state = states.Completed(message="nothing to do", data=[1], name="Skipped")

    assert (state.name, state.result(), state.is_completed()) == ("Skipped", [1], True)
    assert state.timestamp.tzinfo is UTC


def test_a_scheduled_state_knows_its_time() -> None:
    """In its details."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)

    assert states.Scheduled(scheduled_time=moment).state_details.scheduled_time == moment


@pytest.mark.parametrize(
    ("make", "error"),
    [(states.Failed, FailedRun), (states.Crashed, CrashedRun), (states.Cancelled, CancelledRun)],
)
def test_the_result_of_what_did_not_complete_is_an_error(make: Any, error: type[Exception]) -> None:
    """Its own exception, or one that says how it ended."""
    with pytest.raises(error, match="why"):
        make("why").result()
    assert isinstance(make("why").result(raise_on_failure=False), error)
    with pytest.raises(KeyError):
        make(data=KeyError("mine")).result()


@pytest.mark.parametrize("make", [states.Pending, states.Running, states.Paused])
def test_what_has_not_ended_has_no_result(make: Any) -> None:
    """The error says in which state it is."""
    with pytest.raises(UnfinishedRun, match=make().name):
        make().result()


def test_results_are_read_in_functions_and_awaited_in_coroutines(run: Run) -> None:
    """Also through `asyncio.gather`; a plain function called from a coroutine gets the value."""
    assert run.value(reads_sync) == [2, "ValueError", "ValueError: broken"]
    assert run.value(reads_async) == [2, [2, 2], "ValueError", "broken", [2]]


def test_a_result_that_was_not_kept_is_missing(driver: Driver) -> None:
    """A run here keeps it with `persist_result=True`; workers always do. Seen from another process."""
    kept, lost = keeps(return_state=True), keeps_nothing(return_state=True)

    assert FlowRunHandle(str(kept.state_details.flow_run_id)).result() == [1, 2]
    with pytest.raises(MissingResult, match="persist_result=True"):
        FlowRunHandle(str(lost.state_details.flow_run_id)).result()
    run_id = driver.submit(keeps_nothing)
    driver.finish(run_id)
    assert FlowRunHandle(run_id).result() == [1, 2]


def test_the_mark_of_a_missing_result_is_no_value() -> None:
    """It raises wherever the result is asked for."""
    with pytest.raises(MissingResult):
        State(StateType.COMPLETED, data=NOT_KEPT).result()
