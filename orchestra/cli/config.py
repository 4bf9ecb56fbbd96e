"""`orchestra config`: the settings in force."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import rich_click as click

from orchestra import settings
from orchestra.cli import _support

_MASK = "********"
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):([^/@]*)@")


@click.group(cls=_support.Group)
def config() -> None:
    """See the settings."""


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


def masked(name: str, value: Any) -> Any:
    """A setting as it may be shown: no secret, no password within a URL."""
    if name == "secret_key":
        return _MASK if value else ""
    if name == "home":
        return str(value.expanduser())
    if isinstance(value, tuple):
        return ",".join(value)
    return mask_url(value) if name.endswith("_url") else value


def mask_url(url: str) -> str:
    """A URL without its password."""
    return _PASSWORD.sub(rf"\1:{_MASK}@", url)
