"""`orchestra login`, `logout`: keep a server and its key in the profile in use; `dashboard open`: show its pages."""

from __future__ import annotations

import sys
from urllib.parse import urlsplit

import httpx2
import rich_click as click

from orchestra import profiles, settings
from orchestra.cli import _support
from orchestra.cli.config import edited
from orchestra.cli.profile import use

#: How long a server may take to answer, in seconds.
_TIMEOUT = 10.0
_URL, _KEY = settings.variable("api_url"), settings.variable("api_key")


@click.command()
@click.option("-u", "--url", help="The server, as http://host:4200.")
@click.option("-k", "--key", help="An API key; better by --key-stdin, as others see command lines.")
@click.option("--key-stdin", is_flag=True, help="Read the key from stdin.")
def login(url: str | None, key: str | None, key_stdin: bool) -> None:
    """Let this profile's command line and clients work through a server.

    \b
    Examples:
      orchestra login --url https://orchestra.example --key-stdin < key.txt
      orchestra login --url http://127.0.0.1:4200
    """
    if url is None:
        _support.fail(
            "say which server: orchestra login --url http://host:4200 --key-stdin. There is no hosted one: run your "
            "own by `orchestra server start`, and make a key there by `orchestra api-key create NAME`",
            _support.ExitCode.USAGE,
        )
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise click.UsageError(f"--url {url!r} must read http://host:port or https://host")
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}".removesuffix("/api")
    given = sys.stdin.readline().strip() if key_stdin else key
    name = _who(base, given)
    found, profile = edited()
    kept = {each: value for each, value in found.by_name.get(profile, {}).items() if each not in {_URL, _KEY}}
    changed = found.put(profile, {**kept, _URL: base, **({_KEY: given} if given else {})})
    if found.active is None and not settings.asked_profile():
        changed = changed.use(profile)
    profiles.save(settings.home(), changed)
    _support.say(f"profile {profile!r} works through {base} now, as {name!r}")


def _who(base: str, key: str | None) -> str:
    """As whom a server knows us."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx2.get(f"{base}/api/me", headers=headers, timeout=_TIMEOUT)
    except httpx2.HTTPError as error:
        _support.fail(f"{base} does not answer: {error}", _support.ExitCode.UNAVAILABLE)
    if answer.status_code == 401:
        what = "does not know this key" if key else "wants a key"
        _support.fail(f"{base} {what}: make one there by `orchestra api-key create NAME`", _support.ExitCode.USAGE)
    try:
        return str(answer.raise_for_status().json()["name"])
    except (httpx2.HTTPStatusError, ValueError, LookupError, TypeError):
        _support.fail(f"{base} answered {answer.status_code}: is it an orchestra server?", _support.ExitCode.ERROR)


@click.command()
def logout() -> None:
    """Forget the server and its key in this profile: the database is asked again."""
    found, profile = edited()
    values = found.by_name.get(profile, {})
    if _URL not in values and _KEY not in values:
        _support.fail(f"profile {profile!r} names no server", _support.ExitCode.NOT_FOUND)
    left = {name: value for name, value in values.items() if name not in {_URL, _KEY}}
    profiles.save(settings.home(), found.put(profile, left))
    _support.say(f"profile {profile!r} asks the database again")


@click.group(cls=_support.Group)
def dashboard() -> None:
    """The admin view in a browser."""


@dashboard.command("open")
def open_() -> None:
    """Open the admin view in a browser; its address is the first line of stdout."""
    url = settings.current().api_url or "http://127.0.0.1:4200"
    try:
        httpx2.get(f"{url}/health", timeout=_TIMEOUT).raise_for_status()
    except httpx2.HTTPError as error:
        told = f"no server answers at {url} ({error}): start one by `orchestra server start`"
        _support.fail(told, _support.ExitCode.UNAVAILABLE)
    _support.emit(url)
    click.launch(url)


@click.group(cls=_support.Group)
def cloud() -> None:
    """Prefect's words for `login` and `profile use`: there is no hosted service, workspaces are profiles."""


@cloud.group(cls=_support.Group)
def workspace() -> None:
    """Workspaces are profiles here."""


@workspace.command("set")
@click.option("-w", "--workspace", metavar="PROFILE", help="The profile; `orchestra profile ls` lists them.")
@click.pass_context
def set_(ctx: click.Context, workspace: str | None) -> None:
    """Make a profile the active one, as `orchestra profile use` does."""
    if workspace is None:
        _support.fail("say which profile: --workspace NAME; `orchestra profile ls` lists them", _support.ExitCode.USAGE)
    if workspace not in profiles.load(settings.home()).by_name:
        _support.fail(
            f"there is no profile {workspace!r}, which is what a workspace is here: "
            f"make it by `orchestra profile create {workspace}`",
            _support.ExitCode.USAGE,
        )
    ctx.invoke(use, name=workspace)


cloud.add_command(login)
cloud.add_command(logout)
