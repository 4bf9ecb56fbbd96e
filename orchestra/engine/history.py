"""The states a run went through, for people. Nice to see, not the truth: written behind, in batches."""

from __future__ import annotations

from orchestra import clock
from orchestra.serializers import clean_text
from orchestra.store import tables
from orchestra.store.behind import behind


def note(run_id: str, state_type: str, name: str, message: str | None = None, *, step_id: str | None = None) -> None:
    """Note that a flow run, or one of its steps, has come into a state."""
    row = {
        "run_id": run_id,
        "step_id": step_id,
        "type": str(state_type),
        "name": clean_text(name),
        "message": None if message is None else clean_text(message),
        "timestamp": clock.now(),
    }
    behind().add(tables.states, row)
