"""Profiles: named sets of settings in `profiles.toml` of the home, of which one is active.

    active = "production"

    [profiles.production]
    ORCHESTRA_DATABASE_URL = "postgresql://…"

The file may hold secrets: it is readable by its owner only, and is replaced as a whole.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestra import lazy
from orchestra.errors import ConfigurationError

#: The file's name in the home.
FILE = "profiles.toml"
#: The profile that `config set` makes where none is active.
DEFAULT = "default"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Profiles:
    """All profiles of a home: settings by their environment variables' names."""

    active: str | None = None
    by_name: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def get(self, name: str) -> Mapping[str, str]:
        """The settings of a profile.

        Raises:
            ConfigurationError: There is none of this name.
        """
        if name not in self.by_name:
            known = ", ".join(sorted(self.by_name)) or "none"
            raise ConfigurationError(
                f"there is no profile {name!r} (there are: {known}): make it by `orchestra profile create {name}`"
            )
        return self.by_name[name]

    def put(self, name: str, values: Mapping[str, str]) -> Profiles:
        """With a profile added, or replaced."""
        return replace(self, by_name={**self.by_name, checked_name(name): dict(values)})

    def without(self, name: str) -> Profiles:
        """With a profile taken out; then none is active, if it was that one."""
        self.get(name)
        left = {other: values for other, values in self.by_name.items() if other != name}
        return Profiles(None if self.active == name else self.active, left)

    def use(self, name: str | None) -> Profiles:
        """With another profile active, or none.

        Raises:
            ConfigurationError: There is none of this name.
        """
        if name is not None:
            self.get(name)
        return replace(self, active=name)


def checked_name(name: str) -> str:
    """A profile's name, if it may be one.

    Raises:
        ConfigurationError: It has other characters than letters, digits, `-` and `_`, or over 64.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is no name of a profile: use letters, digits, - and _, at most 64")
    return name


def load(home: Path) -> Profiles:
    """The profiles of a home; none where there is no file, or no home that this user may look into.

    Raises:
        ConfigurationError: The file cannot be read, or is not as it should be; names it.
    """
    path = home / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return Profiles()
    except (OSError, ValueError) as error:
        if not os.access(home, os.X_OK):
            return Profiles()
        raise ConfigurationError(f"{str(path)!r} cannot be read: {error}; mend or delete it") from error
    try:
        return _parsed(lazy.resolve("tomllib:loads")(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{str(path)!r} is no file of profiles: {error}; mend or delete it") from error


def _parsed(data: Mapping[str, object]) -> Profiles:
    active, tables = data.get("active"), data.get("profiles", {})
    if not isinstance(active, str | None) or not isinstance(tables, dict):
        raise TypeError('it needs `active = "NAME"` and tables [profiles.NAME]')
    return Profiles(active, {checked_name(name): _texts(name, table) for name, table in tables.items()})


def _texts(name: str, table: object) -> dict[str, str]:
    """A profile's values as an environment would hold them; numbers and truths may stand without quotes."""
    if not isinstance(table, dict) or any(isinstance(value, (dict, list)) for value in table.values()):
        raise TypeError(f"profile {name!r} is no table of single values")
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in table.items()}


def save(home: Path, profiles: Profiles) -> None:
    """Write the profiles of a home: a crash leaves the old file or the new one, whole.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    lines = [f"active = {_quoted(profiles.active)}", ""] if profiles.active is not None else []
    for name, values in profiles.by_name.items():
        lines += [f"[profiles.{name}]", *(f"{key} = {_quoted(value)}" for key, value in values.items()), ""]
    draft = home / f"{FILE}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("\n".join(lines))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(home / FILE)
    except OSError as error:
        raise ConfigurationError(f"{str(home / FILE)!r} cannot be written: {error}") from error
    finally:
        draft.unlink(missing_ok=True)


def _quoted(text: str) -> str:
    """A TOML string: as JSON writes it, but for what TOML allows in no string.

    Raises:
        ConfigurationError: It has control characters, or halves of characters.
    """
    if any(character != "\t" and not character.isprintable() and ord(character) < 0xA0 for character in text):
        raise ConfigurationError(f"{text!r} has control characters, which no setting needs")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{text!r} is no text: {error}") from error
    return json.dumps(text, ensure_ascii=False)
