"""`orchestra work-queue`: the queues of work pools."""

from __future__ import annotations

from typing import Any

import rich_click as click

from orchestra.cli import _pool_views, _support
from orchestra.cli._support import backend


@click.group("work-queue", cls=_support.Group)
def work_queue() -> None:
    """Make and change the queues of work pools."""


_name = click.argument("name")
_pool = click.option("-p", "--pool", required=True, help="The work pool.")


@work_queue.command()
@_name
@_pool
@click.option("-d", "--description", default="", help="What it is for.")
@click.option("--priority", type=click.IntRange(min=0), default=1, show_default=True, help="The lowest goes first.")
@click.option("-l", "--limit", type=click.IntRange(min=1), help="Most runs at work at once; else any number.")
def create(name: str, pool: str, description: str, priority: int, limit: int | None) -> None:
    """Make a queue of a work pool: queue q of pool P is the Celery queue P.q.

    \b
    Example:
      orchestra work-queue create urgent --pool etl --priority 0
    """
    made = backend().create_queue(pool, name, description=description, priority=priority, concurrency_limit=limit)
    _support.say(f"work queue {name!r} of pool {pool!r} is made: the Celery queue {made.celery_queue!r}")


@work_queue.command("ls")
@click.option("-p", "--pool", help="Only those of this work pool.")
@_support.output_option
def ls(pool: str | None, output: str) -> None:
    """List work queues by pool, in the order in which they are served."""
    found = backend().list_queues(pool)
    if output == "json":
        _support.emit_json(found)
        return
    columns = ("POOL", "NAME", "CELERY QUEUE", "PRIORITY", "LIMIT", "STATUS")
    rows = [
        (
            q.work_pool_name,
            q.name,
            q.celery_queue,
            q.priority,
            q.concurrency_limit or "",
            q.status,
        )
        for q in found
    ]
    _support.emit_table(columns, rows)


@work_queue.command()
@_name
@_pool
@_support.output_option
def inspect(name: str, pool: str, output: str) -> None:
    """Show one work queue."""
    at = backend()
    found = at.read_queue(pool, name)
    (_support.emit_json if output == "json" else _support.emit_record)(found)
    _pool_views.say_unheard(at, found.celery_queue)


@work_queue.command()
@_name
@_pool
@click.option("-d", "--description", help="What it is for.")
@click.option("--priority", type=click.IntRange(min=0), help="The lowest goes first; acts at once on what waits.")
def update(name: str, pool: str, description: str | None, priority: int | None) -> None:
    """Change a work queue; what is not named stays."""
    given = {"description": description, "priority": priority}
    changes = {key: value for key, value in given.items() if value is not None}
    if not changes:
        raise click.UsageError("nothing to change: give --priority or --description")
    _change(pool, name, "is changed", **changes)


@work_queue.command()
@_name
@_pool
def delete(name: str, pool: str) -> None:
    """Delete a work queue; what waits there waits on."""
    backend().delete_queue(pool, name)
    _support.say(f"work queue {name!r} of pool {pool!r} is deleted")


def _change(pool: str, name: str, done: str, **changes: Any) -> None:
    backend().change_queue(pool, name, **changes)
    _support.say(f"work queue {name!r} of pool {pool!r} {done}")


@work_queue.command()
@_name
@_pool
def pause(name: str, pool: str) -> None:
    """Start nothing of a queue until `resume`; what has begun goes on."""
    _change(pool, name, "is paused", paused=True)


@work_queue.command()
@_name
@_pool
def resume(name: str, pool: str) -> None:
    """Let a paused queue go on."""
    _change(pool, name, "goes on", paused=False)


@work_queue.command("set-concurrency-limit")
@_name
@click.argument("limit", type=click.IntRange(min=1))
@_pool
def set_limit(name: str, limit: int, pool: str) -> None:
    """Let at most so many runs be at work at once."""
    _change(pool, name, f"has a concurrency limit of {limit}", concurrency_limit=limit)


@work_queue.command("clear-concurrency-limit")
@_name
@_pool
def clear_limit(name: str, pool: str) -> None:
    """Let any number of runs be at work at once."""
    _change(pool, name, "has no concurrency limit", concurrency_limit=None)


@work_queue.command()
@_name
@_pool
@click.option("-l", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Most runs to show.")
@_support.output_option
def preview(name: str, pool: str, limit: int, output: str) -> None:
    """Show the runs that wait to start in a queue, the first due first, and those that schedules will make there."""
    _pool_views.show_waiting(pool, name, limit, output)


@work_queue.command()
@_name
@_pool
@_support.output_option
def slots(name: str, pool: str, output: str) -> None:
    """Show a queue's slots, who is at work there, and who waits for a slot."""
    _pool_views.show_slots(pool, name, output)
