"""Variables: values that people set, by the command line or in code, and that runs read by name.

In a flow's body on a worker, reading one is a step of the journal: a replay reads what it read the first time, and a
retry of the run reads anew. Setting one is a step too, done once whatever dies.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from orchestra import identifiers, serializers
from orchestra.awaitables import answer
from orchestra.engine import acts
from orchestra.errors import InvalidVariable, VariableNotFound
from orchestra.handles import in_thread
from orchestra.names import clean_text
from orchestra.store import variables
from orchestra.store.database import database
from orchestra.store.tables import LONGEST_NAME
from orchestra.store.variables import NewVariable

__all__ = ["LARGEST_VALUE", "Variable"]

T = TypeVar("T")

#: Longest value as JSON, in bytes.
LARGEST_VALUE = 64 * 1024

_NAME = re.compile(r"[a-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable as it was set. All verbs are class methods; in coroutines they are awaited, or called as `aget`, …."""

    #: Lower-case letters, digits, dashes and underscores; 255 at most.
    name: str
    #: Plain data, as JSON has it.
    value: Any = None
    tags: list[str] = field(default_factory=list)

    @classmethod
    def get(cls, name: str, default: Any = None) -> Any:
        """The value of a variable; `default` where it is not set.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        return answer(_get(name, default))

    @classmethod
    async def aget(cls, name: str, default: Any = None) -> Any:
        """As `get`, without holding up the event loop."""
        return await in_thread(lambda: _get(name, default))

    @classmethod
    def set(cls, name: str, value: Any, tags: Iterable[str] | None = None, overwrite: bool = False) -> Self:
        """Set a variable; gives it as it was set.

        Args:
            name: Lower-case letters, digits, dashes and underscores.
            value: Plain data: text, numbers, booleans, None, lists, and mappings by text.
            tags: By which people find it.
            overwrite: Change the one of this name, its tags too, if there is one. Safe to repeat then.

        Raises:
            VariableExists: There is one of this name, and `overwrite` is false; a ValueError too.
            InvalidVariable: The name, the value or a tag cannot be kept; a ValueError too.
        """
        return cls(**set_variable(name, value, tags, overwrite=overwrite))

    @classmethod
    async def aset(cls, name: str, value: Any, tags: Iterable[str] | None = None, overwrite: bool = False) -> Self:
        """As `set`, without holding up the event loop."""
        return cls(**await in_thread(lambda: set_variable(name, value, tags, overwrite=overwrite)))

    @classmethod
    def unset(cls, name: str) -> bool:
        """Delete a variable; false where there was none of this name. Safe to repeat."""
        found: bool = answer(_unset(name))
        return found

    @classmethod
    async def aunset(cls, name: str) -> bool:
        """As `unset`, without holding up the event loop."""
        return await in_thread(lambda: _unset(name))

    def __await__(self) -> Generator[None, None, Self]:
        # `await Variable.set(…)` is how coroutines ported from Prefect read.
        yield from ()
        return self


def set_variable(name: str, value: Any, tags: Iterable[str] | None, *, overwrite: bool) -> dict[str, Any]:
    """Set a variable, as `Variable.set` does; gives its fields.

    Raises:
        VariableExists: There is one of this name, and `overwrite` is false.
        InvalidVariable: The name, the value or a tag cannot be kept.
    """
    new = checked(name, value, tags)
    acts.act(
        "set-variable",
        lambda connection, moment: variables.put(connection, new, moment, overwrite=overwrite),
        None,
        serializers.encode([name, new.value, new.tags, overwrite]),
    )
    return {"name": name, "value": json.loads(new.value), "tags": json.loads(new.tags)}


def change_variable(name: str, **given: Any) -> None:
    """Change the `value` or the `tags` of a variable. Safe to repeat.

    Raises:
        VariableNotFound: There is none of this name.
        InvalidVariable: They cannot be kept.
    """
    changes = {}
    if "value" in given:
        changes["value"] = encoded_value(name, given["value"])
    if "tags" in given:
        changes["tags"] = encoded_tags(given["tags"])
    acts.act(
        "change-variable",
        lambda connection, moment: variables.change(connection, name, changes, moment),
        None,
        serializers.encode([name, changes]),
    )


def remove_variable(name: str) -> None:
    """Delete a variable.

    Raises:
        VariableNotFound: There is none of this name.
    """
    effect = acts.removal(lambda connection, moment: variables.remove(connection, name))
    acts.act("unset-variable", effect, None, serializers.encode(name))


def checked(name: str, value: Any, tags: Iterable[str] | None = None) -> NewVariable:
    """A variable to be.

    Raises:
        InvalidVariable: The name, the value or a tag cannot be kept.
    """
    return NewVariable(identifiers.new_run_id(), checked_name(name), encoded_value(name, value), encoded_tags(tags))


def checked_name(name: str) -> str:
    """The name of a variable.

    Raises:
        InvalidVariable: It cannot be one.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise InvalidVariable(
            f"{name!r} cannot be the name of a variable: it has 1 to {LONGEST_NAME} lower-case letters, digits, dashes "
            "and underscores"
        )
    return name


def encoded_value(name: str, value: Any) -> str:
    """A value as JSON.

    Raises:
        InvalidVariable: JSON cannot hold it, or it is too large.
    """
    try:
        _check_keys(value)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidVariable(
            f"the value of variable {name!r} cannot be written as JSON: {error}; use text, numbers, booleans, None, "
            "lists, and dictionaries with text as keys"
        ) from error
    text = clean_text(text)
    if (size := len(text.encode())) > LARGEST_VALUE:
        raise InvalidVariable(
            f"the value of variable {name!r} is {size:,} bytes of JSON; at most {LARGEST_VALUE:,} are kept. Keep the "
            "data elsewhere, and its place in the variable"
        )
    return text


def encoded_tags(tags: Iterable[str] | None) -> str:
    """Tags as JSON, each once.

    Raises:
        InvalidVariable: They are no list of texts.
    """
    given = [] if tags is None else [tags] if isinstance(tags, str) else list(tags)
    if isinstance(tags, str) or not all(isinstance(tag, str) for tag in given):
        raise InvalidVariable(f"the tags of a variable are a list of texts, not {tags!r}")
    return json.dumps(list(dict.fromkeys(clean_text(tag) for tag in given)))


def _check_keys(value: Any) -> None:
    """Refuse what JSON would change on the way: keys that are no text, numbers that it has not."""
    if isinstance(value, dict):
        for key, each in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is no text")
            _check_keys(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            _check_keys(each)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no number of JSON")


def _get(name: str, default: Any) -> Any:
    def look() -> list[Any]:
        found = variables.find(database(), name)
        return [] if found is None else [found.value]

    found = acts.seen("variable", look)
    return found[0] if found else default


def _unset(name: str) -> bool:
    try:
        remove_variable(name)
    except VariableNotFound:
        return False
    return True
