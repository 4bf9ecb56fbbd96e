"""What becomes of runs whose tasks or bodies fail."""

from __future__ import annotations

from typing import Any

import pytest

from orchestra.errors import DefinitionError, UpstreamFailed
from orchestra.states import State, StateType
from tests.drive import Driver
from tests.engine import flows

NOT_RUN = "not run, because 'main/fail-0' did not succeed: ValueError: no"


def test_what_depends_on_a_failed_task_is_not_run(driver: Driver, effects: list[str]) -> None:
    """Its state is UpstreamFailed, and names the culprit and what it failed by."""
    state = driver.run(flows.upstream_failed)

    assert state.type is StateType.FAILED
    with pytest.raises(UpstreamFailed, match="'main/fail-0' did not succeed: ValueError: no"):
        state.result()
    assert effects == ["fail"]


def test_failure_goes_down_a_long_chain(driver: Driver, effects: list[str]) -> None:
    """Each is not run because of the one that failed, and says so."""
    errors = driver.run(flows.long_cascade, n=30).result()

    assert effects == ["fail"]
    assert {str(error) for error in errors[1:]} == {NOT_RUN}


@pytest.mark.parametrize("flow", [flows.late_cascade, flows.late_cascade_at_once])
def test_what_is_asked_for_after_the_failure_names_it_too(driver: Driver, effects: list[str], flow: Any) -> None:
    """Whether it is dispatched alone, or with what it depends on, which is not run either."""
    errors = driver.run(flow).result()

    assert {str(error) for error in errors} == {NOT_RUN}


def test_one_of_many_failed_upstreams_is_enough(driver: Driver, effects: list[str]) -> None:
    """The dependents end once, however many of their upstreams fail."""
    state = driver.run(flows.many_failed_upstreams, n=70)

    assert isinstance(state.data, UpstreamFailed)
    assert effects.count("fail") == 70
    assert "total" not in effects


def test_allow_failure_hands_the_exception_on(driver: Driver) -> None:
    """The dependent runs, and gets it as its argument."""
    assert driver.run(flows.tolerant).result() == "ValueError: seen"


def test_a_body_catches_what_a_task_raises(driver: Driver) -> None:
    """Inline and submitted alike."""
    assert driver.run(flows.caught).result() == "caught seen"
    assert driver.run(flows.caught_submitted).result() == ["ValueError", "seen"]


def test_a_body_that_raises_fails_its_run(driver: Driver) -> None:
    """With its own exception."""
    state = driver.run(flows.failing)

    assert (state.type, state.message) == (StateType.FAILED, "KeyError: 'mine'")
    with pytest.raises(KeyError):
        state.result()


def test_a_task_that_exits_fails(driver: Driver) -> None:
    """`sys.exit()` in a task ends the task, not the worker."""
    assert driver.run(flows.exiting).is_failed()


@pytest.mark.parametrize("submitted", [False, True])
def test_a_body_catches_exceptions_of_its_own_classes(driver: Driver, submitted: bool) -> None:
    """By their type, with what they carry, also of a class that is called with something else than it hands on."""
    assert driver.run(flows.own_exception, submitted=submitted).result() == 2


@pytest.mark.parametrize("submitted", [False, True])
def test_an_exception_that_cannot_be_built_again_is_told_in_words(driver: Driver, submitted: bool) -> None:
    """The body sees the first time what a replay would give it."""
    told = driver.run(flows.odd_exception, submitted=submitted).result()

    assert told == "TaskFailed: tests.engine.flows.Unkept: of this process"


def test_calls_from_a_thread_of_the_body_are_refused(driver: Driver) -> None:
    """Their order could not be replayed; the error says what to do instead."""
    assert "from a thread that the flow body started" in driver.run(flows.foreign_thread).result()[0]


def test_a_body_that_swallows_everything_is_parked_all_the_same(driver: Driver, effects: list[str]) -> None:
    """Once parked, every call of orchestra raises the signal again, and however the body ends, the run is parked."""
    assert driver.run(flows.swallows_all).result() == 2
    assert effects.count("add 1 1") == 1


def test_finally_clauses_act_once(driver: Driver, effects: list[str]) -> None:
    """What a `finally` asks for while the body is left by a park is not journaled."""
    run_id = driver.submit(flows.acts_finally)
    assert driver.finish(run_id).result() == 2
    assert [step.key for step in driver.steps(run_id)] == ["main/add-0", "main/add-1"]
    assert effects.count("add 99 1") == 1


@pytest.mark.parametrize(("what", "name"), [("a signal of a library", "Beyond"), ("itself", "CancelledError")])
@pytest.mark.parametrize("how", ["direct", "submitted", "submitted async"])
def test_whatever_a_task_raises_fails_it(driver: Driver, effects: list[str], what: str, name: str, how: str) -> None:
    """Also what is no Exception: it is tried again, then its flow may catch it."""
    assert driver.run(flows.beyond, what=what, how=how).result() == f"caught {name}"
    assert effects == [f"beyond {what}"] * 2


def test_a_branch_may_gather_a_task_that_raises_cancelled_error(driver: Driver, effects: list[str]) -> None:
    """It is the task's failure, not the branch's cancellation."""
    assert driver.run(flows.beyond_in_a_branch, what="itself").result() == ["CancelledError"]
    assert effects == ["beyond itself"] * 2


@pytest.mark.parametrize("how", ["argument", "result", "done"])
def test_a_future_of_another_run_is_refused(driver: Driver, how: str) -> None:
    """It was handed on by a global; the error says to hand on its result."""
    state = driver.run(flows.hands_on_a_future, how=how, messages=50)

    with pytest.raises(DefinitionError, match="another run"):
        state.result()


HERE = pytest.mark.parametrize("here", [True, False], ids=["in this process", "on a worker"])


def run(driver: Driver, here: bool, flow: Any, **parameters: Any) -> State[Any]:
    """Run a flow to its end, here or by messages."""
    found = flow(**parameters, return_state=True) if here else driver.run(flow, messages=200, **parameters)
    assert isinstance(found, State)
    return found


@HERE
@pytest.mark.parametrize(
    ("how", "name", "message"),
    [
        ("in a dict", "Completed", None),
        ("in a list, with work open", "Failed", "1/2 states failed."),
        ("not final", "Failed", "the body returned what is not final: Paused"),
    ],
)
def test_returned_states_make_the_final_state(
    driver: Driver, here: bool, how: str, name: str, message: str | None
) -> None:
    """Alone or in a list they are the flow's; deeper inside they are only values."""
    state = run(driver, here, flows.returns_states, how=how)

    assert (state.name, state.message) == (name, message)


@HERE
def test_a_crash_inside_fails_the_flow_which_is_tried_again(driver: Driver, effects: list[str], here: bool) -> None:
    """As any other error that its body does not catch."""
    assert run(driver, here, flows.calls_what_crashes).name == "Failed"
    assert effects == ["tried"] * 3


@HERE
def test_parameters_that_do_not_fit_are_not_tried_again(driver: Driver, effects: list[str], here: bool) -> None:
    """They will not fit the next time."""
    assert run(driver, here, flows.takes_a_number, n="x").is_failed()
    assert effects == []
    assert here or driver.segments == 1


@HERE
def test_a_delay_that_cannot_be_made_leaves_the_flow_its_own_error(driver: Driver, here: bool) -> None:
    """It is not tried again."""
    assert run(driver, here, flows.has_a_broken_delay).message == "ValueError: its own"


@pytest.mark.parametrize("how", ["direct", "submitted"])
def test_a_failed_task_says_so_in_the_log(driver: Driver, caplog: pytest.LogCaptureFixture, how: str) -> None:
    """With its traceback, though its flow catches it."""
    driver.run(flows.beyond, what="a signal of a library", how=how)

    (line,) = [line for line in caplog.records if "ended Failed" in line.message]
    assert line.name == "orchestra.task_runs"
    assert line.exc_info is not None
