"""`orchestra global-concurrency-limit` (`gcl`): how much may go on at once, over all processes."""

from __future__ import annotations

import rich_click as click

from orchestra.cli import _support
from orchestra.cli._support import backend

_limit = click.option("-l", "--limit", type=click.IntRange(min=0), help="How many slots it has; 0 holds everybody.")
_decay = click.option(
    "--slot-decay-per-second",
    type=click.FloatRange(min=0.0),
    help="Of a rate limit: how many slots a second are free again.",
)


@click.group(cls=_support.Group)
def global_concurrency_limit() -> None:
    """Limit how much goes on at once: blocks by concurrency(), rates by rate_limit(), tasks by their tags."""


@global_concurrency_limit.command()
@click.argument("name")
@_limit
@click.option("--disable", is_flag=True, help="It limits nothing until it is enabled.")
@_decay
@_support.output_option
def create(name: str, limit: int | None, disable: bool, slot_decay_per_second: float | None, output: str) -> None:
    """Make a limit; one named tag:NAME is for all tasks with the tag NAME.

    \b
    Examples:
      orchestra global-concurrency-limit create database --limit 10
      orchestra gcl create tag:gpu --limit 2
      orchestra gcl create api --limit 5 --slot-decay-per-second 0.5
    """
    if limit is None:
        _support.fail("say how many slots it has: --limit N", _support.ExitCode.USAGE)
    made = backend().create_limit(name, limit, active=not disable, slot_decay_per_second=slot_decay_per_second or 0.0)
    if output == "json":
        _support.emit_json(made)
    _support.say(f"concurrency limit {name!r} is made; see it by: orchestra gcl inspect {name}")


@global_concurrency_limit.command("ls")
@_support.output_option
def ls(output: str) -> None:
    """List all limits by name."""
    found = backend().list_limits()
    if output == "json":
        _support.emit_json(found)
        return
    columns = ("NAME", "LIMIT", "ACTIVE SLOTS", "WAITING", "SLOTS PER SECOND", "ACTIVE")
    rows = [(e.name, e.limit, e.active_slots, e.waiting, e.slot_decay_per_second or None, e.active) for e in found]
    _support.emit_table(columns, rows)


@global_concurrency_limit.command()
@click.argument("name")
@_support.output_option
def inspect(name: str, output: str) -> None:
    """Show a limit, who has slots of it, and who waits, in their order.

    \b
    Example:
      orchestra gcl inspect database -o json
    """
    found, holders = backend().read_limit(name), backend().read_holders(name)
    having = [each for each in holders if each.has_them]
    waiting = [each for each in holders if not each.has_them]
    if output == "json":
        shown = _support.jsonable(found) | {"holders": having, "waiters": waiting}
        _support.emit_json(shown)
        return
    _support.emit_record(found)
    for title, some in (("HAS SLOTS", having), ("WAITS", waiting)):
        if some:
            rows = [(each.type, each.id, each.name, each.slots, each.since) for each in some]
            _support.emit_table((title, "ID", "NAME", "SLOTS", "SINCE"), rows)


@global_concurrency_limit.command()
@click.argument("name")
@click.option("--enable/--disable", "active", default=None, help="Whether it limits anything.")
@_limit
@_decay
@_support.output_option
def update(name: str, active: bool | None, limit: int | None, slot_decay_per_second: float | None, output: str) -> None:
    """Change a limit. Who waits is served at once; who has slots keeps them.

    \b
    Examples:
      orchestra gcl update database --limit 20
      orchestra gcl update api --slot-decay-per-second 2
    """
    changed = backend().update_limit(name, limit=limit, active=active, slot_decay_per_second=slot_decay_per_second)
    if output == "json":
        _support.emit_json(changed)
    _support.say(f"concurrency limit {name!r} is changed")


@global_concurrency_limit.command()
@click.argument("name")
def enable(name: str) -> None:
    """Have a limit limit again; who is in stays in."""
    backend().update_limit(name, active=True)
    _support.say(f"concurrency limit {name!r} is enabled")


@global_concurrency_limit.command()
@click.argument("name")
def disable(name: str) -> None:
    """Have a limit limit nothing; who waits goes on."""
    backend().update_limit(name, active=False)
    _support.say(f"concurrency limit {name!r} is disabled: it limits nothing")


@global_concurrency_limit.command()
@click.argument("name")
def delete(name: str) -> None:
    """Delete a limit; who waits goes on."""
    backend().delete_limit(name)
    _support.say(f"concurrency limit {name!r} is deleted")
