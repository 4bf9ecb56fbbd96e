"""`orchestra server`: the REST API and the admin view."""

from __future__ import annotations

import rich_click as click
import uvicorn

from orchestra.cli import _support
from orchestra.server import create_app
from orchestra.server.access import is_loopback
from orchestra.store import access
from orchestra.store.database import database


@click.group(cls=_support.Group)
def server() -> None:
    """Run the REST API and the admin view."""


@server.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=4200, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
def start(host: str, port: int) -> None:
    """Run the server until Ctrl-C."""
    is_open = not is_loopback(host)
    if is_open and not access.is_any(database()):
        _support.fail(
            f"--host {host} lets others in, and nobody could log in yet: make a user by `orchestra user create NAME`",
            _support.ExitCode.USAGE,
        )
    uvicorn.run(create_app(hosts=["*"] if is_open else []), host=host, port=port, log_level="warning")
