"""The reference pages name all that there is, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields

import click

from orchestra.cli import cli
from orchestra.cli._support import ExitCode
from orchestra.settings import Settings
from tests.helpers import ROOT

PAGES = ROOT / "docs/reference"


def commands(group: click.Group, *above: str) -> Iterator[str]:
    """The full names of all commands of a group."""
    context = click.Context(group)
    for name in group.list_commands(context):
        _, command, _ = group.resolve_command(context, [name])
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)
        else:
            yield " ".join((*above, name))


def test_every_setting_stands_in_the_reference() -> None:
    """By the name of its environment variable."""
    named = set(re.findall(r"^\| `(ORCHESTRA_\w+)`", (PAGES / "settings.md").read_text(), re.M))
    assert named == {f"ORCHESTRA_{field.name.upper()}" for field in fields(Settings)}


def test_every_command_stands_in_the_reference() -> None:
    """And every command named there is one."""
    rows = re.findall(r"^\| `([a-z][a-z -]*?)(?: --flow .*?| [A-Z].*?)?` \|", (PAGES / "cli.md").read_text(), re.M)
    assert set(rows) == set(commands(cli))


def test_every_exit_code_stands_in_the_reference() -> None:
    """By its number."""
    codes = set(re.findall(r"^\| (\d+) \|", (PAGES / "cli.md").read_text(), re.M))
    assert codes == {str(int(code)) for code in ExitCode} | {"130"}
