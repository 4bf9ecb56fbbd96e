"""`orchestra cache`: the results that later calls of tasks are answered with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from orchestra import lazy
from orchestra.cli import _options, _support
from orchestra.cli._support import backend

if TYPE_CHECKING:
    from orchestra.store.cache_records import CacheEntry

F = TypeVar("F", bound=Callable[..., Any])

_COLUMNS = ("KEY", "TASK", "POLICY'S KEY", "SIZE", "CREATED", "EXPIRES")


@click.group(cls=_support.Group)
def cache() -> None:
    """See and clear cached results."""


def _query_options(command: F) -> F:
    options = [
        click.option("--task", metavar="NAME", help="Of the task of this name, or at this path."),
        click.option("--key", metavar="KEY", help="With this key, or its beginning, or the key that the policy gave."),
        click.option("--older-than", callback=_options.age_in(""), metavar="AGE", help="Written so long ago: 12h, 7d."),
        click.option("--expired", is_flag=True, help="Only those that have expired."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@cache.command()
@_query_options
@_support.page_options(50, "entry (what `ls` says at the end of a page)")
@_support.output_option
def ls(
    task: str | None,
    key: str | None,
    older_than: float | None,
    expired: bool,
    limit: int,
    after: str | None,
    output: str,
) -> None:
    """List cached results, the newest first.

    \b
    Example:
      orchestra cache ls --task load --older-than 7d
    """
    query = lazy.resolve("orchestra.store.cache:Query")(task, key, older_than, expired)
    page = backend().list_cache(query, limit=limit, after=after)
    if output == "json":
        _support.emit_json(page.items)
    else:
        _support.emit_table(_COLUMNS, [_cells(entry) for entry in page.items])
    _support.say_more(page.next)


@cache.command()
@_query_options
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def clear(task: str | None, key: str | None, older_than: float | None, expired: bool, yes: bool) -> None:
    """Delete cached results; calls that ask for them compute anew. Results in the history of runs stay.

    \b
    Examples:
      orchestra cache clear --task load --yes
      orchestra cache clear --expired
    """
    query = lazy.resolve("orchestra.store.cache:Query")(task, key, older_than, expired)
    everything = not (task or key or expired) and older_than is None
    if everything and not yes and not click.confirm("Delete all cached results?", err=True):
        raise click.Abort
    count = backend().clear_cache(query)
    _support.say(f"{count:,} cached {'result' if count == 1 else 'results'} deleted")


def _cells(entry: CacheEntry) -> tuple[object, ...]:
    policy_key = entry.policy_key if len(entry.policy_key) <= 40 else f"{entry.policy_key[:39]}…"
    expires = "expired" if entry.expired else entry.expires or "never"
    return entry.key[:16], entry.task_name, policy_key, f"{entry.size:,}", entry.created, expires
