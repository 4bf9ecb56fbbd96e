"""`orchestra worker`: Celery workers that carry out flows."""

from __future__ import annotations

import os
import sys
from dataclasses import fields

import rich_click as click

from orchestra import lazy, settings
from orchestra import work_pools as types
from orchestra.cli import _support

_POOLS = ("prefork", "threads", "solo", "gevent")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@click.group(cls=_support.Group)
def worker() -> None:
    """Start workers, and see them."""


@worker.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option(
    "-q", "--queue", "--work-queue", "queues", multiple=True, help="Consume this queue; repeatable. [default: default]"
)
@click.option("-p", "--pool", "work_pool_name", help="Consume the queues of this work pool; with -q, only those.")
@click.option("-t", "--type", "kind", help="Type of the work pool; one that is not there is made, of this type.")
@click.option("-f", "--flows", multiple=True, metavar="MODULE", help="Module with flows; else ORCHESTRA_FLOWS.")
@click.option("-c", "--concurrency", "-l", "--limit", type=click.IntRange(min=1), help="Slots; else one per processor.")
@click.option(
    "-P", "--pool-type", type=click.Choice(_POOLS), default="prefork", show_default=True, help="Celery's pool."
)
@click.option("-n", "--name", help="Name of the worker, as etl or etl@%h; else Celery's.")
@click.option("--run-once", is_flag=True, help="End once nothing is due and nothing is at work.")
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
    run_once: bool,
    log_level: str,
    app: str | None,
) -> None:
    """Become a Celery worker on these queues: `celery -A APP worker -Q …`. What follows `--` goes to Celery as it is.

    \b
    Examples:
      orchestra worker start -q etl -q default --flows etl
      orchestra worker start --pool etl --limit 4 --name loader
      orchestra worker start --pool etl --run-once
      orchestra worker start -A proj -q default -c 8 -- --without-gossip
    """
    _support.need_database()
    consumed = queues or ("default",)
    if work_pool_name is not None:
        consumed = _queues_of(work_pool_name, queues, kind)
    current = settings.current()
    chosen = app or current.app or "celery_app"
    command = [sys.executable, "-m", "celery", "-A", chosen, "worker", "-Q", ",".join(consumed)]
    command += ["-P", pool_type, "-l", log_level.upper()]
    command += ["-c", str(concurrency)] if concurrency else []
    command += ["-n", name if "@" in name else f"{name}@%h"] if name else []
    environment = dict(os.environ)
    if flows:
        environment["ORCHESTRA_FLOWS"] = ",".join(flows)
    if app:
        environment["ORCHESTRA_APP"] = app
    if current.profile:
        environment["ORCHESTRA_PROFILE"] = current.profile
    command += ctx.args
    if run_once:
        ctx.exit(lazy.resolve("orchestra.cli._run_once:run")(command, environment, consumed))
    # In the place of this process: signals reach the worker itself, and nothing is left when it ends.
    os.execve(sys.executable, command, environment)


def _queues_of(pool: str, queues: tuple[str, ...], kind: str | None) -> tuple[str, ...]:
    """The Celery queues of a work pool, the first served first: all that it has, or those named."""
    db = lazy.load("database")()
    work_pools = lazy.resolve("orchestra.store.work_pools")
    wanted = None if kind is None else types.type_named(kind)
    found = work_pools.find(db, pool)
    if found is None and wanted is not None:
        found = work_pools.create(db, pool, wanted.name, base_job_template=wanted.base_job_template())
        _support.say(f"there was no work pool {pool!r}: one of type {wanted.name} is made")
    if found is None:
        _support.fail(
            f"there is no work pool {pool!r}: `orchestra work-pool create {pool}` makes it, or start the worker with "
            "--type process, which does so too",
            _support.ExitCode.NOT_FOUND,
        )
    if wanted is not None and wanted.name != found.type:
        _support.fail(
            f"work pool {pool!r} is of type {found.type}, so a worker of type {wanted.name} cannot start its runs: "
            "leave --type out, or name another pool",
            _support.ExitCode.CONFLICT,
        )
    if types.type_named(found.type).has_image:
        _support.fail(
            f"work pool {pool!r} is of type {found.type}, and what starts its runs is not there yet; only pools of "
            "type process have workers",
            _support.ExitCode.CONFLICT,
        )
    if queues:
        return tuple(work_pools.read_queue(db, pool, name).celery_queue for name in queues)
    return tuple(each.celery_queue for each in work_pools.list_queues(db, pool))


# -- to look at --------------------------------------------------------------------------------------------------


@worker.command("ls")
@click.option("-p", "--pool", "work_pool_name", help="Only those that consume a queue of this work pool.")
@_support.page_options(100, "worker (its name)")
@_support.output_option
def ls(work_pool_name: str | None, limit: int, after: str | None, output: str) -> None:
    """List workers: those that live, and those that died lately.

    \b
    Example:
      orchestra worker ls --pool etl -o json
    """
    at = _support.backend()
    page = at.list_workers(limit=limit, after=after, pool=work_pool_name)
    if output == "json":
        _support.emit_json(page.items)
    else:
        columns = ("NAME", "STATUS", "POOLS", "QUEUES", "SLOTS", "RUNNING", "LAST HEARTBEAT")
        rows = [
            (
                each.name,
                f"{each.status}, stopping" if each.stopping else each.status,
                ",".join(each.work_pools),
                ",".join(each.queues),
                each.slots,
                each.running,
                each.last_heartbeat_time,
            )
            for each in page.items
        ]
        _support.emit_table(columns, rows)
    _support.say_more(page.next)


@worker.command()
@click.argument("name")
@_support.output_option
def inspect(name: str, output: str) -> None:
    """Show one worker: what it consumes, and what it is at work on. The part of its name before the @ is enough."""
    found = _support.backend().read_worker(name)
    if output == "json":
        _support.emit_json(found)
        return
    shown = {each.name: getattr(found, each.name) for each in fields(found)}
    shown["at_work"] = "\n".join(
        f"{each.type} {each.id} {each.name}, since {_support.cell(each.since)}" for each in found.at_work
    )
    _support.emit_record(shown)
