"""`orchestra api-key`: keys by which programs use the server."""

from __future__ import annotations

import rich_click as click

from orchestra.accounts import Scope
from orchestra.cli import _support
from orchestra.cli._support import backend
from orchestra.cli.user import scope_option


@click.group(cls=_support.Group)
def api_key() -> None:
    """Manage the keys by which programs use the server."""


@api_key.command()
@click.argument("name")
@scope_option
@click.option("--expires-in", type=click.FloatRange(min=0, min_open=True), metavar="DAYS", help="Else it never does.")
def create(name: str, scope: str, expires_in: float | None) -> None:
    """Make a key; it alone is the first line of stdout, and is never shown again.

    \b
    Examples:
      export ORCHESTRA_API_KEY=$(orchestra api-key create ci --scope run --expires-in 90)
    """
    seconds = None if expires_in is None else expires_in * 86_400
    _support.emit(backend().create_key(name, Scope(scope), seconds))
    _support.say(f"API key {name!r} is made, with scope {scope!r}; keep it now: it is not shown again")


@api_key.command("ls")
@_support.output_option
def ls(output: str) -> None:
    """List all keys, without what they are."""
    found = backend().list_keys()
    if output == "json":
        _support.emit_json(found)
    else:
        rows = [(e.name, f"{e.prefix}…", e.scope, e.created, e.expires, e.last_used) for e in found]
        _support.emit_table(("NAME", "KEY", "SCOPE", "CREATED", "EXPIRES", "LAST USED"), rows)


@api_key.command()
@click.argument("name")
def delete(name: str) -> None:
    """Delete a key: it opens nothing from now on."""
    backend().delete_key(name)
    _support.say(f"API key {name!r} is deleted")
