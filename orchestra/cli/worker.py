"""`orchestra worker`: Celery workers that carry out flows."""

from __future__ import annotations

import os
import sys

import rich_click as click

from orchestra import lazy, settings
from orchestra import work_pools as types
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
@click.option("-p", "--pool", "work_pool_name", help="Consume the queues of this work pool; with -q, only those.")
@click.option("-t", "--type", "kind", help="Make the work pool, of this type, if it is not there.")
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
    work_pool_name: str | None,
    kind: str | None,
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
      orchestra worker start --pool etl --limit 4
      orchestra worker start -A proj -q default -c 8 -- --without-gossip
    """
    consumed = queues or ("default",)
    if work_pool_name is not None:
        consumed = _queues_of(work_pool_name, queues, kind)
    current = settings.current()
    chosen = app or current.app or "celery_app"
    command = [sys.executable, "-m", "celery", "-A", chosen, "worker", "-Q", ",".join(consumed)]
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


def _queues_of(pool: str, queues: tuple[str, ...], kind: str | None) -> tuple[str, ...]:
    """The Celery queues of a work pool: all that it has, or those named."""
    db = lazy.load("database")()
    work_pools = lazy.resolve("orchestra.store.work_pools")
    if kind is not None and work_pools.find(db, pool) is None:
        work_pools.create(db, pool, kind, base_job_template=types.type_named(kind).base_job_template())
    found = work_pools.read(db, pool)
    if types.type_named(found.type).has_image:
        _support.fail(
            f"work pool {pool!r} is of type {found.type}, and what starts its runs is not there yet; only pools of "
            "type process have workers",
            _support.ExitCode.CONFLICT,
        )
    if queues:
        return tuple(work_pools.read_queue(db, pool, name).celery_queue for name in queues)
    return tuple(each.celery_queue for each in work_pools.list_queues(db, pool))
