"""`orchestra worker`: Celery workers that carry out flows."""

from __future__ import annotations

import os
import sys

import rich_click as click

from orchestra import settings
from orchestra.cli import _support

_POOLS = ("prefork", "threads", "solo", "gevent")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@click.group(cls=_support.Group)
def worker() -> None:
    """Start workers."""


@worker.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option(
    "-q", "--queue", "--work-queue", "queues", multiple=True, help="Consume this queue; repeatable. [default: default]"
)
@click.option("-f", "--flows", multiple=True, metavar="MODULE", help="Module with flows; else ORCHESTRA_FLOWS.")
@click.option("-c", "--concurrency", "-l", "--limit", type=click.IntRange(min=1), help="Slots; else one per processor.")
@click.option(
    "-P", "--pool-type", type=click.Choice(_POOLS), default="prefork", show_default=True, help="Celery's pool."
)
@click.option("-n", "--name", help="Name of the node, as etl@%h; else Celery's.")
@click.option("--log-level", type=click.Choice(_LEVELS, case_sensitive=False), default="INFO", show_default=True)
@click.option("-A", "--app", metavar="MODULE[:APP]", help="Celery app; else ORCHESTRA_APP, else orchestra's own.")
@click.pass_context
def start(
    ctx: click.Context,
    queues: tuple[str, ...],
    flows: tuple[str, ...],
    concurrency: int | None,
    pool_type: str,
    name: str | None,
    log_level: str,
    app: str | None,
) -> None:
    """Become a Celery worker on these queues: `celery -A APP worker -Q …`. What follows `--` goes to Celery as it is.

    \b
    Examples:
      orchestra worker start -q etl -q default --flows etl
      orchestra worker start -A proj -q default -c 8 -- --without-gossip
    """
    current = settings.current()
    chosen = app or current.app or "celery_app"
    command = [sys.executable, "-m", "celery", "-A", chosen, "worker", "-Q", ",".join(queues or ("default",))]
    command += ["-P", pool_type, "-l", log_level.upper()]
    command += ["-c", str(concurrency)] if concurrency else []
    command += ["-n", name] if name else []
    environment = dict(os.environ)
    if flows:
        environment["ORCHESTRA_FLOWS"] = ",".join(flows)
    if app:
        environment["ORCHESTRA_APP"] = app
    if current.profile:
        environment["ORCHESTRA_PROFILE"] = current.profile
    # In the place of this process: signals reach the worker itself, and nothing is left when it ends.
    os.execve(sys.executable, [*command, *ctx.args], environment)
