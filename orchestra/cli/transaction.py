"""`orchestra transaction`: the transactions of flow runs, what their rollbacks did, and those that failed."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import rich_click as click

from orchestra import lazy
from orchestra.cli import _support
from orchestra.cli._support import backend
from orchestra.transaction_rules import Durable

if TYPE_CHECKING:
    from orchestra.store.transaction_records import HookRecord

_id = click.argument("name", metavar="ID")


@click.group(cls=_support.Group)
def transaction() -> None:
    """See transactions, and run rollback hooks that failed once more.

    ID is that of the flow run, where it has one transaction; else RUN_ID/KEY, as `ls` shows it.
    """


@transaction.command("ls")
@click.option("--flow-run", "flow_run_id", metavar="ID", help="Only those of this flow run.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in Durable], case_sensitive=False),
    help="Only in this state; repeatable.",
)
@_support.page_options(15, "transaction")
@_support.output_option
def ls(flow_run_id: str | None, states: tuple[str, ...], limit: int, after: str | None, output: str) -> None:
    """List transactions, the newest first.

    \b
    Examples:
      orchestra transaction ls --state ROLLBACK_FAILED
      orchestra transaction ls --flow-run RUN_ID -o json
    """
    page = backend(of_runs=True).list_transactions(flow_run_id=flow_run_id, states=states, limit=limit, after=after)
    if output == "json":
        _support.emit_json(page.items)
    else:
        rows = [(each.id, each.name, each.state, each.message, each.created) for each in page.items]
        _support.emit_table(("ID", "NAME", "STATE", "MESSAGE", "CREATED"), rows)
    _support.say_more(page.next)


@transaction.command()
@_id
@_support.output_option
def inspect(name: str, output: str) -> None:
    """Show one transaction: its state, what was set in it, and its hooks in the order in which they run.

    \b
    Examples:
      orchestra transaction inspect RUN_ID
      orchestra transaction inspect RUN_ID/0/txn-1 -o json
    """
    found = backend(of_runs=True).read_transaction(*_place(name))
    if output == "json":
        _support.emit_json(found)
        return
    shown = {each.name: getattr(found, each.name) for each in fields(found)}
    if isinstance(found.error, dict) and "traceback" in found.error:
        shown["error"] = found.error["traceback"]
    shown["hooks"] = "\n".join(_hook_line(hook) for hook in found.hooks)
    _support.emit_record(shown)


@transaction.command()
@_id
@_support.app_option
def retry(name: str) -> None:
    """Run the rollback hooks that failed once more, where the run's workers are.

    Those of a run that had no workers are run in this process. A run whose failed hooks have all ended well then shows
    as RolledBack.

    \b
    Examples:
      orchestra transaction ls --state ROLLBACK_FAILED
      orchestra transaction retry RUN_ID
    """
    found = backend(of_runs=True).retry_rollback(*_place(name))
    _support.say(f"The rollback of transaction {found.id} goes on: {found.state}")


def _place(name: str) -> Any:
    return lazy.resolve("orchestra.store.transaction_records:place_of")(name)


def _hook_line(hook: HookRecord) -> str:
    """A hook in words: what it is of, how it stands, and why."""
    whose = f" of {hook.step_key}" if hook.step_key else ""
    tries = f", try {hook.run_count}" if hook.run_count > 1 else ""
    starts = f", started {hook.starts} times" if hook.starts > hook.run_count else ""
    ended = f", {_support.cell(hook.end_time)}" if hook.end_time else ""
    told = f": {hook.message}" if hook.message else ""
    return f"{hook.kind} {hook.name}{whose}: {hook.state}{tries}{starts}{ended}{told}"
