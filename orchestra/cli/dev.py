"""`orchestra dev`: a broker, a worker, beat and the server, until Ctrl-C."""

from __future__ import annotations

import rich_click as click

from orchestra import dev as stack
from orchestra.cli import _support
from orchestra.masking import mask_url

_POOLS = ("prefork", "threads", "solo", "gevent")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@click.command()
@_support.app_option
@click.option("-f", "--flows", multiple=True, metavar="MODULE", help="Module with flows; else ORCHESTRA_FLOWS.")
@click.option("-q", "--queue", "queues", multiple=True, help="Consume this queue too; repeatable.")
@click.option("-c", "--concurrency", type=click.IntRange(min=1), help="Slots of the worker; else one per processor.")
@click.option("-P", "--pool", type=click.Choice(_POOLS), default="prefork", show_default=True, help="Its pool.")
@click.option("--beat/--no-beat", default=True, show_default=True, help="Run Celery's beat.")
@click.option("--server/--no-server", default=True, show_default=True, help="Run the API and the admin view.")
@click.option(
    "--server-port",
    type=click.IntRange(1, 65535),
    default=4200,
    show_default=True,
    help="Their port; where it is taken, another one.",
)
@click.option("--log-level", type=click.Choice(_LEVELS, case_sensitive=False), default="INFO", show_default=True)
@click.pass_context
def dev(
    ctx: click.Context,
    flows: tuple[str, ...],
    queues: tuple[str, ...],
    concurrency: int | None,
    pool: str,
    beat: bool,
    server: bool,
    server_port: int,
    log_level: str,
) -> None:
    """Bring up all that flows need: an embedded broker, a worker, beat, the server. Ctrl-C ends all of it.

    Other terminals with the same ORCHESTRA_HOME find the broker by themselves. With an app of your own, its worker and
    beat are started, on its broker.

    \b
    Examples:
      orchestra dev --flows etl
      orchestra dev -A proj
    """
    _support.need_database()
    code = stack.run(
        flows=flows,
        queues=queues,
        concurrency=concurrency,
        pool=pool,
        beat=beat,
        server_port=server_port if server else None,
        log_level=log_level,
        on_ready=_ready,
    )
    ctx.exit(code)


def _ready(url: str, server_url: str | None) -> None:
    _support.say(f"broker at {mask_url(url)}; in another terminal: orchestra flow-run create --flow MODULE:FLOW")
    if server_url is not None:
        _support.say(f"admin view at {server_url}, API at {server_url}/api")
    _support.say("Ctrl-C ends all of it")
