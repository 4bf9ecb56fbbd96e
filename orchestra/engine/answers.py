"""Which of a run's pauses an answer is for, and whether it fits: what is checked before a run is resumed.

By the schema that the pause keeps, without the code of the flow; what only that can tell, the body checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestra import lazy, serializers
from orchestra.errors import IllegalTransition, InvalidRunInput
from orchestra.results import check_parameters
from orchestra.store.interventions import NOTHING, PAUSED, OpenPause, labels


def answers_for(
    row: Mapping[str, Any], pauses: Sequence[OpenPause], run_input: Any, key: str | None
) -> dict[str, bytes] | None:
    """What to give which pause, by step key; None: all that ask for nothing go on.

    Args:
        row: Of the flow run.
        pauses: Those that its body waits at.
        run_input: What was given; None: nothing.
        key: The pause that is meant, where there is more than one.

    Raises:
        IllegalTransition: The run is not paused, or not at that pause.
        InvalidRunInput: It does not fit, or it is not clear for which pause it is.
    """
    meant = [pause for pause in pauses if key is None or key in (pause.question.key, pause.name, pause.step_key)]
    asking = [pause for pause in meant if pause.question.schema is not None]
    if key is not None and not meant:
        raise IllegalTransition(row["id"], row["state_name"], f"resumed at {key!r}: it does not wait there")
    if run_input is None and (row["held"] == PAUSED or len(asking) < len(meant) or not asking):
        plain = {pause.step_key: NOTHING for pause in meant if pause not in asking}
        return None if key is None else plain
    if not asking:
        if row["held"] != PAUSED and not meant:
            raise IllegalTransition(row["id"], row["state_type"], "resumed: it is not paused")
        raise InvalidRunInput(_what(row), "it waits for no input; resume it without")
    if run_input is None:
        return {pause.step_key: _checked(row, pause, {}) for pause in asking}
    if len(asking) > 1:
        named = ", ".join(repr(labels(pauses)[pause.step_key]) for pause in asking)
        raise InvalidRunInput(_what(row), f"it is not said for which of its pauses it is: name one by key ({named})")
    return {asking[0].step_key: _checked(row, asking[0], run_input)}


def _checked(row: Mapping[str, Any], pause: OpenPause, given: Any) -> bytes:
    """An answer as the journal keeps it, if it fits the schema."""
    schema_of = lazy.load("input_schema")
    try:
        value = schema_of.as_json(given)
    except ValueError as error:
        raise InvalidRunInput(_what(row), f"it cannot be written as JSON ({error})") from error
    if pause.question.wrapped and not (isinstance(value, dict) and set(value) <= {"value"}):
        value = {"value": value}
    assert pause.question.schema is not None
    if faults := schema_of.problems(pause.question.schema, value):
        raise InvalidRunInput(_what(row), *faults)
    return check_parameters(serializers.encode(value, what=_what(row)), what=_what(row))


def _what(row: Mapping[str, Any]) -> str:
    return f"the input of flow run {row['id']}"
