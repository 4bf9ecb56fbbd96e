"""Concurrency limits from Python: make, look at, change and delete them. The command line and the client call these.

A limit named `tag:NAME` is one of all tasks with the tag NAME.
"""

from __future__ import annotations

from typing import Any

from orchestra.engine import slots as engine_slots
from orchestra.engine.operations import Announce
from orchestra.errors import ConfigurationError
from orchestra.store import limits
from orchestra.store.database import database
from orchestra.store.limits import HolderRecord, Limit
from orchestra.store.slots import LOCK
from orchestra.store.tables import LONGEST_NAME

__all__ = [
    "HolderRecord",
    "Limit",
    "create_limit",
    "delete_limit",
    "list_limits",
    "read_holders",
    "read_limit",
    "update_limit",
]


def create_limit(name: str, limit: int, *, active: bool = True, slot_decay_per_second: float = 0.0) -> Limit:
    """Make a limit.

    Args:
        name: By which code asks for its slots; `tag:NAME`: tasks with the tag NAME need one each.
        limit: How many slots it has; 0 holds everybody.
        active: False: it limits nothing until it is enabled.
        slot_decay_per_second: Of a rate limit: how many slots a second are free again by themselves.

    Raises:
        Conflict: There is one of this name.
        ConfigurationError: A value cannot be.
    """
    if not name or len(name) > LONGEST_NAME:
        raise ConfigurationError(f"a limit's name has 1 to {LONGEST_NAME} characters")
    if name.startswith(LOCK):
        raise ConfigurationError(f"names that begin with {LOCK!r} are those of locks, which have a limit of 1 always")
    _check(limit, slot_decay_per_second)
    limits.create(database(), name, limit, active=active, slot_decay_per_second=slot_decay_per_second)
    engine_slots.forget()
    return read_limit(name)


def read_limit(name: str) -> Limit:
    """A limit.

    Raises:
        LimitNotFound: There is none of this name.
    """
    return limits.read(database(), name)


def list_limits() -> list[Limit]:
    """All limits, by name."""
    return limits.read_all(database())


def read_holders(name: str) -> list[HolderRecord]:
    """Who has slots of a limit, then who waits for some, in their order; 1,000 at most."""
    return limits.holders(database(), name)


def update_limit(
    name: str,
    *,
    limit: int | None = None,
    active: bool | None = None,
    slot_decay_per_second: float | None = None,
    announce: Announce | None = None,
) -> Limit:
    """Change a limit; what is None stays. Who waits is served at once, who has slots keeps them.

    Args:
        announce: Tells workers of those whose turn has come; None: through the configured app.

    Raises:
        LimitNotFound: There is none of this name.
        ConfigurationError: A value cannot be, or nothing is to change.
    """
    _check(limit, slot_decay_per_second)
    given = {"slot_limit": limit, "active": active, "slot_decay_per_second": slot_decay_per_second}
    changes: dict[str, Any] = {column: value for column, value in given.items() if value is not None}
    if not changes:
        raise ConfigurationError(f"nothing is to change of the concurrency limit {name!r}: give a limit, say")
    engine_slots.tell(limits.update(database(), name, changes), announce)
    engine_slots.forget()
    return read_limit(name)


def delete_limit(name: str, announce: Announce | None = None) -> None:
    """Delete a limit: it limits nothing any more, and who waits goes on.

    Args:
        name: Of the limit.
        announce: Tells workers of those whose turn has come; None: through the configured app.

    Raises:
        LimitNotFound: There is none of this name.
    """
    engine_slots.tell(limits.delete(database(), name), announce)
    engine_slots.forget()


def _check(limit: int | None, slot_decay_per_second: float | None) -> None:
    if limit is not None and not 0 <= limit < 2**31:
        raise ConfigurationError(f"limit={limit}: a limit has 0 slots or more, and less than 2^31")
    if slot_decay_per_second is not None and slot_decay_per_second < 0:
        raise ConfigurationError(f"slot_decay_per_second={slot_decay_per_second}: a rate is 0 or more")
