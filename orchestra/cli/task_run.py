"""`orchestra task-run`: what the tasks of flow runs did."""

from __future__ import annotations

import shutil
import sys

import rich_click as click

from orchestra import lazy
from orchestra.cli import _logs, _support
from orchestra.cli._support import backend


@click.group(cls=_support.Group)
def task_run() -> None:
    """See task runs."""


@task_run.command("ls")
@click.option("--flow-run", "flow_run_id", metavar="ID", help="Only those of this flow run, in order of asking.")
@click.option("--all-attempts", is_flag=True, help="Also those of earlier attempts of that flow run.")
@click.option("--all-steps", is_flag=True, help="Also subflows, sleeps, pauses and observations.")
@_support.tag_option
@_support.state_options
@_support.page_options(15, "task run")
@_support.output_option
def ls(
    flow_run_id: str | None,
    all_attempts: bool,
    all_steps: bool,
    tags: tuple[str, ...],
    state_names: tuple[str, ...],
    state_types: tuple[str, ...],
    limit: int,
    after: str | None,
    output: str,
) -> None:
    """List task runs, the newest first.

    \b
    Examples:
      orchestra task-run ls --flow-run RUN_ID --limit 1000
      orchestra task-run ls --state-type FAILED -o json
    """
    page = backend().list_task_runs(
        limit=limit,
        after=after,
        flow_run_id=flow_run_id,
        every_attempt=all_attempts,
        kinds=() if all_steps else (lazy.resolve("orchestra.store.tables:Kind").TASK,),
        state_types=state_types,
        state_names=state_names,
        tags=tags,
    )
    if output == "json":
        _support.emit_json(page.items)
    else:
        # Two ids leave a terminal of usual width no room for anything else.
        roomy = not sys.stdout.isatty() or shutil.get_terminal_size().columns >= 120
        runs = [(t.flow_run_id,) if roomy else () for t in page.items]
        rows = [
            (t.id, t.name, *run, t.state_name, t.run_count, round(t.total_run_time, 3))
            for t, run in zip(page.items, runs, strict=True)
        ]
        flow_run = ("FLOW RUN ID",) if roomy else ()
        _support.emit_table(("ID", "NAME", *flow_run, "STATE", "ATTEMPT", "SECONDS"), rows)
    _support.say_more(page.next)


@task_run.command()
@click.argument("task_run_id", metavar="ID")
@_support.output_option
def inspect(task_run_id: str, output: str) -> None:
    """Show one task run: state, inputs, result or error, times."""
    found = backend().read_task_run(task_run_id)
    record = _support.flat(found)
    if output == "json":
        _support.emit_json(record)
    else:
        _support.emit_details(record)


@task_run.command()
@click.argument("task_run_id", metavar="ID")
@_logs.options
@_support.output_option
def logs(
    task_run_id: str, head: int | None, tail: int | None, level: str | None, reverse: bool, follow: bool, output: str
) -> None:
    """Print the log lines of a task run; with --follow until its flow run has ended.

    \b
    Examples:
      orchestra task-run logs TASK_RUN_ID --level WARNING
      orchestra task-run logs TASK_RUN_ID --tail 50 -o json
    """
    at = backend()
    flow_run_id = at.read_task_run(task_run_id).run.flow_run_id
    _logs.show(
        at, flow_run_id, task_run_id, head=head, tail=tail, level=level, reverse=reverse, follow=follow, output=output
    )
