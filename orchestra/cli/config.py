"""`orchestra config`: the settings in force, and those of the profile in use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import rich_click as click

from orchestra import errors, profiles, settings
from orchestra.cli import _support
from orchestra.masking import MASK, mask_url


@click.group(cls=_support.Group)
def config() -> None:
    """See the settings, and change those of the profile in use."""


@config.command()
@click.option("--show-sources", is_flag=True, help="Also show where each value comes from.")
@_support.output_option
def view(show_sources: bool, output: str) -> None:
    """Show every setting as it is in force here; secrets are masked.

    \b
    Example:
      orchestra config view --show-sources
    """
    sources = settings.sources()
    now = settings.current()
    shown = [(field.name, masked(field.name, getattr(now, field.name))) for field in fields(now)]
    if output == "json":
        _support.emit_json({name: {"value": value, "source": sources[name]} for name, value in shown})
    elif show_sources:
        rows = [(f"ORCHESTRA_{name.upper()}", value, sources[name]) for name, value in shown]
        _support.emit_table(("SETTING", "VALUE", "SOURCE"), rows)
    else:
        for name, value in shown:
            _support.emit(f"ORCHESTRA_{name.upper()}={_support.visible(_support.cell(value))}")


def edited() -> tuple[profiles.Profiles, str]:
    """The profiles of this home, and the name of the one that is edited: the one in use, else `default`."""
    found = profiles.load(settings.home())
    return found, settings.asked_profile() or found.active or profiles.DEFAULT


@config.command("set")
@click.argument("pairs", metavar="NAME=VALUE...", nargs=-1, required=True)
def set_(pairs: tuple[str, ...]) -> None:
    """Keep settings in the profile in use; without one, in `default`, which becomes active.

    What the environment says counts before it. Running workers have to be started again to see it.

    \b
    Example:
      orchestra config set ORCHESTRA_DATABASE_URL=postgresql+psycopg://me@host/db
    """
    values = dict(_pair(pair) for pair in pairs)
    for name, value in values.items():
        settings.parse(name, value)
    found, profile = edited()
    before = found.by_name.get(profile)
    changed = found.put(profile, {**(before or {}), **values})
    if found.active is None and not settings.asked_profile():
        changed = changed.use(profile)
    profiles.save(settings.home(), changed)
    for name, value in values.items():
        _support.say(_support.visible(f"{name}={_masked_text(name, value)} in profile {profile!r}"))
    _say_overruled(values)


def _pair(pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals or not name or not value.strip():
        raise click.UsageError(f"{pair!r} must read NAME=VALUE, as ORCHESTRA_LOG_LEVEL=DEBUG")
    return name.strip(), value.strip()


def _say_overruled(names: Iterable[str]) -> None:
    for name in names:
        if settings.is_in_environment(name):
            _support.say(f"note: {name} is set in the environment too, and that counts")


@config.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def unset(names: tuple[str, ...]) -> None:
    """Take settings out of the profile in use, so that their defaults count again."""
    found, profile = edited()
    before = found.get(profile)
    if missing := [name for name in names if name not in before]:
        _support.fail(f"profile {profile!r} does not hold {', '.join(missing)}", _support.ExitCode.NOT_FOUND)
    left = {name: value for name, value in before.items() if name not in names}
    profiles.save(settings.home(), found.put(profile, left))
    for name in names:
        _support.say(f"{name} is no longer in profile {profile!r}")
    _say_overruled(names)


@config.command()
def validate() -> None:
    """Read every profile and the settings in force; exit code 2 with a line for each fault."""
    faults = [
        fault for name, values in profiles.load(settings.home()).by_name.items() for fault in _faults(name, values)
    ]
    try:
        settings.current()
    except errors.ConfigurationError as error:
        if not any(str(error) in fault for fault in faults):
            faults.append(str(error))
    for fault in faults:
        _support.say(_support.visible(fault))
    if faults:
        _support.fail(f"{len(faults)} of the settings cannot stand so", _support.ExitCode.USAGE)
    _support.say("All settings can be read.")


def _faults(profile: str, values: Mapping[str, str]) -> Iterator[str]:
    for name, value in values.items():
        try:
            settings.parse(name, value)
        except errors.ConfigurationError as error:
            yield f"profile {profile!r}: {error}"


def _masked_text(variable: str, value: str) -> str:
    return str(masked(variable.removeprefix("ORCHESTRA_").lower(), value))


def masked(name: str, value: Any) -> Any:
    """A setting as it may be shown: no secret, no password within a URL."""
    if name in {"secret_key", "api_key"}:
        return MASK if value else ""
    if name == "home":
        return str(value.expanduser()) if isinstance(value, Path) else value
    if isinstance(value, tuple):
        return ",".join(value)
    return mask_url(value) if name.endswith("_url") else value
