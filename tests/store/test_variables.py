"""Variables on both databases."""

from __future__ import annotations

import uuid

import pytest

from orchestra.errors import VariableExists, VariableNotFound
from orchestra.store import variables
from orchestra.store.database import Database
from orchestra.store.variables import NewVariable


def put(db: Database, name: str, value: str, *, overwrite: bool = False, tags: str = "[]") -> None:
    """Set a variable."""
    new = NewVariable(str(uuid.uuid4()), name, value, tags)
    db.write(lambda connection: variables.put(connection, new, 5.0, overwrite=overwrite))


def value(db: Database, name: str) -> object:
    """What a variable is set to."""
    found = variables.find(db, name)
    return None if found is None else found.value


def test_a_variable_is_changed_only_where_that_is_asked_for(database: Database) -> None:
    """Else the one that is there stays."""
    put(database, "a", "1")

    with pytest.raises(VariableExists, match="overwrite"):
        put(database, "a", "2")
    assert value(database, "a") == 1

    put(database, "a", "3", overwrite=True, tags='["x"]')
    found = variables.find(database, "a")
    assert found is not None
    assert (found.value, found.tags) == (3, ["x"])


def test_a_write_that_is_repeated_is_no_conflict(database: Database) -> None:
    """As where the answer to its commit was lost."""
    new = NewVariable(str(uuid.uuid4()), "a", "1")
    for _ in range(2):
        database.write(lambda connection: variables.put(connection, new, 5.0, overwrite=False))

    assert value(database, "a") == 1


def test_what_is_not_there_cannot_be_changed_or_removed(database: Database) -> None:
    """It is named."""
    for act in (
        lambda connection: variables.change(connection, "b", {"value": "1"}, 5.0),
        lambda connection: variables.remove(connection, "b"),
    ):
        with pytest.raises(VariableNotFound, match="'b'"):
            database.write(act)


def test_every_variable_stands_on_one_page(database: Database) -> None:
    """By name."""
    for name in "dbca":
        put(database, name, f'"{name}"')

    first = variables.page(database, limit=3)
    assert [each.name for each in first] == ["a", "b", "c"]
    assert [each.name for each in variables.page(database, limit=3, after="c")] == ["d"]
