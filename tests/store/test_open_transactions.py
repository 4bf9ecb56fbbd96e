"""A process that stands still within a transaction, stopped or cut off, does not hold up the others."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra.store.database import Database
from orchestra.store.tables import installation
from tests.conftest import forget

pytestmark = pytest.mark.services


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_the_server_ends_a_transaction_that_stands_still(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its locks are free within a lease, and it is tried again as a whole when its process goes on."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", "2")
    forget()
    stalled, other = Database(database_url), Database(database_url)
    stalled.write(lambda c: c.execute(installation.insert().values(key="fact", value="0")))
    within, go_on = threading.Event(), threading.Event()

    def stall(connection: Connection) -> None:
        append(connection, "a")
        within.set()
        go_on.wait(30)

    thread = threading.Thread(target=stalled.write, args=(stall,))
    thread.start()
    within.wait(10)
    other.write(lambda connection: append(connection, "b"))
    go_on.set()
    thread.join(30)

    assert value(other) == "0ba"
    stalled.close()
    other.close()


def append(connection: Connection, text: str) -> Any:
    """Add to the fact."""
    column = installation.c
    return connection.execute(sa.update(installation).where(column.key == "fact").values(value=column.value + text))


def value(database: Database) -> str | None:
    """The fact."""
    return database.read(lambda c: c.scalar(sa.select(installation.c.value).where(installation.c.key == "fact")))
