"""`orchestra task`: workers for tasks that run outside of flows."""

from __future__ import annotations

import rich_click as click

from orchestra import lazy
from orchestra.cli import _support


@click.group(cls=_support.Group)
def task() -> None:
    """Run tasks in the background."""


@task.command()
@click.argument("paths", metavar="MODULE:TASK...", nargs=-1, required=True)
@click.option("-l", "--limit", type=click.IntRange(min=1), default=10, show_default=True, help="How many run at once.")
@_support.app_option
def serve(paths: tuple[str, ...], limit: int) -> None:
    """Run a Celery worker, in this process, for background runs of these tasks.

    \b
    Example:
      orchestra task serve shop:send_receipt shop:resize --limit 4
    """
    _support.need_database()
    tasks = [_support.load_task(path) for path in paths]
    lazy.load("serve_tasks")(tasks, limit=limit)
