"""The history of states, which people read, and of which events are made.

A change that something depends on (an end, a retry, what people do) is written in its own transaction; what is merely
nice to see (that a run goes on, or waits) comes behind. Not everything needs a row here: the first states of runs and
steps, and the ends of steps, are told by their own rows.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock
from orchestra.names import clean_text
from orchestra.states import FINAL
from orchestra.store.database import Database, now
from orchestra.store.prepared import prepare
from orchestra.store.tables import flow_runs, states, steps
from orchestra.store.wake import RUN, STEP, note

#: Of the states of a step, those on its way: its end is told by its row, though older databases have it here, too.
ON_THE_WAY = sa.or_(states.c.type.not_in(sorted(kind.value for kind in FINAL)), states.c.name == "Retrying")


def record(connection: Connection, run_id: str, type: str, name: str, message: str | None = None) -> None:
    """Write a state of a flow run in the transaction that brings it there."""
    _RECORD.count(connection, row(run_id, type, name, message))
    note(connection, RUN, run_id)


def record_step(
    connection: Connection, run_id: str, step_id: str, type: str, name: str, message: str | None, at: float
) -> None:
    """Write the state that a step is brought into, with its row, at an instant in seconds since the epoch."""
    _RECORD.count(connection, row(run_id, type, name, message, step_id, at))


def record_run(connection: Connection, *which: sa.ColumnElement[bool]) -> None:
    """Write the states that flow runs are in now, in the transaction that has brought them there.

    One that has just been told is not told again: a run that is looked at and set back, time after time.
    """
    told = _newest(flow_runs.c.id, None).scalar_subquery()
    same = flow_runs.c.state_name == sa.func.coalesce(told, flow_runs.c.first_state, "")
    _record_those(connection, flow_runs.c.id, sa.null(), flow_runs, *which, sa.not_(same))


def record_steps(connection: Connection, run_id: str, *which: sa.ColumnElement[bool], once: bool = False) -> None:
    """Write the states that steps of a run are in now, in the transaction that has brought them there.

    Args:
        once: Not those of which it was the last to be told.
    """
    told = _newest(steps.c.run_id, steps.c.id).scalar_subquery()
    changed = [steps.c.state_name != sa.func.coalesce(told, "")] if once else []
    _record_those(connection, steps.c.run_id, steps.c.id, steps, steps.c.run_id == run_id, *which, *changed)
    note(connection, STEP, run_id)


def _record_those(
    connection: Connection,
    run_id: sa.ColumnElement[Any],
    step_id: sa.ColumnElement[Any],
    table: sa.Table,
    *which: sa.ColumnElement[bool],
) -> None:
    column = table.c
    there = sa.select(run_id, step_id, column.state_type, column.state_name, column.state_message, now())
    names = ["run_id", "step_id", "type", "name", "message", "timestamp"]
    connection.execute(states.insert().from_select(names, there.where(*which)))


def newest(database: Database, run_id: str, step_id: str | None = None) -> str | None:
    """The name of the state of a flow run, or of a step of it, that was written last; None: none was."""
    return database.read(lambda connection: connection.scalar(_newest(run_id, step_id)))


def _newest(run_id: Any, step_id: Any) -> sa.Select[str]:
    # The states themselves may be what is written with it. `step_id == None` reads as IS NULL: those of the run.
    told = states.alias()
    query = sa.select(told.c.name).where(told.c.run_id == run_id, told.c.step_id == step_id)
    return query.order_by(told.c.id.desc()).limit(1)


def row(
    run_id: str, type: str, name: str, message: str | None = None, step_id: str | None = None, at: float | None = None
) -> dict[str, Any]:
    """A state that a flow run, or one of its steps, has come into: now, or at an instant in seconds since the epoch."""
    return {
        "run_id": run_id,
        "step_id": step_id,
        "type": str(type),
        "name": clean_text(name),
        "message": None if message is None else clean_text(message),
        "timestamp": clock.now() if at is None else at,
    }


_RECORD = prepare(
    states.insert().values(
        {column.name: sa.bindparam(column.name, type_=column.type) for column in states.c if column is not states.c.id}
    )
)
