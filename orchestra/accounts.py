"""Users, API keys and sessions of the server: made, checked and ended here, for the command line and the server.

Passwords are kept as Argon2id hashes, keys and session tokens as SHA-256 digests: 256 random bits need no slow hash.
"""

from __future__ import annotations

import enum
import hashlib
import re
import secrets
from functools import lru_cache

from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError

from orchestra import clock
from orchestra.errors import ConfigurationError
from orchestra.store import access
from orchestra.store.access import ApiKey, User
from orchestra.store.database import Database

#: Of a password, in characters.
SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 1024
#: How long a login holds, in seconds.
SESSION_SECONDS = 7 * 86_400.0

_KEY_PREFIX = "orc_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._+-]{0,127}")


class Scope(enum.StrEnum):
    """What somebody may do; each includes those before it."""

    READ = "read"
    RUN = "run"
    ADMIN = "admin"

    def includes(self, other: Scope) -> bool:
        """Whether who has this scope may do what asks for the other."""
        order = list(Scope)
        return order.index(self) >= order.index(other)


def create_user(database: Database, name: str, password: str, scope: Scope) -> None:
    """Add a user, who may log in at once.

    Raises:
        AlreadyThere: There is one of this name.
        ConfigurationError: The name or the password will not do.
    """
    access.create_user(database, _checked(name), _hashed(password), scope.value)


def update_user(
    database: Database,
    name: str,
    *,
    password: str | None = None,
    scope: Scope | None = None,
    disabled: bool | None = None,
) -> None:
    """Change a user, in one write; what is None stays. Whoever is logged in as them is logged out.

    Args:
        disabled: Keep them out at once, or let them in again.

    Raises:
        UserNotFound: There is none of this name.
        ConfigurationError: The password will not do.
    """
    changes: dict[str, object] = {}
    if password is not None:
        changes["password_hash"] = _hashed(password)
    if scope is not None:
        changes["scope"] = scope.value
    if disabled is not None:
        changes["disabled_at"] = clock.now() if disabled else None
    if changes:
        access.update_user(database, name, **changes)


def log_in(database: Database, name: str, password: str) -> str | None:
    """A token of a new session; None where name or password is wrong, after the same time for both."""
    kept = access.password_hash(database, name)
    if len(password) > LONGEST_PASSWORD:
        return None
    is_right, stronger = _verified(password, kept or _nobodys_hash())
    if kept is None or not is_right:
        return None
    if stronger is not None:
        access.rehash(database, name, kept, stronger)
    token = secrets.token_urlsafe(32)
    return token if access.open_session(database, name, digest(token), SESSION_SECONDS) else None


def log_out(database: Database, token: str) -> None:
    """End a session. Safe to repeat."""
    access.close_session(database, digest(token))


def logged_in(database: Database, token: str) -> User | None:
    """Whose session this is; None where it is over."""
    return access.user_of_session(database, digest(token))


def create_key(database: Database, name: str, scope: Scope, expires_in: float | None = None) -> str:
    """Add an API key and give it, once: only its digest is kept.

    Args:
        expires_in: Seconds from now; None: never.

    Raises:
        AlreadyThere: There is one of this name.
        ConfigurationError: The name will not do.
    """
    key = _KEY_PREFIX + secrets.token_urlsafe(32)
    access.create_key(
        database,
        _checked(name),
        prefix=key[: len(_KEY_PREFIX) + 6],
        digest=digest(key),
        scope=scope.value,
        expires_at=None if expires_in is None else clock.now() + expires_in,
    )
    return key


def key_of(database: Database, key: str) -> ApiKey | None:
    """The API key that this is; None where it is none, or has expired."""
    return access.use_key(database, digest(key)) if key.startswith(_KEY_PREFIX) else None


def digest(token: str) -> str:
    """What is kept of a random token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is no name here: letters, digits and @ . _ + -, at most 128, no space")
    return name


def _hashed(password: str) -> str:
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise ConfigurationError(f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    return _hasher().hash(password)


def _verified(password: str, kept: str) -> tuple[bool, str | None]:
    try:
        return _hasher().verify_and_update(password, kept)
    except UnknownHashError:
        return False, None


@lru_cache(maxsize=1)
def _hasher() -> PasswordHash:
    return PasswordHash.recommended()


@lru_cache(maxsize=1)
def _nobodys_hash() -> str:
    """What is compared where there is no such user, so that this takes as long."""
    return _hasher().hash(secrets.token_urlsafe(16))
