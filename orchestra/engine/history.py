"""States that a run has come into, for people. Nice to see, not the truth: written behind, in batches."""

from __future__ import annotations

from orchestra.store import history, tables
from orchestra.store.behind import behind


def note(run_id: str, state_type: str, name: str, message: str | None = None, *, step_id: str | None = None) -> None:
    """Note that a flow run, or one of its steps, has come into a state."""
    behind().add(tables.states, history.row(run_id, state_type, name, message, step_id))
