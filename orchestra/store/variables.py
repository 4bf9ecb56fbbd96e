"""Variables: values by name, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock
from orchestra.errors import VariableExists, VariableNotFound
from orchestra.store import events
from orchestra.store.database import Database, insert
from orchestra.store.tables import variables


@dataclass(frozen=True, slots=True)
class NewVariable:
    """A variable to be. `value` and `tags` are JSON."""

    id: str
    name: str
    value: str
    tags: str = "[]"


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable that is set, with Prefect's field names."""

    id: str
    name: str
    value: Any
    tags: list[str]
    created: datetime
    updated: datetime


def put(connection: Connection, new: NewVariable, moment: float, *, overwrite: bool) -> None:
    """Set a variable. Safe to repeat.

    All that is to follow from a variable that is set belongs in here, into the same transaction.

    Args:
        overwrite: Change the one of this name, if there is one.

    Raises:
        VariableExists: There is one, and it is not to be changed.
    """
    changes = {"value": new.value, "tags": new.tags, "updated_at": moment}
    statement = insert(connection, variables).values(id=new.id, name=new.name, created_at=moment, **changes)
    if overwrite:
        connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=changes))
    else:
        connection.execute(statement.on_conflict_do_nothing())
        # The answer to an earlier try may have been lost: then it is ours that is there.
        if connection.scalar(sa.select(variables.c.id).where(variables.c.name == new.name)) != new.id:
            raise VariableExists(new.name)
    # Without the value, which may be a secret.
    events.record(connection, events.act("variable", "set", new.name, new.name, id=new.id))


def change(connection: Connection, name: str, changes: Mapping[str, Any], moment: float) -> None:
    """Change columns of a variable. Safe to repeat.

    Raises:
        VariableNotFound: There is none of this name.
    """
    statement = sa.update(variables).where(variables.c.name == name).values(updated_at=moment, **changes)
    if not connection.execute(statement).rowcount:
        raise VariableNotFound(name)
    events.record(connection, events.act("variable", "set", name, name))


def remove(connection: Connection, name: str) -> None:
    """Delete a variable.

    Raises:
        VariableNotFound: There is none of this name.
    """
    if not connection.execute(sa.delete(variables).where(variables.c.name == name)).rowcount:
        raise VariableNotFound(name)
    events.record(connection, events.act("variable", "unset", name, name))


def read(database: Database, name: str) -> Variable:
    """A variable.

    Raises:
        VariableNotFound: There is none of this name.
    """
    found = find(database, name)
    if found is None:
        raise VariableNotFound(name)
    return found


def find(database: Database, name: str) -> Variable | None:
    """A variable; None where there is none of this name."""
    query = sa.select(variables).where(variables.c.name == name)
    row: Any = database.read(lambda connection: connection.execute(query).mappings().first())
    return None if row is None else record(row)


def page(database: Database, *, limit: int | None, after: str | None = None) -> list[Variable]:
    """Variables by name.

    Args:
        limit: Most given; None: all.
        after: The name of the last one of the page before.
    """
    query = sa.select(variables).order_by(variables.c.name).limit(limit)
    if after is not None:
        query = query.where(variables.c.name > after)

    def look(connection: Connection) -> Sequence[Any]:
        return connection.execute(query).mappings().all()

    return [record(row) for row in database.read(look)]


def record(row: Mapping[str, Any]) -> Variable:
    """A row as people get it."""
    created, updated = clock.to_datetime(row["created_at"]), clock.to_datetime(row["updated_at"])
    return Variable(row["id"], row["name"], json.loads(row["value"]), json.loads(row["tags"]), created, updated)
