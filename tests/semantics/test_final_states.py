"""What a flow's body gives is how its run ends: the five rules."""

from __future__ import annotations

from typing import Any

import pytest

from orchestra import State, flow, task
from orchestra.errors import CancelledRun
from orchestra.states import Cancelled, Completed, Failed, Paused, Pending
from tests.semantics.conftest import Run


@task
def halve(x: int) -> int:
    """Fails for odd numbers."""
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x // 2


@task
def says(state: Any) -> Any:
    """Returns what it is given: a state, if made here."""
    return Failed("not today") if state == "failed" else Completed("fine", data=3, name="Skipped")


@flow
def raises() -> None:
    raise KeyError("mine")


@flow
def returns_failed() -> State[Any]:
    return Failed("not enough rows", name="Short")


@flow
def returns_completed() -> State[Any]:
    return Completed("nothing to do", name="Skipped", data=[1])


@flow
def returns_cancelled() -> State[Any]:
    return Cancelled("changed my mind")


@flow
def returns_open(how: str) -> Any:
    """What is not final, alone and among others."""
    return {"paused": Paused(), "pending": Pending(), "one of two": [Completed(), Paused()]}[how]


@flow
def returns_future(x: int) -> Any:
    return halve.submit(x)


@flow
def returns_state_of_call(x: int) -> Any:
    return halve(x, return_state=True)


@flow
def returns_many(kind: str, numbers: list[int]) -> Any:
    futures = [halve.submit(x) for x in numbers]
    return {"list": list, "tuple": tuple, "set": set}[kind](futures)


@flow
def returns_mixed() -> Any:
    return [halve.submit(2), halve(4, return_state=True), Completed(data=9)]


@flow
def returns_one_cancelled() -> Any:
    return [halve.submit(2), Cancelled("no"), Failed("no")]


@flow
def returns_map(numbers: list[int]) -> Any:
    return halve.map(numbers)


@flow
def returns_dict(x: int) -> Any:
    return {"half": halve.submit(x), "rest": [halve.submit(2)]}


@flow
def ignores() -> str:
    halve.submit(1)
    return "fine"


@flow
def child_states() -> Any:
    return [raises(return_state=True), returns_completed(return_state=True)]


@flow
def tasks_say() -> list[str]:
    first, second = says("failed", return_state=True), says.submit("ok")
    second.wait()
    return [first.name, str(first.message), second.state.name, str(second.state.message), second.result()]


def test_an_exception_fails_the_run(run: Run) -> None:
    """With the exception itself as its data."""
    state = run(raises)

    assert (state.type, state.name, state.message) == ("FAILED", "Failed", "KeyError: 'mine'")
    with pytest.raises(KeyError, match="mine"):
        state.result()


@pytest.mark.parametrize(
    ("body", "type", "name", "message"),
    [
        (returns_failed, "FAILED", "Short", "not enough rows"),
        (returns_completed, "COMPLETED", "Skipped", "nothing to do"),
        (returns_cancelled, "CANCELLED", "Cancelled", "changed my mind"),
    ],
)
def test_a_returned_state_is_the_runs_own(run: Run, body: Any, type: str, name: str, message: str) -> None:
    """Type, name and message are kept."""
    state = run(body)

    assert (state.type, state.name, state.message) == (type, name, message)


def test_a_returned_states_data_is_the_value(run: Run) -> None:
    """Of a completed one."""
    assert run.value(returns_completed) == [1]
    with pytest.raises(CancelledRun, match="changed my mind"):
        run.value(returns_cancelled)


@pytest.mark.parametrize(
    ("how", "name"), [("paused", "Paused"), ("pending", "Pending"), ("one of two", "Paused")], ids=str
)
def test_a_returned_state_must_be_final(run: Run, how: str, name: str) -> None:
    """A run whose body has ended waits for nothing; the message says what came."""
    state = run(returns_open, how=how)

    assert (state.type, state.message) == ("FAILED", f"the body returned what is not final: {name}")


@pytest.mark.parametrize("body", [returns_future, returns_state_of_call])
def test_a_returned_future_or_state_of_a_task_decides(run: Run, body: Any) -> None:
    """Its value is the flow's, and so is its failure."""
    assert run.value(body, x=4) == 2
    assert run(body, x=3).is_failed()
    with pytest.raises(ValueError, match="3 is odd"):
        run.value(body, x=3)


@pytest.mark.parametrize(("kind", "values"), [("list", [1, 2]), ("tuple", (1, 2)), ("set", {1, 2})])
def test_collections_of_futures_are_taken_together(run: Run, kind: str, values: Any) -> None:
    """All completed: their values, in the same kind of collection. Else failed, and counted."""
    assert run.value(returns_many, kind=kind, numbers=[2, 4]) == values
    state = run(returns_many, kind=kind, numbers=[2, 3])
    assert (state.type, state.message) == ("FAILED", "1/2 states failed.")


def test_futures_and_states_may_be_mixed(run: Run) -> None:
    """Each counts alike."""
    assert run.value(returns_mixed) == [1, 2, 9]
    assert run(child_states).message == "1/2 states failed."


def test_one_cancelled_among_them_cancels(run: Run) -> None:
    """Also beside failed ones."""
    assert run(returns_one_cancelled).type == "CANCELLED"


def test_a_returned_map_is_a_list_of_futures(run: Run) -> None:
    """It needs no `.result()`."""
    assert run.value(returns_map, numbers=[2, 4]) == [1, 2]
    assert run(returns_map, numbers=[1, 3]).message == "2/2 states failed."


def test_failed_futures_deeper_in_are_not_looked_at(run: Run) -> None:
    """The run completes; the failure stands there as an exception."""
    assert run.value(returns_dict, x=4) == {"half": 2, "rest": [1]}
    state = run(returns_dict, x=3)
    assert state.is_completed()
    assert isinstance(state.result()["half"], ValueError)


def test_a_failed_task_that_nobody_asks_for_fails_nothing(run: Run) -> None:
    """The run completes with its value."""
    assert run.value(ignores) == "fine"


def test_tasks_may_return_states_too(run: Run) -> None:
    """With their names, messages and data."""
    assert run.value(tasks_say) == ["Failed", "not today", "Skipped", "fine", 3]
