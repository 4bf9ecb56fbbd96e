"""Blobs: encoded results too large for a row, in chunks, named by their digest, or files of a storage outside."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, select
from sqlalchemy.dialects import postgresql, sqlite

from orchestra import clock, settings
from orchestra.errors import MissingResult, ResultCorrupt
from orchestra.store import stored_results
from orchestra.store.database import Database
from orchestra.store.tables import blobs, metadata
from orchestra.store.tables import stored_results as files

#: Bytes of one row; larger ones make the drivers and the write-ahead log slow.
CHUNK = 1024 * 1024
#: The tables whose rows refer to blobs, by `result_blob`.
_REFERRING = tuple(table for table in metadata.sorted_tables if "result_blob" in table.c)
#: Names looked at in one transaction of `clean`.
_BATCH = 200


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
    """The data kept under `name`; a file is read while the transaction waits, which `fetch` avoids.

    Raises:
        MissingResult: There is none.
        ResultCorrupt: It is not what was kept: its SHA-256 differs.
        ResultStorageUnavailable: It is in a storage that does not answer.
    """
    if stored_results.is_name(name):
        return stored_results.read(stored_results.find(conn, name))
    chunks = conn.execute(select(blobs.c.data).where(blobs.c.name == name).order_by(blobs.c.chunk)).scalars()
    data = b"".join(chunks)
    if name_of(data) == name:
        return data
    if not data:
        raise MissingResult(f"the result {name} is not in the database any more")
    raise ResultCorrupt(f"the result {name} is damaged: its {len(data):,} bytes have another SHA-256")


def discard(database: Database, name: str) -> None:
    """Delete data that was found damaged: the same data kept again is whole then. Safe to repeat."""
    if not stored_results.is_name(name):
        database.write(lambda connection: connection.execute(delete(blobs).where(blobs.c.name == name)).rowcount)


def fetch(database: Database, name: str) -> bytes:
    """As `get`, in a transaction of its own, which is over when a file is read."""
    if stored_results.is_name(name):
        return stored_results.read(database.read(lambda connection: stored_results.find(connection, name)))
    return database.read(lambda connection: get(connection, name))


def _insert(conn: Connection) -> sqlite.Insert | postgresql.Insert:
    return postgresql.insert(blobs) if conn.dialect.name == "postgresql" else sqlite.insert(blobs)


def _chunks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data) or 1, CHUNK):
        yield data[start : start + CHUNK]


def keep(database: Database, data: bytes) -> str:
    """Keep `data` ahead of the transaction that refers to it; returns its name.

    Hashing holds nobody up, and between two chunks others may write. A crash leaves chunks that nothing refers to; the
    same data put again uses them.
    """
    name, now = name_of(data), clock.now()
    for number, chunk in enumerate(_chunks(data)):
        begun = clock.monotonic()
        _keep_chunk(database, {"name": name, "chunk": number, "data": chunk, "created_at": now})
        if database.dialect == "sqlite" and len(data) > CHUNK:
            # Its writers do not queue but look now and then: without a gap they would nearly always find it locked.
            time.sleep(clock.monotonic() - begun)
    return name


def _keep_chunk(database: Database, values: dict[str, Any]) -> None:
    def work(connection: Connection) -> None:
        connection.execute(_insert(connection).values(**values).on_conflict_do_nothing())

    # Undone by a crash of the server only where the one that refers to it is undone as well.
    database.write(work, relaxed=True)


def place(connection: Connection, data: bytes | None, kept: str | None = None) -> tuple[bytes | None, str | None]:
    """What goes into a row's `result` and `result_blob`: small values stay in the row, larger ones become blobs.

    Args:
        kept: The name that `keep` gave for `data`, or `stored_results.keep`.
    """
    if data is not None and kept is not None and stored_results.is_name(kept):
        stored_results.hold(connection, kept)
        return None, kept
    if data is None or not is_large(data):
        return data, None
    if kept is None:
        return None, put(connection, data)
    _hold(connection, kept, data)
    return None, kept


def is_large(data: bytes | None) -> bool:
    """Whether a value becomes a blob."""
    return data is not None and len(data) > settings.current().result_inline_max_bytes


def _hold(connection: Connection, name: str, data: bytes) -> None:
    """See that all chunks are there until this transaction ends, and put back what a deletion took meanwhile."""
    query = select(blobs.c.chunk).where(blobs.c.name == name).order_by(blobs.c.chunk)
    there = set(connection.scalars(query.with_for_update(read=True)))
    if len(there) < -(-len(data) // CHUNK):
        put(connection, data, name=name)


def drop_unused(connection: Connection, names: Collection[str]) -> None:
    """Delete those of these blobs that no row refers to any more; of files see `remove_dropped`.

    Each is locked first: a transaction that is about to refer to it has either been waited for, and is seen, or waits
    and then finds it gone.
    """
    for name in sorted(names):
        if stored_results.is_name(name):
            stored_results.lock(connection, name)
            if not _is_used(connection, name):
                stored_results.drop(connection, name)
            continue
        connection.execute(
            select(blobs.c.chunk).where(blobs.c.name == name).order_by(blobs.c.chunk).with_for_update()
        ).all()
        if not _is_used(connection, name):
            connection.execute(delete(blobs).where(blobs.c.name == name))


def remove_dropped(database: Database, names: Collection[str]) -> None:
    """Delete the files among these blobs that were dropped, once the transaction of `drop_unused` has been committed.

    A crash before it, or a storage that is away, leaves them to `clean`.
    """
    if any(map(stored_results.is_name, names)):
        stored_results.remove_dropped(database)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What `clean` did: blobs of the database and files deleted, and files that a storage did not delete."""

    blobs: int
    files: int
    left: int


def clean(database: Database, older_than: float) -> Cleaned:
    """Delete blobs and files that nothing refers to: what crashes, and storages that were away, have left.

    Args:
        older_than: Seconds. What is younger may belong to a transaction that is on its way.
    """
    until = clock.now() - older_than
    dropped = sum(_drop_orphans(database, and_(blobs.c.chunk == 0, blobs.c.created_at < until), blobs.c.name))
    unmarked = and_(files.c.created_at < until, files.c.dropped_at.is_(None))
    for _ in _drop_orphans(database, unmarked, files.c.name):
        pass
    removed, left = stored_results.remove_dropped(database)
    return Cleaned(dropped, removed, left)


def _drop_orphans(database: Database, condition: ColumnElement[bool], name: ColumnElement[str]) -> Iterator[int]:
    unused = [~exists(select(table.c.result_blob).where(table.c.result_blob == name)) for table in _REFERRING]
    query = select(name).where(condition, *unused).order_by(name).limit(_BATCH)

    def work(connection: Connection) -> list[str]:
        found = list(connection.scalars(query.where(name > last)))
        drop_unused(connection, found)
        return found

    last = ""
    while found := database.write(work):
        last = found[-1]
        yield len(found)


def _is_used(connection: Connection, name: str) -> bool:
    return any(
        connection.execute(select(table.c.result_blob).where(table.c.result_blob == name).limit(1)).first()
        for table in _REFERRING
    )
