"""Rows of users, their sessions, and API keys. What is secret comes here as a digest only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock
from orchestra.errors import AlreadyThere, ApiKeyNotFound, UserNotFound
from orchestra.store import events, named_rows
from orchestra.store.database import Database, insert
from orchestra.store.tables import api_keys, sessions, users

#: How much older the time of a key's last use may be than it says, in seconds: not every request is a write.
_USE_STEP = 60.0


@dataclass(frozen=True, slots=True)
class User:
    """Who may log in."""

    id: str
    name: str
    scope: str
    disabled: bool
    created: datetime | None
    last_login: datetime | None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, without what it is; `prefix` is how it begins."""

    id: str
    name: str
    prefix: str
    scope: str
    created: datetime | None
    expires: datetime | None
    last_used: datetime | None


def create_user(database: Database, name: str, password_hash: str, scope: str) -> None:
    """Add a user.

    Raises:
        AlreadyThere: There is one of this name.
    """
    values = {"name": name, "password_hash": password_hash, "scope": scope, "created_at": clock.now()}
    if not named_rows.create(database, users, "user", values, scope=scope):
        raise AlreadyThere("user", name, "change it with `orchestra user update`")


def update_user(database: Database, name: str, **changes: Any) -> None:
    """Change columns of a user; who they were logged in as until now is logged out.

    Raises:
        UserNotFound: There is none of this name.
    """

    def work(connection: Connection) -> bool:
        user_id = connection.scalar(sa.select(users.c.id).where(users.c.name == name))
        if user_id is None:
            return False
        connection.execute(sa.update(users).where(users.c.id == user_id).values(changes))
        connection.execute(sa.delete(sessions).where(sessions.c.user_id == user_id))
        events.record(connection, events.act("user", "updated", user_id, name, id=event_id, changed=sorted(changes)))
        return True

    event_id = events.new_id()
    if not database.write(work):
        raise UserNotFound(name)


def delete_user(database: Database, name: str) -> None:
    """Delete a user and their sessions.

    Raises:
        UserNotFound: There is none of this name.
    """
    if not _delete(database, users, "user", name):
        raise UserNotFound(name)


def list_users(database: Database) -> list[User]:
    """All users by name."""
    query = sa.select(users).order_by(users.c.name)
    return [_user(row) for row in database.read(lambda connection: connection.execute(query).all())]


def password_hash(database: Database, name: str) -> str | None:
    """The hash of a user who may log in; None where there is none such."""
    query = sa.select(users.c.password_hash).where(users.c.name == name, users.c.disabled_at.is_(None))
    return database.read(lambda connection: connection.scalar(query))


def rehash(database: Database, name: str, old: str, new: str) -> None:
    """Put a stronger hash of the same password in place; nothing where the password was changed meanwhile."""
    statement = sa.update(users).where(users.c.name == name, users.c.password_hash == old)
    database.write(lambda connection: connection.execute(statement.values(password_hash=new)))


def open_session(database: Database, name: str, digest: str, seconds: float) -> bool:
    """Begin a session of a user, and drop those that are over; false where they may not log in any more."""
    moment = clock.now()

    def work(connection: Connection) -> bool:
        may = sa.select(users.c.id).where(users.c.name == name, users.c.disabled_at.is_(None))
        user_id = connection.scalar(may)
        if user_id is None:
            return False
        connection.execute(sa.delete(sessions).where(sessions.c.expires_at < moment))
        values = {"digest": digest, "user_id": user_id, "created_at": moment, "expires_at": moment + seconds}
        connection.execute(insert(connection, sessions).values(values).on_conflict_do_nothing())
        connection.execute(sa.update(users).where(users.c.id == user_id).values(last_login_at=moment))
        return True

    return database.write(work)


def close_session(database: Database, digest: str) -> None:
    """End a session. Safe to repeat."""
    database.write(lambda connection: connection.execute(sa.delete(sessions).where(sessions.c.digest == digest)))


def user_of_session(database: Database, digest: str) -> User | None:
    """Who is logged in by a session that is not over."""
    query = (
        sa.select(users)
        .join(sessions, sessions.c.user_id == users.c.id)
        .where(sessions.c.digest == digest, sessions.c.expires_at > clock.now(), users.c.disabled_at.is_(None))
    )
    row = database.read(lambda connection: connection.execute(query).first())
    return None if row is None else _user(row)


def create_key(
    database: Database, name: str, *, prefix: str, digest: str, scope: str, expires_at: float | None
) -> None:
    """Add an API key.

    Raises:
        AlreadyThere: There is one of this name.
    """
    values = {
        "name": name,
        "prefix": prefix,
        "digest": digest,
        "scope": scope,
        "created_at": clock.now(),
        "expires_at": expires_at,
    }
    if not named_rows.create(database, api_keys, "api-key", values, scope=scope):
        raise AlreadyThere("API key", name, "delete it with `orchestra api-key delete`, or choose another name")


def delete_key(database: Database, name: str) -> None:
    """Delete an API key: it opens nothing from now on.

    Raises:
        ApiKeyNotFound: There is none of this name.
    """
    if not _delete(database, api_keys, "api-key", name):
        raise ApiKeyNotFound(name)


def list_keys(database: Database) -> list[ApiKey]:
    """All API keys by name."""
    query = sa.select(api_keys).order_by(api_keys.c.name)
    return [_key(row) for row in database.read(lambda connection: connection.execute(query).all())]


def use_key(database: Database, digest: str) -> ApiKey | None:
    """The key with this digest, if it has not expired; its last use is noted once a minute."""
    moment = clock.now()
    column = api_keys.c
    query = sa.select(api_keys).where(
        column.digest == digest, sa.or_(column.expires_at.is_(None), column.expires_at > moment)
    )
    row = database.read(lambda connection: connection.execute(query).first())
    if row is None:
        return None
    if row.last_used_at is None or row.last_used_at < moment - _USE_STEP:
        noted = sa.update(api_keys).where(column.id == row.id).values(last_used_at=moment)
        database.write(lambda connection: connection.execute(noted), relaxed=True)
    return _key(row)


def is_any(database: Database) -> bool:
    """Whether there is anybody, or any key, that may use the server."""
    query = sa.select(sa.exists(sa.select(users.c.id)) | sa.exists(sa.select(api_keys.c.id)))
    return bool(database.read(lambda connection: connection.scalar(query)))


def _delete(database: Database, table: sa.Table, noun: str, name: str) -> bool:
    statement = sa.delete(table).where(table.c.name == name).returning(table.c.id)
    return named_rows.change(database, statement, noun, "deleted", name)


def _user(row: Any) -> User:
    return User(
        id=row.id,
        name=row.name,
        scope=row.scope,
        disabled=row.disabled_at is not None,
        created=clock.to_datetime(row.created_at),
        last_login=clock.to_datetime(row.last_login_at),
    )


def _key(row: Any) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        scope=row.scope,
        created=clock.to_datetime(row.created_at),
        expires=clock.to_datetime(row.expires_at),
        last_used=clock.to_datetime(row.last_used_at),
    )
