"""`orchestra variable`: values that runs read by name."""

from __future__ import annotations

import json
from typing import Any

import rich_click as click

from orchestra.cli import _support
from orchestra.cli._support import backend

_name = click.argument("name")


@click.group(cls=_support.Group)
def variable() -> None:
    """Set, see and delete variables: values that runs read by name."""


@variable.command("ls")
@click.option("--after", metavar="NAME", help="Start after this variable: the last of the page before.")
@click.option(
    "-l", "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Most lines to show."
)
@_support.output_option
def ls(after: str | None, limit: int, output: str) -> None:
    """List variables by name.

    \b
    Example:
      orchestra variable ls -o json
    """
    page = backend().list_variables(limit=limit, after=after)
    if output == "json":
        _support.emit_json(page.items)
    else:
        rows = [(each.name, _text(each.value), ", ".join(each.tags), each.created, each.updated) for each in page.items]
        _support.emit_table(("NAME", "VALUE", "TAGS", "CREATED", "UPDATED"), rows)
    _support.say_more(page.next)


@variable.command()
@_name
@_support.output_option
def inspect(name: str, output: str) -> None:
    """Show a variable."""
    found = backend().read_variable(name)
    (_support.emit_json if output == "json" else _support.emit_record)(found)


@variable.command()
@_name
def get(name: str) -> None:
    """Print the value of a variable: text as it is, anything else as JSON."""
    _support.emit(_support.visible(_text(backend().read_variable(name).value)))


@variable.command("set")
@_name
@click.argument("value")
@click.option("--overwrite", is_flag=True, help="Change it if it is set already.")
@click.option("-t", "--tag", "tags", multiple=True, help="A tag of it; repeatable.")
def set_(name: str, value: str, overwrite: bool, tags: tuple[str, ...]) -> None:
    """Set a variable: the value as JSON, else as text.

    \b
    Examples:
      orchestra variable set region eu-west-1
      orchestra variable set limits '{"rows": 1000}' --overwrite --tag etl
    """
    backend().set_variable(name, _value(value), tags=tags, overwrite=overwrite)
    _support.say(f"variable {name!r} is set")


@variable.command()
@_name
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def unset(name: str, yes: bool) -> None:
    """Delete a variable; `delete` is the same."""
    _delete(name, yes)


@variable.command()
@_name
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def delete(name: str, yes: bool) -> None:
    """Delete a variable."""
    _delete(name, yes)


def _delete(name: str, yes: bool) -> None:
    at = backend()
    at.read_variable(name)
    if not yes and _support.in_terminal():
        click.confirm(f"Delete variable {name!r}?", abort=True, err=True)
    at.unset_variable(name)
    _support.say(f"variable {name!r} is deleted")


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
