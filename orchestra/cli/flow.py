"""`orchestra flow`: the flows that ran here, and the canvas that one of them compiles to."""

from __future__ import annotations

import rich_click as click

from orchestra import lazy
from orchestra.cli import _drawing, _options, _support
from orchestra.cli._support import backend
from orchestra.engine.parameters import bind_named


@click.group(cls=_support.Group)
def flow() -> None:
    """See and serve flows."""


@flow.command("ls")
@_support.page_options(50, "flow (its name)")
@_support.output_option
def ls(limit: int, after: str | None, output: str) -> None:
    """List flows by name, each with its newest run.

    \b
    Example:
      orchestra flow ls -o json
    """
    page = backend().list_flows(limit=limit, after=after)
    if output == "json":
        _support.emit_json(page.items)
    else:
        rows = [(f.name, f.path, f.last_run_state_name, f.last_run_created) for f in page.items]
        _support.emit_table(("NAME", "PATH", "LAST RUN", "WHEN"), rows)
    _support.say_more(page.next)


@flow.command()
@click.argument("entrypoint", metavar="FILE.py:FLOW")
@click.option("-n", "--name", help="Name of the deployment; else the flow's.")
@click.option("--cron", help="Start runs by a cron expression.")
@click.option("--interval", metavar="TIME", callback=_options.duration, help="Start a run each 90, 15m, '2h 30m'.")
@click.option("--rrule", help="Start runs by a recurrence rule.")
@click.option("-l", "--limit", type=click.IntRange(min=1), help="Most runs at work at once; else one per processor.")
@click.option("-t", "--tag", "tags", multiple=True, help="Tag of its runs; repeatable.")
@click.option("--pause-on-shutdown/--no-pause-on-shutdown", default=True, help="Pause its schedules at the end.")
def serve(
    entrypoint: str,
    name: str | None,
    cron: str | None,
    interval: float | None,
    rrule: str | None,
    limit: int | None,
    tags: tuple[str, ...],
    pause_on_shutdown: bool,
) -> None:
    """Write a deployment of a flow down and run its runs here, until Ctrl-C.

    \b
    Example:
      orchestra flow serve etl.py:pipeline --name nightly --cron '0 3 * * *'
    """
    found = lazy.resolve("orchestra.flows:load_flow_from_entrypoint")(entrypoint)
    found.serve(
        name, cron=cron, interval=interval, rrule=rrule, limit=limit, tags=tags, pause_on_shutdown=pause_on_shutdown
    )


@flow.command()
@click.argument("path", metavar="MODULE:FLOW")
@_support.parameter_options
@click.option("--mermaid", is_flag=True, help="As a Mermaid graph, for Markdown.")
@_support.app_option
@_support.output_option
def canvas(path: str, pairs: tuple[str, ...], text: str | None, mermaid: bool, output: str) -> None:
    """Show the whole flow as the Celery canvas it compiles to; runs the flow's body with placeholders, no task.

    \b
    Example:
      orchestra flow canvas etl:pipeline --param day=2026-11-22 --mermaid
    """
    spec = _support.load_flow(path)
    signature = lazy.load("flow_canvas")(spec, bind_named(spec.fn, _support.parameters(pairs, text)))
    if output == "json":
        _support.emit_json(signature)
    else:
        tree = _drawing.of_signature(signature)
        _support.emit(_drawing.mermaid(tree) if mermaid else _drawing.text(tree))
