"""Settings: one frozen record, and the only reader of the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from orchestra.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user may set, by environment variables named `ORCHESTRA_` and the field's name in capitals.

    Durations are in seconds, sizes in bytes.
    """

    #: Where the SQLite database, the secret key and the embedded broker's files live.
    home: Path = Path("~/.orchestra")
    #: SQLAlchemy URL of the database; empty means `orchestra.db` under `home`.
    database_url: str = ""
    #: Celery broker URL of the app that orchestra builds itself.
    broker_url: str = ""
    #: Key that signs pickles and typed values; empty means one made under `home`, mode 0600.
    secret_key: str = ""
    #: Modules with flows, imported by a worker at its start; comma-separated.
    flows: tuple[str, ...] = ()
    #: The Celery app to use, as `module` or `module:attribute`; empty means orchestra's own.
    app: str = ""
    #: How long a claim holds unless renewed; heartbeats come every sixth of it.
    lease_seconds: float = 30.0
    #: How often what is due is announced again.
    sweep_seconds: float = 5.0
    #: Starts without a new journal row after which a run or task is marked Crashed.
    crash_budget: int = 3
    #: For how long a worker's parent renews the claims of a child that is alive but silent.
    hung_after: float = 600.0
    #: Largest encoded parameters of a flow run.
    parameters_max_bytes: int = 512 * 1024
    #: Encoded results above this go to the blobs table.
    result_inline_max_bytes: int = 1024 * 1024
    #: Largest encoded result.
    result_max_bytes: int = 256 * 1024 * 1024
    #: Longest log line kept, in bytes; the rest is cut with a mark.
    log_line_max_bytes: int = 64 * 1024
    #: Most log lines of one run that one process keeps; it says where it stopped.
    log_run_max_lines: int = 50_000
    #: Lowest level of run log lines that are kept.
    log_level: str = "INFO"
    #: Whether run logs are also written to the console.
    log_to_console: bool = True
    #: How often tasks that do not say it are tried again.
    tasks_default_retries: int = 0
    #: The pause before that.
    tasks_default_retry_delay_seconds: float = 0.0
    #: How often flows that do not say it are run again.
    flows_default_retries: int = 0
    #: The pause before that.
    flows_default_retry_delay_seconds: float = 0.0

    @property
    def home_path(self) -> Path:
        """`home` with `~` expanded; created on first use, readable by its owner only.

        Raises:
            ConfigurationError: It is no folder, or cannot be created.
        """
        path = self.home.expanduser()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"ORCHESTRA_HOME={str(path)!r} cannot be used ({error}): name a folder that this user may write to"
            ) from error
        return path

    @property
    def resolved_database_url(self) -> str:
        """The database URL in force."""
        return self.database_url or f"sqlite:///{self.home_path / 'orchestra.db'}"


def from_env(environ: Mapping[str, str]) -> Settings:
    """Settings as the environment gives them.

    Raises:
        ConfigurationError: A value cannot be read as its setting's type.
    """
    given: dict[str, Any] = {}
    for field in fields(Settings):
        name = f"ORCHESTRA_{field.name.upper()}"
        if text := environ.get(name, "").strip():
            given[field.name] = _read(name, text, field.default)
    return Settings(**given)


def _read(name: str, text: str, default: Any) -> Any:
    try:
        if isinstance(default, bool):
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        if isinstance(default, tuple):
            return tuple(part.strip() for part in text.split(",") if part.strip())
        value = type(default)(text)
        if isinstance(value, int | float) and not (0 < value < float("inf") or value == default):
            raise ConfigurationError(
                f"{name}={text!r} is no number {'from' if default == 0 else 'above'} 0; mend or unset it"
            )
        return value
    except ConfigurationError:
        raise
    except (ValueError, KeyError) as error:
        kind = type(default).__name__
        raise ConfigurationError(f"{name}={text!r} cannot be read as {kind}; mend or unset it") from error


@lru_cache(maxsize=1)
def _from_process() -> Settings:
    return from_env(os.environ)


_override: Settings | None = None


def current() -> Settings:
    """The settings in force in this process; the environment is read once."""
    return _override or _from_process()


def override(**changes: Any) -> Settings:
    """Change settings of this process (tests, `orchestra dev`); returns the new ones."""
    global _override
    _override = replace(current(), **changes)
    return _override


def sources() -> dict[str, str]:
    """Where each setting in force comes from, by its name: "default", an environment variable's name, or "option"."""
    read, now = _from_process(), current()
    found = {}
    for field in fields(Settings):
        name = f"ORCHESTRA_{field.name.upper()}"
        overridden = getattr(now, field.name) != getattr(read, field.name)
        found[field.name] = "option" if overridden else name if os.environ.get(name, "").strip() else "default"
    return found


def reset() -> None:
    """Forget what was overridden or read, so that the environment is read again."""
    global _override
    _override = None
    _from_process.cache_clear()
