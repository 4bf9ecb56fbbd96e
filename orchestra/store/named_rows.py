"""Rows that people make, change and delete by name, each with the event that tells of it in the same transaction.

The answer to a commit may be lost, and the transaction is tried again then: it knows its own row, or its own event, so
that what it did is no error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import identifiers
from orchestra.store import events, tables
from orchestra.store.database import Database, insert


def create(database: Database, table: sa.Table, noun: str, values: Mapping[str, Any], **told: Any) -> bool:
    """Write a row whose `name` is its own in the table; false, and nothing is written, where there is one of its name.

    Args:
        noun: What it is, in the event.
        values: Its columns but the id.
        told: More for the event to tell.
    """
    new = {"id": identifiers.new_run_id(), **values}
    event = events.act(noun, "created", new["id"], new["name"], **told)

    def work(connection: Connection) -> bool:
        connection.execute(insert(connection, table).values(new).on_conflict_do_nothing())
        is_ours = bool(connection.scalar(sa.select(table.c.id).where(table.c.name == new["name"])) == new["id"])
        if is_ours:
            events.record(connection, event)
        return is_ours

    return database.write(work)


def change(database: Database, statement: sa.Executable, noun: str, verb: str, name: str) -> bool:
    """Run a statement that returns the id of the row it changes or deletes; false where there is no such row.

    Args:
        noun: What it is, in the event.
        verb: What was done to it, in the past.
        name: What people call it.
    """
    event_id = events.new_id()

    def work(connection: Connection) -> bool:
        changed = connection.scalar(statement)
        if changed is None:
            return is_done(connection, event_id)
        events.record(connection, events.act(noun, verb, changed, name, id=event_id))
        return True

    return database.write(work)


def is_done(connection: Connection, event_id: str) -> bool:
    """Whether an earlier try of this transaction, whose answer was lost, has committed: its event is there."""
    query = sa.select(tables.events.c.id).where(tables.events.c.id == event_id)
    return connection.scalar(query) is not None
