"""How a run ended, from what was stored of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestra.engine.values import state_of
from orchestra.errors import MissingResult
from orchestra.states import State, StateType


def ending(row: Mapping[str, Any], data: bytes | None, what: str) -> State[Any]:
    """The state of a run with its value or exception.

    Args:
        row: Has its `state_type`, `state_name` and `state_message`.
        data: Its result as it is stored.
        what: The run, for the error.

    Raises:
        MissingResult: It completed, and its result was not kept.
    """
    if data is None and row["state_type"] == StateType.COMPLETED:
        raise MissingResult(
            f"the result of {what} was not kept: in one process it is with persist_result=True only, on workers always"
        )
    return state_of(row["state_type"], row["state_name"], row["state_message"], data)
