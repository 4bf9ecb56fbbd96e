"""`orchestra version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

import rich_click as click

from orchestra.cli import _support

#: Distributions whose versions matter when something is wrong.
PACKAGES = ("celery-orchestra", "celery", "kombu", "redis", "sqlalchemy", "pydantic")


def versions() -> dict[str, str]:
    """Versions of orchestra and of what it stands on, by distribution."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version_of(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


@click.command()
@_support.output_option
def version(output: str) -> None:
    """Print the version of orchestra."""
    if output == "json":
        _support.emit_json(versions())
    else:
        _support.emit(versions()["celery-orchestra"])
