"""Flows: decorated functions whose calls are runs."""

from __future__ import annotations

import pytest

from orchestra import State, flow, task


def test_a_flow_is_called_like_a_function() -> None:
    """`@flow` keeps the function's arguments and its value."""

    @flow
    def greet(name: str, mark: str = "!") -> str:
        return f"hello {name}{mark}"

    assert greet("ann") == "hello ann!"
    assert greet(name="bob", mark="?") == "hello bob?"


def test_a_flow_is_named_after_its_function() -> None:
    """The name has dashes for underscores, unless `name=` says otherwise; the description is the docstring."""

    @flow
    def load_data() -> None:
        """Load it."""

    @flow(name="nightly")
    def other() -> None: ...

    assert (load_data.name, load_data.spec.description) == ("load-data", "Load it.")
    assert other.name == "nightly"


def test_a_flow_raises_what_its_function_raises() -> None:
    """The user's own exception reaches the caller."""

    @flow
    def fail() -> None:
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing"):
        fail()


def test_return_state_gives_the_state_and_raises_nothing() -> None:
    """`return_state=True` hands over the final state, which holds the value or the exception."""

    @flow
    def halve(number: int) -> int:
        if number % 2:
            raise ValueError("odd")
        return number // 2

    good, bad = halve(4, return_state=True), halve(3, return_state=True)

    assert (good.is_completed(), good.result()) == (True, 2)
    assert (bad.is_failed(), bad.message) == (True, "ValueError: odd")
    with pytest.raises(ValueError, match="odd"):
        bad.result()


def test_options_are_changed_on_a_copy() -> None:
    """`with_options` leaves the flow itself as it was."""

    @flow(retries=2)
    def work() -> None: ...

    other = work.with_options(retries=0, name="calm")

    assert (other.spec.retries, other.name) == (0, "calm")
    assert (work.spec.retries, work.name) == (2, "work")


def test_a_flow_waits_for_all_it_has_submitted() -> None:
    """No task is cut off when the flow's function returns."""
    done = []

    @task
    def note(number: int) -> None:
        done.append(number)

    @flow
    def submit_all() -> None:
        for number in range(10):
            note.submit(number)

    submit_all()

    assert sorted(done) == list(range(10))


def test_a_returned_state_is_the_flows_own() -> None:
    """A flow may say itself how it ended."""
    from orchestra.states import Failed

    @flow
    def decide() -> State[None]:
        return Failed("not enough rows")

    assert decide(return_state=True).message == "not enough rows"


def test_a_flow_that_returns_futures_gives_their_values() -> None:
    """Futures, alone or in a list, become values; if one failed, the flow has failed."""

    @task
    def invert(number: int) -> float:
        return 1 / number

    @flow
    def invert_all(*numbers: int) -> list[float]:
        return [invert.submit(number) for number in numbers]  # type: ignore[misc]

    state = invert_all(1, 0, return_state=True)

    assert invert_all(1, 2) == [1.0, 0.5]
    assert (state.is_failed(), state.message) == (True, "1/2 states failed.")


def test_a_run_is_named_by_its_template() -> None:
    """`flow_run_name` is filled in with the parameters, defaults included."""
    from orchestra.runtime import flow_run

    @flow(flow_run_name="load-{source}-{number:03d}")
    def load(source: str, number: int = 7) -> str | None:
        return flow_run.name

    assert load("web") == "load-web-007"


def test_methods_can_be_flows_and_tasks() -> None:
    """`self` arrives as ever."""

    class Scaler:
        factor = 3

        @task
        def scale(self, number: int) -> int:
            return number * self.factor

        @flow
        def run(self, number: int) -> int:
            return self.scale(number) + self.scale.submit(number).result()

    assert Scaler().run(2) == 12
