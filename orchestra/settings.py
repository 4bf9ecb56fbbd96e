"""Settings: one frozen record, and the only reader of the environment.

What the environment says counts before what the profile in use says, and that before the defaults.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from orchestra import profiles
from orchestra.errors import ConfigurationError

#: What is kept for a time of its own.
RETAINED = ("runs", "logs", "events", "artifacts")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user may set, by environment variables named `ORCHESTRA_` and the field's name in capitals.

    Durations are in seconds, sizes in bytes.
    """

    #: Where the SQLite database, the secret key and the embedded broker's files live.
    home: Path = Path("~/.orchestra")
    #: The profile in use; empty: the active one of `profiles.toml` under `home`, if any.
    profile: str = ""
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
    #: A server to ask in the place of the database, as `http://host:4200`; empty: the database is asked.
    api_url: str = ""
    #: The API key that is shown to it.
    api_key: str = ""
    #: Where the admin view links to Flower; empty: to that of `orchestra flower` in this home, while it runs.
    flower_url: str = ""
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
    #: Where encoded results above that go instead: a folder, or a URL of fsspec; empty: the blobs table.
    result_storage: str = ""
    #: True: local runs keep the results of flows and tasks that do not say `persist_result`.
    results_persist_by_default: bool = False
    #: Largest encoded result.
    result_max_bytes: int = 256 * 1024 * 1024
    #: Longest log line kept, in bytes; the rest is cut with a mark.
    log_line_max_bytes: int = 64 * 1024
    #: Most log lines of one run that one process keeps; it says where it stopped.
    log_run_max_lines: int = 50_000
    #: Days for which ended runs are kept, and, as in "90,logs=30", what goes earlier; 0: for ever.
    retention_days: tuple[str, ...] = ("90",)
    #: Lowest level of run log lines that are kept.
    log_level: str = "INFO"
    #: Whether run logs are also written to the console.
    log_to_console: bool = True
    #: Loggers of libraries whose lines in runs are kept, too; comma-separated.
    logging_extra_loggers: tuple[str, ...] = ()
    #: Environment variables whose values are masked in log lines; comma-separated.
    logging_masked_variables: tuple[str, ...] = ()
    #: How often tasks that do not say it are tried again.
    tasks_default_retries: int = 0
    #: The pause before that.
    tasks_default_retry_delay_seconds: float = 0.0
    #: True: no task is cached, whatever it says.
    tasks_disable_caching: bool = False
    #: True: tasks that do not say `refresh_cache` compute anew, and replace what is kept.
    tasks_refresh_cache: bool = False
    #: False: tasks that name no cache policy have `DEFAULT`.
    tasks_default_no_cache: bool = True
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
    def retention_seconds(self) -> dict[str, float]:
        """For how long what is over is kept, by what it is.

        Raises:
            ConfigurationError: `retention_days` cannot be read.
        """
        by_table = {"": "90", **dict(part.rpartition("=")[::2] for part in self.retention_days)}
        every = by_table.pop("")
        if unknown := by_table.keys() - RETAINED:
            raise ConfigurationError(
                f"ORCHESTRA_RETENTION_DAYS: {', '.join(sorted(unknown))} cannot be kept by itself; "
                f"only {', '.join(RETAINED)} can"
            )
        return {what: _seconds_of_days(by_table.get(what, every)) for what in RETAINED}

    @property
    def resolved_database_url(self) -> str:
        """The database URL in force."""
        return self.database_url or f"sqlite:///{self.home_path / 'orchestra.db'}"


def _seconds_of_days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not 0 <= days < math.inf:
        raise ConfigurationError(f"ORCHESTRA_RETENTION_DAYS: {text!r} is no number of days; write 90, or 90,logs=30")
    return days * 86_400 if days else math.inf


#: From so many characters on a password is masked wherever it stands.
_SHORTEST_PASSWORD = 8

#: Settings that no profile can hold, as they say where profiles are.
NOT_IN_PROFILES = frozenset({"home", "profile"})


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"ORCHESTRA_{name.upper()}"


def from_env(environ: Mapping[str, str]) -> Settings:
    """Settings as the environment, and the profile that it names, give them.

    Raises:
        ConfigurationError: A value cannot be read as its setting's type; there is no such profile.
    """
    return _found(environ).settings


def parse(name: str, text: str) -> Any:
    """The value of a setting given as text.

    Args:
        name: The setting's environment variable.

    Raises:
        ConfigurationError: There is no such setting; it cannot stand in a profile; the text cannot be read as it.
    """
    by_variable = {variable(each.name): each for each in fields(Settings)}
    if name not in by_variable:
        raise ConfigurationError(f"there is no setting {name!r}; `orchestra config view` lists them")
    if by_variable[name].name in NOT_IN_PROFILES:
        raise ConfigurationError(f"{name} says where profiles are, so none can hold it: set it in the environment")
    return _read(name, text.strip(), by_variable[name].default)


@dataclass(frozen=True, slots=True)
class _Found:
    settings: Settings
    #: By field: the environment variable's name, or "profile 'NAME'"; absent: the default.
    sources: Mapping[str, str] = field(default_factory=dict)


def _found(environ: Mapping[str, str]) -> _Found:
    given = {each.name: text for each in fields(Settings) if (text := environ.get(variable(each.name), "").strip())}
    home = Path(given["home"]) if "home" in given else Settings().home
    name, kept = _profile(home, _chosen_profile or given.get("profile", ""))
    values: dict[str, Any] = {"profile": name}
    sources: dict[str, str] = {}
    for each in fields(Settings):
        shown = variable(each.name)
        if each.name in given and each.name != "profile":
            values[each.name], sources[each.name] = _read(shown, given[each.name], each.default), shown
        elif each.name not in NOT_IN_PROFILES and (text := kept.get(shown, "").strip()):
            source = f"profile {name!r}"
            values[each.name], sources[each.name] = _read(shown, text, each.default, source), source
    if name:
        named = variable("profile") if "profile" in given else profiles.FILE
        sources["profile"] = "option" if _chosen_profile else named
    return _Found(Settings(**values), sources)


def _profile(home: Path, asked: str) -> tuple[str, Mapping[str, str]]:
    """The name and the settings of the profile in use."""
    try:
        all_of_them = profiles.load(home.expanduser())
    except RuntimeError:  # this user has no home to expand
        all_of_them = profiles.Profiles()
    name = asked or all_of_them.active or ""
    return name, all_of_them.get(name) if name else {}


def _read(name: str, text: str, default: Any, source: str = "") -> Any:
    where = f" ({source})" if source else ""
    try:
        if isinstance(default, bool):
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        if isinstance(default, tuple):
            return tuple(part.strip() for part in text.split(",") if part.strip())
        value = type(default)(text)
        if isinstance(value, int | float) and not (0 < value < float("inf") or value == default):
            raise ConfigurationError(
                f"{name}={text!r}{where} is no number {'from' if default == 0 else 'above'} 0; mend or unset it"
            )
        return value
    except ConfigurationError:
        raise
    except (ValueError, KeyError) as error:
        kind = type(default).__name__
        raise ConfigurationError(f"{name}={text!r}{where} cannot be read as {kind}; mend or unset it") from error


@lru_cache(maxsize=1)
def _from_process() -> _Found:
    return _found(os.environ)


_override: Settings | None = None
#: The profile that the command line names, before what the environment names.
_chosen_profile = ""
_asks_api_only = False


def current() -> Settings:
    """The settings in force in this process; environment and profile are read once."""
    return _override or _from_process().settings


def home() -> Path:
    """The home, created if need be; asks no profile, so that a broken one can be mended.

    Raises:
        ConfigurationError: It is no folder, or cannot be created.
    """
    if _override is not None:
        return _override.home_path
    given = os.environ.get("ORCHESTRA_HOME", "").strip()
    return (Settings(home=Path(given)) if given else Settings()).home_path


def asked_profile() -> str:
    """The profile that the command line or the environment names; empty: neither."""
    return _chosen_profile or os.environ.get(variable("profile"), "").strip()


def is_in_environment(name: str) -> bool:
    """Whether the environment variable `name` says anything."""
    return bool(os.environ.get(name, "").strip())


def override(**changes: Any) -> Settings:
    """Change settings of this process (tests, `orchestra dev`); returns the new ones."""
    global _override
    _override = replace(current(), **changes)
    return _override


def ask_api_only() -> None:
    """Let this process ask the server of ORCHESTRA_API_URL only, where that is set: another database is not meant."""
    global _asks_api_only
    _asks_api_only = True


def asks_api_only() -> bool:
    """Whether the database of these settings would be another one than is meant."""
    now = current()
    return _asks_api_only and bool(now.api_url) and not now.database_url


def choose_profile(name: str) -> None:
    """Use this profile in this process, whatever the environment names. It is looked for at the next use."""
    global _chosen_profile
    reset()
    _chosen_profile = name


def sources() -> dict[str, str]:
    """Where each setting in force comes from, by its name.

    That is an environment variable's name, "profile 'NAME'", "option" or "default".
    """
    found, now = _from_process(), current()
    read = found.settings
    return {
        each.name: "option"
        if getattr(now, each.name) != getattr(read, each.name)
        else found.sources.get(each.name, "default")
        for each in fields(Settings)
    }


def reset() -> None:
    """Forget what was overridden, chosen or read, so that environment and profile are read again."""
    global _override, _chosen_profile, _asks_api_only
    _override = None
    _chosen_profile = ""
    _asks_api_only = False
    _from_process.cache_clear()


#: What says where things are: within `elsewhere` none of it is the caller's.
_PLACES = ("home", "profile", "database_url", "broker_url", "secret_key", "api_url", "api_key")


@contextmanager
def elsewhere(home: Path) -> Iterator[None]:
    """Use another home, with neither profile, database, broker nor key of the surrounding one (tests).

    It is so for processes started inside, too. What is open must be closed before and after by the caller.
    """
    global _override, _chosen_profile
    names = [variable(name) for name in _PLACES]
    before = {name: os.environ.pop(name, None) for name in names}
    kept = (_override, _chosen_profile)
    os.environ["ORCHESTRA_HOME"] = str(home)
    reset()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        reset()
        _override, _chosen_profile = kept


def secrets() -> set[str]:
    """What log lines must not show: the key, passwords of URLs, the values of `logging_masked_variables`."""
    now = current()
    urls = (now.database_url, now.broker_url, now.result_storage)
    passwords = [password for url in urls if "://" in url and (password := _password(url))]
    # A short password is as likely a word that lines are full of: it is masked in URLs only.
    long = {each for each in (now.secret_key, *passwords, *map(unquote, passwords)) if len(each) >= _SHORTEST_PASSWORD}
    return long | {os.environ.get(name, "") for name in now.logging_masked_variables}


def _password(url: str) -> str:
    place = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
    return place.partition(":")[2]


def runtime_override(what: str, name: str) -> str | None:
    """What the environment says of an attribute of `orchestra.runtime`: `ORCHESTRA__RUNTIME__FLOW_RUN__NAME`."""
    return os.environ.get(f"ORCHESTRA__RUNTIME__{what.upper()}__{name.upper()}")
