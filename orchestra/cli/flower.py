"""`orchestra flower`: Celery's monitor, started so that it is safe."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import rich_click as click

from orchestra import lazy, settings
from orchestra.celery import addresses
from orchestra.cli import _support

_USER = "orchestra"
_OLDEST = (2, 0)


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--host", "--address", "host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5555, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option("--basic-auth", metavar="USER:PASSWORD", help="Else user orchestra, and a password that is made now.")
@click.option("--writable", is_flag=True, help="Let it also revoke tasks and shut workers down.")
@click.option("-A", "--app", metavar="MODULE[:APP]", help="Celery app; else ORCHESTRA_APP, else orchestra's own.")
@click.pass_context
def flower(ctx: click.Context, host: str, port: int, basic_auth: str | None, writable: bool, app: str | None) -> None:
    """Become Celery's Flower: `celery -A APP flower`, on loopback, read-only, behind a password.

    It shows flows and tasks by their names, with the ids of their runs and links to them; its lists of tasks show no
    arguments or results of other tasks.
    What it knows is what it has seen since it was started: the admin view shows what is true. Its /metrics and
    /healthcheck are open to whoever reaches it. What follows `--` goes to Flower as it is.

    \b
    Examples:
      orchestra flower
      orchestra flower -A proj --port 5556
      orchestra flower -- --persistent=True --db=/var/lib/flower.db
    """
    installed = version("flower")
    if tuple(map(int, installed.split(".")[:2])) < _OLDEST:
        _support.fail(f"Flower {installed} is not safe: install one of 2.0 or later", _support.ExitCode.USAGE)
    if basic_auth is not None and not all(basic_auth.partition(":")):
        raise click.UsageError("--basic-auth must read USER:PASSWORD")
    current = settings.current()
    if not (app or current.app):
        # Says what is missing where there is no broker, before a password is made up.
        lazy.load("current_app")()
    _need_address(host, port)
    shown = f"[{host}]" if ":" in host else host
    # By the environment: a command line is seen by everybody on this machine.
    environment = {name: value for name, value in os.environ.items() if name != "FLOWER_UNAUTHENTICATED_API"}
    if basic_auth is None and "FLOWER_BASIC_AUTH" not in environment:
        basic_auth = f"{_USER}:{secrets.token_urlsafe(12)}"
        _support.say(f"log in to http://{shown}:{port} as {_USER} with the password {basic_auth.partition(':')[2]}")
    if basic_auth is not None:
        environment["FLOWER_BASIC_AUTH"] = basic_auth
    environment["ORCHESTRA_FLOWER_LEADS_TO"] = current.api_url or _server(current.home_path)
    if app:
        environment["ORCHESTRA_APP"] = app
    if current.profile:
        environment["ORCHESTRA_PROFILE"] = current.profile
    command = [sys.executable, "-m", "celery", "-A", app or current.app or "celery_app", "flower"]
    command += [f"--address={host}", f"--port={port}", f"--conf={files('orchestra.celery') / 'flower_config.py'}"]
    command += [f"--read_only={not writable}", "--persistent=False"]
    if port:
        # Before it listens: this process is Flower's, and if it ends the address is none any more.
        addresses.write(current.home_path / addresses.FLOWER, f"http://{shown}:{port}", os.getpid())
    # In the place of this process: signals reach Flower itself, and nothing is left when it ends.
    os.execve(sys.executable, [*command, *ctx.args], environment)


def _need_address(host: str, port: int) -> None:
    """See that the address can be had, before the place of another Flower is forgotten, and without a traceback."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            # As Flower does it: what has just ended stands in nobody's way.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        _support.fail(
            f"Flower cannot listen on {host}, port {port}: {error}; give others by --host and --port",
            _support.ExitCode.USAGE,
        )


def _server(home: Path) -> str:
    """The address of the server of a home, or where it is by default."""
    found = addresses.read(home / addresses.SERVER)
    return found.url if found is not None else "http://127.0.0.1:4200"
