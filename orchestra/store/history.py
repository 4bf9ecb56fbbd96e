"""The history of states, which people read, and of which events are made.

A change that something depends on (an end, a retry, what people do) is written in its own transaction; what is merely
nice to see (that a run has begun) comes behind.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock
from orchestra.names import clean_text
from orchestra.store.prepared import prepare
from orchestra.store.tables import states
from orchestra.store.wake import RUN, note


def record(connection: Connection, run_id: str, type: str, name: str, message: str | None = None) -> None:
    """Write a state of a flow run in the transaction that brings it there."""
    _RECORD.count(connection, row(run_id, type, name, message))
    note(connection, RUN, run_id)


def row(run_id: str, type: str, name: str, message: str | None = None, step_id: str | None = None) -> dict[str, Any]:
    """A state that a flow run, or one of its steps, has come into now."""
    return {
        "run_id": run_id,
        "step_id": step_id,
        "type": str(type),
        "name": clean_text(name),
        "message": None if message is None else clean_text(message),
        "timestamp": clock.now(),
    }


_RECORD = prepare(
    states.insert().values(
        {column.name: sa.bindparam(column.name, type_=column.type) for column in states.c if column is not states.c.id}
    )
)
