"""States as data: which may follow which, what each gives as its result."""

from __future__ import annotations

import pickle

import pytest

from orchestra import errors, states
from orchestra.states import FINAL, State, StateType, aggregate, describe, from_exception, may_follow

#: Rows may be followed by the columns marked x; the order of both is that of `StateType`.
ALLOWED = """
            SCHEDULED PENDING RUNNING COMPLETED FAILED CANCELLED CANCELLING CRASHED PAUSED
SCHEDULED       x        x       x        x       x        x         x         x      x
PENDING         x        x       x        x       x        x         x         x      x
RUNNING         x        x       x        x       x        x         x         x      x
COMPLETED       x        .       .        .       .        .         .         .      .
FAILED          x        .       .        .       .        .         .         .      .
CANCELLED       x        .       .        .       .        .         .         .      .
CANCELLING      .        .       .        x       x        x         .         x      .
CRASHED         x        .       .        .       .        .         .         .      .
PAUSED          x        x       x        x       x        x         x         x      x
"""
HEADER, *ROWS = (line.split() for line in ALLOWED.strip().splitlines())
TABLE = [(row[0], new, mark == "x") for row in ROWS for new, mark in zip(HEADER, row[1:], strict=True)]


@pytest.mark.parametrize(("old", "new", "allowed"), TABLE)
def test_transitions_are_those_of_the_table(old: str, new: str, allowed: bool) -> None:
    """Final runs are opened again only by a retry; a run being cancelled only ends."""
    assert may_follow(StateType(old), StateType(new)) is allowed


@pytest.mark.parametrize("kind", StateType)
def test_each_state_answers_for_its_own_type_only(kind: StateType) -> None:
    """`is_failed()` and its like, and `is_final()`."""
    state: State[None] = State(kind)
    said = {other for other in StateType if getattr(state, f"is_{other.lower()}")()}

    assert said == {kind}
    assert state.is_final() is (kind in FINAL)


@pytest.mark.parametrize("kind", StateType)
def test_a_state_is_made_by_the_function_of_its_name(kind: StateType) -> None:
    """`Completed(data=…)`, with the type's own name unless another is given."""
    make = getattr(states, kind.value.capitalize())

    assert make("why", data=1) == State(kind, kind.value.capitalize(), "why", 1)
    assert make(name="Other").name == "Other"


def test_the_result_of_a_completed_run_is_its_value() -> None:
    """Also where that value is an exception object."""
    value = ValueError("a value")

    assert states.Completed(data=value).result() is value


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (states.Failed("no"), errors.FailedRun),
        (states.Crashed("dead"), errors.CrashedRun),
        (states.Cancelled("stop"), errors.CancelledRun),
        (states.Failed(data=KeyError("k")), KeyError),
    ],
)
def test_the_result_of_another_end_is_raised_or_returned(state: State[None], error: type[Exception]) -> None:
    """The run's own exception, or one that says how it ended."""
    with pytest.raises(error):
        state.result()
    assert isinstance(state.result(raise_on_failure=False), error)


@pytest.mark.parametrize("kind", sorted(set(StateType) - FINAL))
def test_a_run_that_goes_on_has_no_result(kind: StateType) -> None:
    """Asking too early is an error that says so."""
    with pytest.raises(errors.UnfinishedRun):
        State(kind).result()


@pytest.mark.parametrize(
    ("error", "kind", "name"),
    [
        (ValueError("no"), StateType.FAILED, "Failed"),
        (errors.RunTimeout("late"), StateType.FAILED, "TimedOut"),
        (errors.UpstreamFailed("load-0"), StateType.FAILED, "UpstreamFailed"),
        (errors.CrashedRun("dead"), StateType.CRASHED, "Crashed"),
        (errors.CancelledRun("stop"), StateType.CANCELLED, "Cancelled"),
        (SystemExit(3), StateType.FAILED, "Failed"),
    ],
)
def test_an_exception_makes_the_state_that_tells_of_it(error: BaseException, kind: StateType, name: str) -> None:
    """Timeouts, upstream failures, crashes and cancels have names of their own."""
    state = from_exception(error)

    assert (kind, name, error) == (state.type, state.name, state.data)


def test_an_exception_without_words_of_its_own_is_still_described() -> None:
    """`__str__` may fail, or give nothing."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe(Mute()) == "Mute: <its text cannot be made: RuntimeError>"
    assert describe(KeyError()) == "KeyError"


_GOOD, _BAD = states.Completed(data=1), states.Failed("no", data=KeyError("k"))


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ([], StateType.COMPLETED, "All states completed."),
        ([_GOOD, _GOOD], StateType.COMPLETED, "All states completed."),
        ([_GOOD, _BAD], StateType.FAILED, "1/2 states failed."),
        ([_BAD, states.Cancelled(), states.Paused()], StateType.CANCELLED, "3/3 states failed."),
        ([_BAD, states.Paused(), _GOOD], StateType.PAUSED, "2/3 states failed."),
        ([_GOOD, states.Crashed()], StateType.FAILED, "1/2 states failed."),
    ],
)
def test_states_returned_together_make_one(given: list[State[int]], kind: StateType, message: str) -> None:
    """Cancelled weighs most, then paused, then failed."""
    state = aggregate(given)

    assert (kind, message) == (state.type, state.message)


def test_of_failed_states_together_the_first_exception_is_raised() -> None:
    """A flow that returns its tasks' states fails as they did."""
    with pytest.raises(KeyError):
        aggregate([_GOOD, states.Failed(), _BAD]).result()


def test_a_state_survives_a_pickle() -> None:
    """States are handed between processes."""
    state = states.Completed("done", data=[1])

    assert pickle.loads(pickle.dumps(state)) == state


def test_a_states_message_shows_no_password() -> None:
    """As log lines do not."""
    state = from_exception(ConnectionError("no answer from postgresql://me:hunter2@host/db"))

    assert state.message == "ConnectionError: no answer from postgresql://me:********@host/db"
