"""`orchestra server`: the REST API and the admin view."""

from __future__ import annotations

import logging
import os
import re

import rich_click as click

from orchestra import lazy, settings
from orchestra.cli import _support
from orchestra.names import is_loopback
from orchestra.server import running

#: A name as it stands in a URL, or an address; "*" is none.
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,252}[a-z0-9])?|[0-9a-f:]{2,45}")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


#: As Prefect has `orchestra db`.
_DATABASE = {"database": ("orchestra.cli.db:db", "Create, upgrade, prune and reset the database.")}


@click.group(cls=_support.Group, lazy_commands=_DATABASE, short_names=dict.fromkeys(_DATABASE, "database"))
def server() -> None:
    """Run the REST API and the admin view."""


@server.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=4200, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: any.")
@click.option(
    "--allow-host",
    "names",
    multiple=True,
    metavar="NAME",
    help="A public name under which it answers behind a proxy; everybody has to log in then. Repeatable.",
)
@click.option("--background", is_flag=True, help="Return when it answers, and leave it running.")
@click.option("--log-level", type=click.Choice(_LEVELS, case_sensitive=False), default="WARNING", show_default=True)
@click.option(
    "--no-services",
    is_flag=True,
    help="The API and the admin view alone, which is all that the server ever is: beat fires schedules, and a sweeper "
    "beside every worker looks after runs. Says so, and changes nothing.",
)
def start(host: str, port: int, names: tuple[str, ...], background: bool, log_level: str, no_services: bool) -> None:
    """Run the server until Ctrl-C. At --log-level INFO it logs every request, and who did what.

    \b
    Examples:
      orchestra server start
      orchestra server start --port 8080 --background
      orchestra server start --allow-host orchestra.example
    """
    _support.need_database([*map(_name, names), host.lower()])
    # Where it listens is a name of its own, by which `server status` asks it.
    listens = [] if is_loopback(host) else [host.lower()] if names else ["*"]
    hosts = [*map(_name, names), *listens]
    if hosts and not lazy.resolve("orchestra.store.access:is_any")(lazy.load("database")()):
        door = f"--allow-host {hosts[0]}" if names else f"--host {host}"
        # Through the API nobody could be made either: it is this server that would answer.
        how = " while ORCHESTRA_API_URL is unset" if settings.current().api_url else ""
        _support.fail(
            f"{door} lets others in, and nobody could log in yet: make a user by `orchestra user create NAME`{how}",
            _support.ExitCode.USAGE,
        )
    if no_services:
        _support.say("The server has no services to leave out: workers and `orchestra beat start` have them")
    home = settings.current().home_path
    if background:
        options = ["--log-level", log_level, *(word for each in names for word in ("--allow-host", each))]
        found = running.run_in_background(home, host, port, _environment(), options)
        _support.say(f"The server answers at {found.url} (process {found.pid}); end it by `orchestra server stop`")
        return
    logging.basicConfig(level="WARNING", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("orchestra").setLevel(log_level.upper())
    running.run(home, host, port, hosts=hosts, on_start=_starts)


def _starts(url: str) -> None:
    _support.say(f"The server starts at {url}, the admin view there, the API under {url}/api; Ctrl-C ends it")


@server.command()
def stop() -> None:
    """End the server of this home; requests that are being answered end first."""
    found = running.find(settings.current().home_path)
    if found is None:
        _support.say("No server runs in this home")
        return
    running.stop(found)
    _support.say(f"The server at {found.url} has ended")


@server.command()
@_support.output_option
def status(output: str) -> None:
    """Say whether the server of this home runs (else exit code 3), and answers (else 5)."""
    found = running.find(settings.current().home_path)
    if found is None:
        _support.fail("no server runs in this home: `orchestra server start`", _support.ExitCode.NOT_FOUND)
    well = running.answers(found)
    if output == "json":
        _support.emit_json({"url": found.url, "pid": found.pid, "answers": well})
    else:
        _support.emit(found.url)
    if not well:
        _support.fail(
            f"the server at {found.url} (process {found.pid}), or its database, does not answer",
            _support.ExitCode.UNAVAILABLE,
        )


def _name(text: str) -> str:
    """A name as the guard compares it: what is no name would let nobody in, and say nothing."""
    name = text.strip().lower()
    if not _NAME.fullmatch(name):
        raise click.UsageError(f"--allow-host {text!r} must be a name alone, as orchestra.example: no port, no path")
    return name


def _environment() -> dict[str, str]:
    """Ours, with the profile that the command line names."""
    profile = settings.current().profile
    return {**os.environ, **({"ORCHESTRA_PROFILE": profile} if profile else {})}
