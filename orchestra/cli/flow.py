"""`orchestra flow`: the flows that ran here, and the canvas that one of them compiles to."""

from __future__ import annotations

import rich_click as click

from orchestra import lazy
from orchestra.cli import _drawing, _support
from orchestra.engine.parameters import bind_named
from orchestra.store import queries
from orchestra.store.database import database


@click.group(cls=_support.Group)
def flow() -> None:
    """See flows."""


@flow.command("ls")
@_support.page_options(50, "flow (its name)")
@_support.output_option
def ls(limit: int, after: str | None, output: str) -> None:
    """List flows by name, each with its newest run.

    \b
    Example:
      orchestra flow ls -o json
    """
    page = queries.list_flows(database(), limit=limit, after=after)
    if output == "json":
        _support.emit_json(page.items)
    else:
        rows = [(f.name, f.path, f.last_run_state_name, f.last_run_created) for f in page.items]
        _support.emit_table(("NAME", "PATH", "LAST RUN", "WHEN"), rows)
    _support.say_more(page.next)


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
