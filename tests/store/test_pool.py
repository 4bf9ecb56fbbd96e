"""More threads use the database at once than it has connections."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from orchestra.errors import StoreUnavailable
from orchestra.store.database import Database, instant

pytestmark = pytest.mark.slow


@pytest.fixture
def crowded(database_url: str) -> Iterator[Database]:
    """A database whose connections are asked for in vain after a moment, and that is patient for a second."""
    opened = Database(database_url, patience=1.0)
    pool = opened._engine.pool
    assert isinstance(pool, sa.QueuePool)
    pool._timeout = 0.05
    yield opened
    opened.close()


@contextlib.contextmanager
def all_connections(database: Database) -> Iterator[contextlib.ExitStack]:
    """All of them are in use while this holds, or until the stack is closed."""
    with contextlib.ExitStack() as stack:
        pool = database._engine.pool
        assert isinstance(pool, sa.QueuePool)
        for _ in range(pool.size() + pool._max_overflow):
            stack.enter_context(database._reader.connect())
        yield stack


def test_a_lack_of_connections_is_an_outage(crowded: Database) -> None:
    """It is an error of the store, which says for how long it was tried."""
    with all_connections(crowded), pytest.raises(StoreUnavailable, match=r"did not answer for 1 s .*QueuePool limit"):
        crowded.read(instant)


def test_a_connection_that_is_given_back_is_used(crowded: Database) -> None:
    """Those who waited in vain try again."""
    with all_connections(crowded) as stack:
        giving = threading.Timer(0.2, stack.close)
        giving.start()
        assert crowded.write(instant) > 0
        giving.join()
