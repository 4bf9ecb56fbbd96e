"""Large results in the blobs table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, func, select, update

from orchestra.errors import MissingResult, ResultCorrupt
from orchestra.store import blobs
from orchestra.store.tables import blobs as table


@pytest.fixture
def conn(tmp_path: Path) -> Iterator[Connection]:
    """A connection to a fresh SQLite database with the blobs table."""
    engine = create_engine(f"sqlite:///{tmp_path / 'blobs.db'}")
    table.create(engine)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def chunks(conn: Connection) -> int:
    """How many chunks are kept."""
    return conn.scalar(select(func.count()).select_from(table)) or 0


@pytest.mark.parametrize("size", [0, 1, blobs.CHUNK - 1, blobs.CHUNK, blobs.CHUNK + 1, 3 * blobs.CHUNK])
def test_data_comes_back_whatever_its_size(conn: Connection, size: int) -> None:
    """Chunks are put together in order."""
    data = bytes(range(256)) * (size // 256 + 1)

    assert blobs.get(conn, blobs.put(conn, data[:size])) == data[:size]


def test_the_same_data_is_kept_once(conn: Connection) -> None:
    """Repeating a transaction changes nothing."""
    data = b"x" * (blobs.CHUNK + 1)

    assert blobs.put(conn, data) == blobs.put(conn, data)
    assert chunks(conn) == 2


def test_the_name_is_the_digest(conn: Connection) -> None:
    """A name says what it names."""
    name = blobs.put(conn, b"abc")

    assert name == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_damaged_data_is_never_handed_out(conn: Connection) -> None:
    """One changed byte is found."""
    name = blobs.put(conn, b"abc")
    conn.execute(update(table).values(data=b"abd"))

    with pytest.raises(ResultCorrupt, match="SHA-256"):
        blobs.get(conn, name)


def test_a_chunk_that_is_gone_is_found(conn: Connection) -> None:
    """What is left of the data is not handed out."""
    name = blobs.put(conn, b"x" * (blobs.CHUNK + 1))
    conn.execute(table.delete().where(table.c.chunk == 0))

    with pytest.raises(ResultCorrupt):
        blobs.get(conn, name)


def test_missing_data_is_named(conn: Connection) -> None:
    """The error names the result."""
    with pytest.raises(MissingResult, match="sha256:00"):
        blobs.get(conn, "sha256:00")
