"""Results in a storage outside of the database: which file holds each, and what it must hold.

A row comes before its file, and goes after it. So what a crash leaves is a row that nothing refers to, with or without
its file; `blobs.clean` finds it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock, identifiers, lazy
from orchestra.errors import ConfigurationError, MissingResult, ResultCorrupt, ResultStorageUnavailable
from orchestra.failpoints import failpoint
from orchestra.store.database import Database
from orchestra.store.prepared import prepare
from orchestra.store.tables import stored_results

_logger = logging.getLogger("orchestra.store")

#: Begins a `result_blob` that is a file; others are blobs of the database.
PREFIX = "stored:"
#: Begins the URL of a storage that ends with its process.
OF_ONE_PROCESS = "memory://"
#: Files deleted between two looks.
_BATCH = 200
#: Between two tries of a storage that is away, in seconds; the first is doubled from try to try.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0

_files: Callable[[], Any] = lru_cache(maxsize=1)(lambda: lazy.load("result_files"))


def is_name(name: str | None) -> bool:
    """Whether a `result_blob` is a file."""
    return name is not None and name.startswith(PREFIX)


def keep(database: Database, data: bytes, storage: str, *, patience: float = 0.0) -> str:
    """Write `data` to a file of its own, ahead of the transaction that refers to it; returns its name.

    A crash before that transaction leaves a file that nothing refers to. Trying again makes another one.

    Args:
        storage: A folder, or a URL of fsspec.
        patience: For how many seconds a storage that is away is tried.

    Raises:
        ResultStorageUnavailable: The storage did not take it in that time.
        ConfigurationError: There is no such kind of storage here.
    """
    files, own = _files(), identifiers.new_run_id()
    row = {
        "name": PREFIX + own,
        "storage": files.resolved(storage),
        "path": f"{own[:2]}/{own}",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "created_at": clock.now(),
    }
    database.write(lambda connection: connection.execute(stored_results.insert().values(row)), relaxed=True)
    failpoint("before_upload")
    _write(row, data, clock.monotonic() + patience)
    failpoint("after_upload")
    return str(row["name"])


def _write(row: dict[str, Any], data: bytes, until: float) -> None:
    pause = _FIRST_PAUSE
    while True:
        try:
            _files().write(row["storage"], row["path"], data)
            return
        except ResultStorageUnavailable as error:
            left = until - clock.monotonic()
            if left <= 0:
                raise
            _logger.warning("%s", error)
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)


def hold(connection: Connection, name: str) -> None:
    """See within a transaction that is about to refer to a file that nobody deletes it meanwhile.

    Raises:
        ResultStorageUnavailable: It was deleted, as nothing had referred to it for long.
    """
    if _HOLD.first(connection, {"b_name": name}) is None:
        reason = MissingResult("nothing had referred to it for too long")
        raise ResultStorageUnavailable(name, "a result was deleted before it was recorded", reason)


def find(connection: Connection, name: str) -> Any:
    """The row of a file.

    Raises:
        MissingResult: There is none.
    """
    row = _FIND.first(connection, {"b_name": name})
    if row is None:
        raise MissingResult(f"the result {name} is not in the database any more")
    return row


def read(row: Any) -> bytes:
    """The bytes of the file of a row that `find` gave.

    Raises:
        MissingResult: The file is gone.
        ResultCorrupt: It is not what was kept.
        ResultStorageUnavailable: The storage did not answer.
    """
    files = _files()
    data: bytes | None = files.read(row.storage, row.path)
    where = f"{row.path!r} in {files.shown(row.storage)!r}"
    if data is None:
        reason = f"the file of {row.size:,} bytes was deleted there"
        if row.storage.startswith(OF_ONE_PROCESS):
            reason = "it was in the memory of the process that wrote it; set a folder, or a URL that others reach"
        raise MissingResult(f"the result {where} is gone: {reason}")
    if len(data) != row.size:
        raise ResultCorrupt(f"the result {where} is damaged: it has {len(data):,} bytes instead of {row.size:,}")
    if hashlib.sha256(data).hexdigest() != row.sha256:
        raise ResultCorrupt(f"the result {where} is damaged: its {row.size:,} bytes have another SHA-256")
    return data


def lock(connection: Connection, name: str) -> None:
    """Have those who are about to refer to a file wait for the end of this transaction."""
    connection.execute(sa.select(stored_results.c.name).where(stored_results.c.name == name).with_for_update()).all()


def drop(connection: Connection, name: str) -> None:
    """Mark a file that nothing refers to any more, within a transaction; `remove_dropped` deletes it afterwards."""
    this = sa.update(stored_results).where(stored_results.c.name == name, stored_results.c.dropped_at.is_(None))
    connection.execute(this.values(dropped_at=clock.now()))


def remove_dropped(database: Database) -> tuple[int, int]:
    """Delete the files that are marked, and then their rows; how many, and how many were left. Safe to repeat.

    What a storage refuses is left for the next time, with a warning.
    """
    query = sa.select(stored_results).where(stored_results.c.dropped_at.is_not(None)).order_by(stored_results.c.name)
    removed, failed, last = 0, 0, ""
    while rows := database.read(
        lambda connection: connection.execute(query.where(stored_results.c.name > last).limit(_BATCH)).all()  # noqa: B023
    ):
        gone = [row.name for row in rows if _removed(row)]
        these = sa.delete(stored_results).where(stored_results.c.name.in_(gone))
        database.write(lambda connection: connection.execute(these))  # noqa: B023
        removed, failed, last = removed + len(gone), failed + len(rows) - len(gone), rows[-1].name
    return removed, failed


def _removed(row: Any) -> bool:
    try:
        _files().delete(row.storage, row.path)
    except (ResultStorageUnavailable, ConfigurationError) as error:
        _logger.warning("the file of a deleted result is left, for `orchestra db clean`: %s", error)
        return False
    return True


_this = stored_results.c.name == sa.bindparam("b_name")
_FIND = prepare(sa.select(stored_results).where(_this))
_HOLD = prepare(
    sa.select(stored_results.c.name).where(_this, stored_results.c.dropped_at.is_(None)).with_for_update(read=True)
)
