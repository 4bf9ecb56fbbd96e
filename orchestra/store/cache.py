"""The cache: results that later calls of a task are answered with.

An entry is written in the transaction that ends the step which computed it, or, where none is journaled, in one of its
own. Entries are found by one key; one that has expired is not found, and goes when others are written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra.errors import ResultCorrupt
from orchestra.serializers import clean_text
from orchestra.store import blobs
from orchestra.store.database import Database, insert_for, now
from orchestra.store.prepared import Prepared, prepare
from orchestra.store.tables import LONGEST_NAME, cache_entries, slots, transactions
from orchestra.transaction_rules import Durable

#: Most expired entries that go with the writing of one.
PRUNED_WITH_EACH = 10
#: Entries deleted in one transaction.
_BATCH = 500


@dataclass(slots=True)
class NewEntry:
    """A result to be kept for later calls."""

    key: str
    policy_key: str
    task: str
    task_name: str
    run_id: str | None = None
    step_id: str | None = None
    #: For how many seconds it is used; None: for ever.
    expires_in: float | None = None
    #: The run attempt and key of the transaction that must be committed before it is used; None: there is none.
    transaction: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Keeping:
    """What goes along with the write of a call's end."""

    #: None: its result is not kept.
    entry: NewEntry | None
    #: Who holds the lock of its key in the database, and gives it up.
    holder: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A result that answers a call."""

    data: bytes
    #: The name of its blob, where it is large.
    blob: str | None


@dataclass(frozen=True, slots=True)
class Query:
    """Which entries are meant; all of what is given must be so."""

    #: The name or path of their task.
    task: str | None = None
    #: Their key or its beginning, or what the policy says.
    key: str | None = None
    #: Seconds since they were written.
    older_than: float | None = None
    expired_only: bool = False


def find(database: Database, key: str) -> Found | None:
    """The result kept under `key`, unless it has expired or may yet be rolled back; None where there is none.

    Raises:
        MissingResult: There is one, and its blob is gone.
        ResultCorrupt: It is damaged.
    """

    row = database.read(lambda connection: _FIND.first(connection, {"b_key": key}))
    if row is None:
        return None
    return Found(row.result if row.result_blob is None else _large(database, row.result_blob), row.result_blob)


def _large(database: Database, name: str) -> bytes:
    try:
        return blobs.fetch(database, name)
    except ResultCorrupt:
        # The same result, computed anew, has the same name.
        blobs.discard(database, name)
        raise


def keep(database: Database, keeping: Keeping, data: bytes | None, kept: str | None = None) -> None:
    """Write an entry in a transaction of its own. Safe to repeat: it replaces what is there.

    Args:
        data: The encoded value.
        kept: The name of the blob that it was put into ahead.
    """
    database.write(lambda connection: settle(connection, keeping, data, kept))


def settle(connection: Connection, keeping: Keeping, data: bytes | None, kept: str | None = None) -> None:
    """Within the transaction that writes a call's end: keep its result, and give the lock of its key up."""
    if keeping.entry is not None and data is not None:
        write(connection, keeping.entry, data, kept)
    if keeping.holder is not None:
        _GIVE_UP.count(connection, {"b_holder": keeping.holder})


def write(connection: Connection, entry: NewEntry, data: bytes, kept: str | None = None) -> None:
    """Write an entry within a transaction, and let some go that have expired.

    Args:
        data: The encoded value.
        kept: The name that `blobs.keep` gave for it, where it is large.
    """
    result, blob = blobs.place(connection, data, kept)
    replaced = _BLOB_OF.first(connection, {"b_key": entry.key})
    _WRITE.count(connection, _row(entry, len(data)) | {"result": result, "result_blob": blob})
    unused = {replaced.result_blob} if replaced is not None and replaced.result_blob not in (None, blob) else set()
    if entry.expires_in is not None:
        unused |= _delete(connection, _expired(), PRUNED_WITH_EACH)[1]
    blobs.drop_unused(connection, unused)


def clear(database: Database, query: Query) -> int:
    """Delete entries, in batches; returns how many. Calls that ask for them compute anew.

    Their files in a storage go last, where no run refers to them: what a crash or a storage that is away leaves of
    those, `blobs.clean` finds.
    """
    total, names = 0, set[str]()
    for count, unused in _cleared(database, conditions(query)):
        total += count
        names |= unused
    blobs.remove_dropped(database, names)
    return total


def _cleared(database: Database, which: Collection[Any]) -> Iterator[tuple[int, set[str]]]:
    def work(connection: Connection) -> tuple[int, set[str]]:
        count, unused = _delete(connection, which, _BATCH)
        blobs.drop_unused(connection, unused)
        return count, unused

    while (deleted := database.write(work))[0]:
        yield deleted


def _delete(connection: Connection, which: Collection[Any], most: int) -> tuple[int, set[str]]:
    """Delete entries that nobody writes just now; how many, and the blobs that they referred to."""
    chosen = sa.select(cache_entries.c.key).where(*which).limit(most).with_for_update(skip_locked=True)
    keys = list(connection.scalars(chosen))
    if not keys:
        return 0, set()
    gone = sa.delete(cache_entries).where(cache_entries.c.key.in_(keys)).returning(cache_entries.c.result_blob)
    return len(keys), {name for name in connection.scalars(gone) if name is not None}


def conditions(query: Query) -> list[sa.ColumnElement[bool]]:
    """What a row must meet to be meant by `query`."""
    column = cache_entries.c
    found: list[sa.ColumnElement[bool]] = []
    if query.task is not None:
        found.append(sa.or_(column.task_name == query.task, column.task == query.task))
    if query.key is not None:
        found.append(sa.or_(column.key.startswith(query.key, autoescape=True), column.policy_key == query.key))
    if query.older_than is not None:
        found.append(column.created_at < _MOMENT - query.older_than)
    return found + (_expired() if query.expired_only else [])


#: The present, looked at once: by a clock that goes on PostgreSQL takes no index.
_MOMENT = sa.select(now()).scalar_subquery()


def _expired() -> list[sa.ColumnElement[bool]]:
    return [cache_entries.c.expires_at.is_not(None), cache_entries.c.expires_at <= _MOMENT]


def _row(entry: NewEntry, size: int) -> dict[str, Any]:
    return {
        "key": entry.key,
        "policy_key": clean_text(entry.policy_key),
        "task": clean_text(entry.task),
        "task_name": clean_text(entry.task_name)[:LONGEST_NAME],
        "size": size,
        "run_id": entry.run_id,
        "step_id": entry.step_id,
        "b_expires_in": entry.expires_in,
        "transaction_attempt": entry.transaction[0] if entry.transaction else None,
        "transaction_key": entry.transaction[1] if entry.transaction else None,
    }


def _write_of(dialect: str) -> Any:
    values: dict[str, Any] = {
        column.name: sa.bindparam(column.name, type_=column.type)
        for column in cache_entries.c
        if column.name not in ("created_at", "expires_at")
    }
    values["created_at"] = now()
    values["expires_at"] = now() + sa.bindparam("b_expires_in", type_=sa.Double)
    statement = insert_for(dialect, cache_entries).values(values)
    given = {name: statement.excluded[name] for name in values if name != "key"}
    return statement.on_conflict_do_update(index_elements=["key"], set_=given)


_WRITE = Prepared(_write_of)
_GIVE_UP = prepare(sa.delete(slots).where(slots.c.holder == sa.bindparam("b_holder")))
_this = cache_entries.c.key == sa.bindparam("b_key")
_BLOB_OF = prepare(sa.select(cache_entries.c.result_blob).where(_this))
_unexpired = sa.or_(cache_entries.c.expires_at.is_(None), cache_entries.c.expires_at > now())
_stands = sa.or_(
    cache_entries.c.transaction_key.is_(None),
    sa.exists().where(
        transactions.c.run_id == cache_entries.c.run_id,
        transactions.c.run_attempt == cache_entries.c.transaction_attempt,
        transactions.c.key == cache_entries.c.transaction_key,
        transactions.c.state == Durable.COMMITTED.value,
    ),
)
_FIND = prepare(sa.select(cache_entries.c.result, cache_entries.c.result_blob).where(_this, _unexpired, _stands))
