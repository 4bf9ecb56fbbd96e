"""Blobs: encoded results too large for a row, in chunks, named by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from orchestra import clock, settings
from orchestra.errors import MissingResult, ResultCorrupt
from orchestra.store.tables import blobs

#: Bytes of one row; larger ones make the drivers and the write-ahead log slow.
CHUNK = 1024 * 1024


def name_of(data: bytes) -> str:
    """The name under which `data` is kept."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def put(conn: Connection, data: bytes, *, name: str | None = None) -> str:
    """Keep `data` within the caller's transaction; returns its name.

    The same data again changes nothing, so repeating the transaction is safe.

    Args:
        name: `name_of(data)`, where the caller has it already: hashing a large value holds the transaction up.
    """
    name = name or name_of(data)
    now = clock.now()
    for number, chunk in enumerate(_chunks(data)):
        conn.execute(_insert(conn).values(name=name, chunk=number, data=chunk, created_at=now).on_conflict_do_nothing())
    return name


def get(conn: Connection, name: str) -> bytes:
    """The data kept under `name`.

    Raises:
        MissingResult: There is none.
        ResultCorrupt: It is not what was kept: its SHA-256 differs.
    """
    chunks = conn.execute(select(blobs.c.data).where(blobs.c.name == name).order_by(blobs.c.chunk)).scalars()
    data = b"".join(chunks)
    if name_of(data) == name:
        return data
    if not data:
        raise MissingResult(f"the result {name} is not in the database any more")
    raise ResultCorrupt(f"the result {name} is damaged: its {len(data):,} bytes have another SHA-256")


def _insert(conn: Connection) -> sqlite.Insert | postgresql.Insert:
    return postgresql.insert(blobs) if conn.dialect.name == "postgresql" else sqlite.insert(blobs)


def _chunks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data) or 1, CHUNK):
        yield data[start : start + CHUNK]


def place(connection: Connection, data: bytes | None) -> tuple[bytes | None, str | None]:
    """What goes into a row's `result` and `result_blob`: small values stay in the row, larger ones become blobs."""
    if data is None or len(data) <= settings.current().result_inline_max_bytes:
        return data, None
    return None, put(connection, data)
