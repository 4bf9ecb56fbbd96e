"""What a flow's return value makes of its run."""

from __future__ import annotations

import pytest

from orchestra import states
from orchestra.engine.outcomes import flow_state
from orchestra.states import StateType
from tests.unit.test_arguments import broken, one, two


@pytest.mark.parametrize(
    ("value", "expected", "data"),
    [
        (5, StateType.COMPLETED, 5),
        (None, StateType.COMPLETED, None),
        ([], StateType.COMPLETED, []),
        (one, StateType.COMPLETED, 1),
        ([one, two], StateType.COMPLETED, [1, 2]),
        ((one, two), StateType.COMPLETED, (1, 2)),
        ([one, states.Completed(data=3)], StateType.COMPLETED, [1, 3]),
        ({"a": one}, StateType.COMPLETED, {"a": 1}),
        (states.Completed("by hand", data=4), StateType.COMPLETED, 4),
        (states.Running(), StateType.FAILED, None),
    ],
)
def test_the_returned_value_decides(value: object, expected: StateType, data: object) -> None:
    """A state is used as it is, futures are taken together, anything else is COMPLETED."""
    state = flow_state(value)

    assert (state.type, state.data) == (expected, data)


def test_one_failed_future_fails_the_flow() -> None:
    """With its exception; inside a dict it is not looked at, and becomes the exception."""
    alone, among, hidden = flow_state(broken), flow_state([one, broken]), flow_state({"a": broken})

    assert (alone.type, type(alone.data)) == (StateType.FAILED, ValueError)
    assert (among.message, type(among.data)) == ("1/2 states failed.", ValueError)
    assert hidden.is_completed()
    assert isinstance(hidden.data["a"], ValueError)


def test_cancelled_outweighs_failed() -> None:
    """And what is paused is no end at all."""
    cancelled, paused = states.Cancelled(), states.Paused()

    assert flow_state([broken.state, cancelled]).type is StateType.CANCELLED
    assert flow_state([broken.state, paused]).message == "the body returned what is not final: Paused"
