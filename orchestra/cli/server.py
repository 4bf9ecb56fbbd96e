"""`orchestra server`: the REST API and the admin view."""

from __future__ import annotations

import rich_click as click
import uvicorn

from orchestra.cli import _support
from orchestra.server import create_app
from orchestra.server.access import is_loopback


@click.group(cls=_support.Group)
def server() -> None:
    """Run the REST API and the admin view."""


@server.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=4200, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
def start(host: str, port: int) -> None:
    """Run the server until Ctrl-C."""
    if not is_loopback(host):
        raise click.UsageError(f"--host {host} is open to others: the server answers on loopback only")
    uvicorn.run(create_app(), host=host, port=port, log_level="warning")
