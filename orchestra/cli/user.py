"""`orchestra user`: who may log in to the server."""

from __future__ import annotations

import sys

import rich_click as click

from orchestra.accounts import Scope
from orchestra.cli import _support
from orchestra.cli._support import backend

scope_option = click.option(
    "--scope",
    type=click.Choice([each.value for each in Scope]),
    default=Scope.ADMIN.value,
    show_default=True,
    help="read: see everything; run: start, cancel, retry too; admin: change everything.",
)
_stdin = click.option("--password-stdin", is_flag=True, help="Read the password from stdin, not from the terminal.")


@click.group(cls=_support.Group)
def user() -> None:
    """Manage who may log in to the server. Once there is a user or an API key, everybody has to say who they are."""


@user.command()
@click.argument("name")
@scope_option
@_stdin
def create(name: str, scope: str, password_stdin: bool) -> None:
    """Add a user; asks for the password.

    \b
    Examples:
      orchestra user create ada
      pass show orchestra/bob | orchestra user create bob --scope run --password-stdin
    """
    backend().create_user(name, _password(password_stdin), Scope(scope))
    _support.say(f"user {name!r} may log in now, with scope {scope!r}")


@user.command("ls")
@_support.output_option
def ls(output: str) -> None:
    """List all users."""
    found = backend().list_users()
    if output == "json":
        _support.emit_json(found)
    else:
        rows = [(e.name, e.scope, "no" if e.disabled else "yes", e.created, e.last_login) for e in found]
        _support.emit_table(("NAME", "SCOPE", "MAY LOG IN", "CREATED", "LAST LOGIN"), rows)


@user.command()
@click.argument("name")
@click.option("--scope", type=click.Choice([each.value for each in Scope]), help="What they may do from now on.")
@click.option("--password", is_flag=True, help="Give them another password; asks for it.")
@_stdin
@click.option("--disable/--enable", "disabled", default=None, help="Keep them out, or let them in again.")
def update(name: str, scope: str | None, password: bool, password_stdin: bool, disabled: bool | None) -> None:
    """Change a user; they are logged out everywhere.

    \b
    Examples:
      orchestra user update bob --scope read
      orchestra user update bob --password
      orchestra user update bob --disable
    """
    if scope is None and disabled is None and not (password or password_stdin):
        raise click.UsageError("say what to change: --scope, --password, --disable or --enable")
    new = _password(password_stdin) if password or password_stdin else None
    backend().update_user(name, password=new, scope=None if scope is None else Scope(scope), disabled=disabled)
    _support.say(f"user {name!r} is changed, and logged out everywhere")


@user.command()
@click.argument("name")
def delete(name: str) -> None:
    """Delete a user; they are logged out at once."""
    backend().delete_user(name)
    _support.say(f"user {name!r} is deleted")


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        _support.fail("there is no terminal to ask for the password: use --password-stdin", _support.ExitCode.USAGE)
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
