"""`orchestra profile`: named sets of settings, of which one is active."""

from __future__ import annotations

import rich_click as click

from orchestra import profiles, settings
from orchestra.cli import _support
from orchestra.cli.config import edited, masked


@click.group(cls=_support.Group)
def profile() -> None:
    """Keep several sets of settings, and switch between them."""


@profile.command("ls")
@_support.output_option
def ls(output: str) -> None:
    """List the profiles of this home; `*` marks the active one."""
    found = profiles.load(settings.home())
    if output == "json":
        _support.emit_json([{"name": name, "active": name == found.active} for name in found.by_name])
    else:
        for name in found.by_name:
            _support.emit(f"{'*' if name == found.active else ' '} {name}")


@profile.command()
@click.argument("name")
@click.option("--from", "source", metavar="NAME", help="Begin with the settings of this profile.")
def create(name: str, source: str | None) -> None:
    """Make a profile; it becomes active by `profile use`.

    \b
    Example:
      orchestra profile create staging --from production
    """
    found = profiles.load(settings.home())
    if name in found.by_name:
        _support.fail(f"there is a profile {name!r} already", _support.ExitCode.CONFLICT)
    profiles.save(settings.home(), found.put(name, found.get(source) if source else {}))
    _support.say(f"profile {name!r} is made; use it by: orchestra profile use {name}")


@profile.command()
@click.argument("name")
def use(name: str) -> None:
    """Make a profile the active one of this home."""
    profiles.save(settings.home(), profiles.load(settings.home()).use(name))
    _support.say(f"profile {name!r} is active")
    if asked := settings.asked_profile():
        _support.say(f"note: {asked!r} is named by ORCHESTRA_PROFILE or --profile, and that counts here")


@profile.command()
@click.argument("name", required=False)
@_support.output_option
def inspect(name: str | None, output: str) -> None:
    """Show the settings of a profile, else of the one in use; secrets are masked."""
    found, present = edited()
    values = {key: masked(_field(key), value) for key, value in found.get(name or present).items()}
    if output == "json":
        _support.emit_json(values)
    else:
        for key, value in values.items():
            _support.emit(_support.visible(f"{key}={value}"))


def _field(variable: str) -> str:
    return variable.removeprefix("ORCHESTRA_").lower()


@profile.command()
@click.argument("name")
@click.argument("new_name")
def rename(name: str, new_name: str) -> None:
    """Give a profile another name; the active one stays active."""
    found = profiles.load(settings.home())
    if new_name in found.by_name:
        _support.fail(f"there is a profile {new_name!r} already", _support.ExitCode.CONFLICT)
    renamed = found.without(name).put(new_name, found.get(name))
    profiles.save(settings.home(), renamed.use(new_name) if found.active == name else renamed)
    _support.say(f"profile {name!r} is now {new_name!r}")


@profile.command()
@click.argument("name")
def delete(name: str) -> None:
    """Delete a profile; if it was the active one, none is active then."""
    profiles.save(settings.home(), profiles.load(settings.home()).without(name))
    _support.say(f"profile {name!r} is deleted")
