"""`orchestra transaction`: the transactions of flow runs, what their rollbacks did, and those that failed."""

from __future__ import annotations

from typing import Any

import rich_click as click

from orchestra import clock, previews
from orchestra.cli import _support
from orchestra.engine import leases, operations
from orchestra.store import transactions
from orchestra.store.database import Database, database
from orchestra.store.transactions import HookRow, TransactionRow
from orchestra.transaction_rules import Durable

_id = click.argument("name", metavar="ID")


def _transactions() -> Database:
    """The database, in which what dead local processes left open is rolled back by now."""
    db = database()
    leases.mark_dead(db)
    return db


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
    db = _transactions()
    before = None if after is None else _find(db, after)
    found = transactions.page(db, run_id=flow_run_id, states=states, limit=limit + 1, before=before)
    shown = found[:limit]
    if output == "json":
        _support.emit_json([_record(row) for row in shown])
    else:
        rows = [(_name(row), row.name, row.state, row.message, clock.to_datetime(row.created_at)) for row in shown]
        _support.emit_table(("ID", "NAME", "STATE", "MESSAGE", "CREATED"), rows)
    _support.say_more(_name(shown[-1]) if len(found) > limit else None)


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
    db = _transactions()
    row = _find(db, name)
    hooks = transactions.hooks(db, row.run_id, row.run_attempt, row.key)
    record = _record(row) | {
        "values": previews.preview(row.stored),
        "error": previews.preview(row.error),
        "hooks": [_hook_record(hook) for hook in _in_order(hooks)],
    }
    if output == "json":
        _support.emit_json(record)
        return
    error: Any = record["error"]
    if isinstance(error, dict) and "traceback" in error:
        record["error"] = error["traceback"]
    record["hooks"] = "\n".join(_hook_line(hook) for hook in record["hooks"])
    _support.emit_record(record)


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
    run_id, _, key = name.partition("/")
    row = operations.retry_rollback(_transactions(), run_id, key or None)
    _support.say(f"The rollback of transaction {_name(row)} goes on: {row.state}")


def _find(db: Database, name: str) -> TransactionRow:
    run_id, _, key = name.partition("/")
    return transactions.find(db, run_id, key or None)


def _name(row: TransactionRow) -> str:
    return f"{row.run_id}/{row.key}"


def _record(row: TransactionRow) -> dict[str, Any]:
    return {
        "id": _name(row),
        "flow_run_id": row.run_id,
        "run_attempt": row.run_attempt,
        "key": row.key,
        "name": row.name,
        "parent_key": row.parent_key,
        "state": row.state,
        "message": row.message,
        "created": clock.to_datetime(row.created_at),
        "end_time": clock.to_datetime(row.end_time),
    }


def _in_order(hooks: list[HookRow]) -> list[HookRow]:
    """As they run: rollback hooks newest first, commit hooks oldest first."""
    rollback = [hook for hook in hooks if hook.kind == "rollback"]
    return [*reversed(rollback), *(hook for hook in hooks if hook.kind != "rollback")]


def _hook_record(hook: HookRow) -> dict[str, Any]:
    return {
        "key": hook.key,
        "kind": hook.kind,
        "name": hook.name,
        "step_key": hook.step_key,
        "state": hook.state,
        "message": hook.message,
        "run_count": hook.attempt,
        "starts": hook.starts,
        "start_time": clock.to_datetime(hook.start_time),
        "end_time": clock.to_datetime(hook.end_time),
    }


def _hook_line(hook: dict[str, Any]) -> str:
    """A hook in words: what it is of, how it stands, and why."""
    whose = f" of {hook['step_key']}" if hook["step_key"] else ""
    tries = f", try {hook['run_count']}" if hook["run_count"] > 1 else ""
    starts = f", started {hook['starts']} times" if hook["starts"] > hook["run_count"] else ""
    ended = f", {_support.cell(hook['end_time'])}" if hook["end_time"] else ""
    told = f": {hook['message']}" if hook["message"] else ""
    return f"{hook['kind']} {hook['name']}{whose}: {hook['state']}{tries}{starts}{ended}{told}"
