"""Artifacts: rows that are only added, each key's newest one known, lists by time and by key.

A version of a key outlives the run that made it; an artifact without a key goes with its run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock
from orchestra.errors import ArtifactNotFound, IdempotencyConflict
from orchestra.store import events
from orchestra.store.database import Database, insert
from orchestra.store.spans import unindexed
from orchestra.store.tables import artifact_collections, artifacts, flow_runs

#: Most versions of a key that one transaction deletes.
_CHUNK = 500
#: In lists they may be left out.
_CONTENT = ("data", "metadata")
#: What stays the same of an artifact, whatever is changed.
_SAME = ("key", "flow_run_id", "task_run_id")
#: What a list is asked for by: of the fewest artifacts first.
_NARROWEST = ("task_run_id", "flow_run_id", "key", "type")


@dataclass(frozen=True, slots=True)
class NewArtifact:
    """An artifact to be. `data` and `metadata` are JSON."""

    id: str
    key: str | None = None
    type: str | None = None
    description: str | None = None
    data: str | None = None
    metadata: str | None = None
    flow_run_id: str | None = None
    task_run_id: str | None = None

    def row(self, moment: float) -> dict[str, Any]:
        """Its row, made at that instant."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return values | {"created_at": moment, "updated_at": moment}


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact that is kept, with Prefect's field names."""

    id: str
    key: str | None
    type: str | None
    description: str | None
    #: As it was given: text of markdown, an image's address, a table as JSON text, a progress as number.
    data: Any
    metadata_: dict[str, str] | None
    flow_run_id: str | None
    task_run_id: str | None
    created: datetime
    updated: datetime


@dataclass(frozen=True, slots=True)
class Query:
    """Which artifacts are meant; None: all."""

    key: str | None = None
    type: str | None = None
    flow_run_id: str | None = None
    task_run_id: str | None = None


def add(connection: Connection, new: NewArtifact, moment: float) -> None:
    """Keep an artifact, which is the newest of its key then.

    One with this id is replaced, as if its first making had not been: the body that made it was run again after a
    crash. All that is to follow from a new artifact belongs in here, into the same transaction.
    """
    row = new.row(moment)
    statement = insert(connection, artifacts).values(row)
    again = {name: value for name, value in row.items() if name != "id"}
    connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=again))
    follow(connection, row)


def add_once(connection: Connection, new: NewArtifact, moment: float) -> None:
    """Keep an artifact, unless that was done: one with its id stays as it is, changed since or not.

    Raises:
        IdempotencyConflict: That one is of another key or run.
    """
    row = connection.execute(sa.select(artifacts).where(artifacts.c.id == new.id)).mappings().first()
    if row is None:
        add(connection, new, moment)
    elif any(row[name] != getattr(new, name) for name in _SAME):
        raise IdempotencyConflict(
            f"this idempotency key was used for artifact {new.id}, which is of another key or run"
        )


def follow(connection: Connection, row: Mapping[str, Any]) -> None:
    """What follows from the row of a new artifact, once it is written: an event with its id, so that it is one."""
    told = events.act(
        "artifact", "created", row["id"], row["key"], id=row["id"], run_id=row["flow_run_id"], type=row["type"]
    )
    events.record(connection, told)
    if row["key"] is not None:
        _keep_latest(connection, row)


def _keep_latest(connection: Connection, row: Mapping[str, Any]) -> None:
    column = artifact_collections.c
    latest = {"latest_id": row["id"], "type": row["type"], "created_at": row["created_at"]}
    statement = insert(connection, artifact_collections).values(key=row["key"], **latest)
    # One that a local run has written behind may be older than what is there.
    newer = (column.created_at <= row["created_at"]) | (column.latest_id == row["id"])
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_=latest, where=newer))


def change(connection: Connection, artifact_id: str, changes: Mapping[str, Any], moment: float) -> None:
    """Change columns of an artifact in place. Safe to repeat.

    Raises:
        ArtifactNotFound: There is none with this id.
    """
    statement = sa.update(artifacts).where(artifacts.c.id == artifact_id).values(updated_at=moment, **changes)
    row = connection.execute(statement.returning(artifacts.c.key, artifacts.c.type)).first()
    if row is None:
        raise ArtifactNotFound(artifact_id)
    if "type" in changes:
        latest = sa.update(artifact_collections).where(artifact_collections.c.latest_id == artifact_id)
        connection.execute(latest.where(artifact_collections.c.key == row.key).values(type=row.type))


def delete(connection: Connection, artifact_id: str) -> None:
    """Delete an artifact; the one before it is the newest of its key then.

    Raises:
        ArtifactNotFound: There is none with this id.
    """
    row = connection.execute(sa.select(artifacts.c.key).where(artifacts.c.id == artifact_id)).first()
    if row is None:
        raise ArtifactNotFound(artifact_id)
    # Locked before the versions are looked at: one that is added meanwhile waits, and is seen or is the newest after.
    latest = None if row.key is None else _lock_latest(connection, row.key)
    connection.execute(sa.delete(artifacts).where(artifacts.c.id == artifact_id))
    events.record(connection, events.act("artifact", "deleted", artifact_id, row.key))
    if latest == artifact_id:
        _fall_back(connection, row.key)


def delete_key(database: Database, key: str) -> int:
    """Delete all versions of a key; gives how many there were. Some may be gone where it fails in between.

    Raises:
        ArtifactNotFound: There is none of this key.
    """

    def work(connection: Connection) -> int:
        _lock_latest(connection, key)
        # The oldest first, so that the newest stays right until it goes.
        some = sa.select(artifacts.c.id).where(artifacts.c.key == key).order_by(artifacts.c.created_at, artifacts.c.id)
        ids = connection.scalars(some.limit(_CHUNK)).all()
        connection.execute(sa.delete(artifacts).where(artifacts.c.id.in_(ids)))
        if len(ids) < _CHUNK:
            _fall_back(connection, key)
        return len(ids)

    # Looked for before: where the answer to a commit is lost, its repetition finds fewer, or none.
    if find_latest(database, key) is None:
        raise ArtifactNotFound(f"of the key {key!r}")
    deleted = last = database.write(work)
    while last == _CHUNK:
        last = database.write(work)
        deleted += last
    return deleted


def delete_of_runs(connection: Connection, flow_run_ids: Sequence[str]) -> None:
    """Delete what only these flow runs have: their artifacts without a key."""
    ours = (artifacts.c.flow_run_id.in_(flow_run_ids), artifacts.c.key.is_(None))
    connection.execute(sa.delete(artifacts).where(*ours))


def delete_old(database: Database, before: float, after: tuple[float, str] | None = None) -> tuple[int, Any]:
    """Delete some of the artifacts that are older than a time and that nothing shows any more.

    These are versions of a key before its newest one, and artifacts without a key that no run has.

    Args:
        before: Seconds since the epoch.
        after: Where the call before ended; None: from the oldest on.

    Returns:
        How many were deleted, and where it ended; None: there are no more.
    """
    column = artifacts.c
    query = sa.select(column.id, column.created_at).where(column.created_at < before)
    if after is not None:
        query = query.where(sa.tuple_(column.created_at, column.id) > sa.tuple_(*map(sa.literal, after)))
    query = query.order_by(column.created_at, column.id).limit(_CHUNK)
    newest = sa.select(artifact_collections.c.latest_id).where(artifact_collections.c.key == column.key)
    run = sa.select(flow_runs.c.id).where(flow_runs.c.id == column.flow_run_id)
    is_over = sa.case((column.key.is_(None), ~sa.exists(run)), else_=column.id != newest.scalar_subquery())

    def work(connection: Connection) -> tuple[int, Any]:
        page = connection.execute(query).all()
        if not page:
            return 0, None
        doomed = sa.delete(artifacts).where(column.id.in_([row.id for row in page]), is_over)
        return connection.execute(doomed).rowcount, (page[-1].created_at, page[-1].id)

    return database.write(work)


def _lock_latest(connection: Connection, key: str) -> str | None:
    column = artifact_collections.c
    found: str | None = connection.scalar(sa.select(column.latest_id).where(column.key == key).with_for_update())
    return found


def _fall_back(connection: Connection, key: str) -> None:
    """Make the newest version that is left the latest of its key."""
    column = artifacts.c
    query = sa.select(column.id.label("latest_id"), column.type, column.created_at).where(column.key == key)
    newest = connection.execute(query.order_by(column.created_at.desc(), column.id.desc()).limit(1)).mappings().first()
    this = artifact_collections.c.key == key
    if newest is None:
        connection.execute(sa.delete(artifact_collections).where(this))
    else:
        connection.execute(sa.update(artifact_collections).where(this).values(dict(newest)))


# -- reading -----------------------------------------------------------------------------------------------------


def read(database: Database, artifact_id: str) -> Artifact:
    """An artifact.

    Raises:
        ArtifactNotFound: There is none with this id.
    """
    query = sa.select(artifacts).where(artifacts.c.id == artifact_id)
    row: Any = database.read(lambda connection: connection.execute(query).mappings().first())
    if row is None:
        raise ArtifactNotFound(artifact_id)
    return record(row)


def find_latest(database: Database, key: str) -> Artifact | None:
    """The newest artifact of a key; None where there is none."""
    query = select_latest().where(artifact_collections.c.key == key)
    row: Any = database.read(lambda connection: connection.execute(query).mappings().first())
    return None if row is None else record(row)


def page(
    database: Database, query: Query, *, limit: int, after: str | None = None, with_data: bool = True
) -> list[Artifact]:
    """Artifacts that fit, the newest first.

    Args:
        after: The id of the last one of the page before.
        with_data: False: `data` and `metadata_` are None, which is quick where they are large.

    Raises:
        ArtifactNotFound: `after` is not there any more.
    """
    column = artifacts.c
    # The narrowest is to be looked for by its index.
    given = [name for name in _NARROWEST if getattr(query, name) is not None]
    found = [column[name] == getattr(query, name) for name in given[:1]]
    found += [unindexed(column[name]) == getattr(query, name) for name in given[1:]]
    wanted = sa.select(*_columns(with_data)).where(*found)
    wanted = wanted.order_by(column.created_at.desc(), column.id.desc()).limit(limit)

    def look(connection: Connection) -> Sequence[Any]:
        if after is not None:
            before = _position(connection, after)
            return _all(connection, wanted.where(sa.tuple_(column.created_at, column.id) < (before.created_at, after)))
        return _all(connection, wanted)

    return [record(row) for row in database.read(look)]


def page_latest(
    database: Database,
    *,
    type: str | None = None,
    order: Literal["time", "key"] = "time",
    limit: int,
    after: str | None = None,
    with_data: bool = True,
) -> list[Artifact]:
    """The newest artifact of each key: the newest first, or by key.

    Args:
        after: The id of the last one of the page before.
        with_data: As in `page`.

    Raises:
        ArtifactNotFound: `after` is not there any more.
    """
    column = artifact_collections.c
    wanted = select_latest(with_data).limit(limit)
    if type is not None:
        wanted = wanted.where(column.type == type)
    if order == "time":
        wanted = wanted.order_by(column.created_at.desc(), column.key.desc())
    else:
        wanted = wanted.order_by(column.key)

    def look(connection: Connection) -> Sequence[Any]:
        if after is None:
            return _all(connection, wanted)
        last = _position(connection, after)
        if order == "key":
            return _all(connection, wanted.where(column.key > last.key))
        return _all(connection, wanted.where(sa.tuple_(column.created_at, column.key) < (last.created_at, last.key)))

    return [record(row) for row in database.read(look)]


def select_latest(with_data: bool = True) -> sa.Select[Any]:
    """The newest artifacts of the keys, as `record` reads them."""
    joined = artifact_collections.join(artifacts, artifacts.c.id == artifact_collections.c.latest_id)
    return sa.select(*_columns(with_data)).select_from(joined)


def _columns(with_data: bool) -> list[sa.Column[Any]]:
    return [column for column in artifacts.c if with_data or column.name not in _CONTENT]


def _position(connection: Connection, artifact_id: str) -> Any:
    column = artifacts.c
    row = connection.execute(sa.select(column.created_at, column.key).where(column.id == artifact_id)).first()
    if row is None:
        raise ArtifactNotFound(artifact_id)
    return row


def _all(connection: Connection, query: sa.Select[Any]) -> Sequence[Any]:
    return connection.execute(query).mappings().all()


def record(row: Mapping[str, Any]) -> Artifact:
    """A row as people get it."""
    return Artifact(
        id=row["id"],
        key=row["key"],
        type=row["type"],
        description=row["description"],
        data=_decoded(row.get("data")),
        metadata_=_decoded(row.get("metadata")),
        flow_run_id=row["flow_run_id"],
        task_run_id=row["task_run_id"],
        created=clock.to_datetime(row["created_at"]),
        updated=clock.to_datetime(row["updated_at"]),
    )


def _decoded(text: str | None) -> Any:
    return None if text is None else json.loads(text)
