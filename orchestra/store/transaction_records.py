"""Transactions of flow runs as people see them: what became of each, and of its hooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestra import clock, previews
from orchestra.store import transactions
from orchestra.store.database import Database
from orchestra.store.queries import Page, page_of
from orchestra.store.transactions import HookRow, TransactionRow


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionRecord:
    """A transaction."""

    #: `flow run/key`.
    id: str
    flow_run_id: str
    run_attempt: int
    key: str
    name: str | None
    parent_key: str | None
    state: str
    message: str | None
    created: datetime | None
    end_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HookRecord:
    """A hook of a transaction."""

    key: str
    #: "rollback" or "commit".
    kind: str
    name: str
    step_key: str | None
    state: str
    message: str | None
    run_count: int
    starts: int
    start_time: datetime | None
    end_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionDetails(TransactionRecord):
    """A transaction, what was set in it, and its hooks in the order in which they run."""

    #: Previews, as of every stored value.
    values: Any
    error: Any
    hooks: tuple[HookRecord, ...]


def list_transactions(
    database: Database,
    *,
    flow_run_id: str | None = None,
    states: Sequence[str] = (),
    limit: int,
    after: str | None = None,
) -> Page[TransactionRecord]:
    """Transactions, the newest first.

    Args:
        flow_run_id: Of this flow run only.
        states: In one of these (`transaction_rules.Durable`) only.
        limit: Most of them on the page.
        after: Id of the last one of the page before.

    Raises:
        TransactionNotFound: `after` is not there (any more).
    """
    before = None if after is None else transactions.find(database, *place_of(after))
    found = transactions.page(database, run_id=flow_run_id, states=states, limit=limit + 1, before=before)
    return page_of([record_of(row) for row in found], limit, lambda each: each.id)


def read(database: Database, flow_run_id: str, key: str | None = None) -> TransactionDetails:
    """A transaction of a flow run, with its hooks.

    Args:
        key: As in `transactions.find`.

    Raises:
        TransactionNotFound: There is none, or more than one fits.
    """
    row = transactions.find(database, flow_run_id, key)
    hooks = transactions.hooks(database, row.run_id, row.run_attempt, row.key)
    return TransactionDetails(
        **_values(row),
        values=previews.preview(row.stored),
        error=previews.preview(row.error),
        hooks=tuple(_hook(each) for each in _in_order(hooks)),
    )


def place_of(id: str) -> tuple[str, str | None]:
    """The flow run and the key that an id names: `flow run/key`, or the flow run alone, which has one transaction."""
    flow_run_id, _, key = id.partition("/")
    return flow_run_id, key or None


def record_of(row: TransactionRow) -> TransactionRecord:
    """A row as people see it."""
    return TransactionRecord(**_values(row))


def _values(row: TransactionRow) -> dict[str, Any]:
    return {
        "id": f"{row.run_id}/{row.key}",
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


def _in_order(hooks: Sequence[HookRow]) -> list[HookRow]:
    """As they run: rollback hooks newest first, commit hooks oldest first."""
    rollback = [hook for hook in hooks if hook.kind == "rollback"]
    return [*reversed(rollback), *(hook for hook in hooks if hook.kind != "rollback")]


def _hook(row: HookRow) -> HookRecord:
    return HookRecord(
        key=row.key,
        kind=row.kind,
        name=row.name,
        step_key=row.step_key,
        state=row.state,
        message=row.message,
        run_count=row.attempt,
        starts=row.starts,
        start_time=clock.to_datetime(row.start_time),
        end_time=clock.to_datetime(row.end_time),
    )
