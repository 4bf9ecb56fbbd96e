"""`/api/transactions`: the transactions of flow runs, what their rollbacks did, and those that failed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query

from orchestra import clock, previews
from orchestra.engine import operations
from orchestra.server import announcing
from orchestra.server.acts import perform
from orchestra.server.api.shapes import After, Id, Key, Limit, Page
from orchestra.server.dependencies import Asker, Db
from orchestra.store import transactions
from orchestra.store.database import Database
from orchestra.store.transactions import HookRow, TransactionRow
from orchestra.transaction_rules import Durable

router = APIRouter(prefix="/transactions", tags=["transactions"])

_Key = Annotated[Key | None, Query(description="Of the transaction; null: the run's only one.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
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
class Hook:
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
class TransactionRead(Transaction):
    """A transaction, what was set in it, and its hooks in the order in which they run."""

    values: Any
    error: Any
    hooks: list[Hook]


@router.get("")
def list_transactions(
    db: Db,
    limit: Limit = 50,
    after: After = None,
    flow_run_id: Annotated[Id | None, Query(description="Only those of this flow run.")] = None,
    state: Annotated[list[Durable], Query(description="Only in these states.", max_length=20)] = [],  # noqa: B006
) -> Page[Transaction]:
    """Transactions, the newest first."""
    before = None if after is None else _find(db, *after.partition("/")[::2])
    found = transactions.page(
        db, run_id=flow_run_id, states=[each.value for each in state], limit=limit + 1, before=before
    )
    shown = [_transaction(row) for row in found[:limit]]
    return Page(items=shown, next=shown[-1].id if len(found) > limit else None)


@router.get("/{flow_run_id}")
def read_transaction(db: Db, flow_run_id: Id, key: _Key = None) -> TransactionRead:
    """A transaction of a flow run: its state, what was set in it, and its hooks."""
    row = _find(db, flow_run_id, key)
    hooks = transactions.hooks(db, row.run_id, row.run_attempt, row.key)
    rollback = [each for each in hooks if each.kind == "rollback"]
    in_order = [*reversed(rollback), *(each for each in hooks if each.kind != "rollback")]
    return TransactionRead(
        **_values(row),
        values=previews.preview(row.stored),
        error=previews.preview(row.error),
        hooks=[_hook(each) for each in in_order],
    )


@router.post("/{flow_run_id}/retry")
def retry_transaction(db: Db, who: Asker, flow_run_id: Id, key: _Key = None) -> Transaction:
    """Run the rollback hooks that failed once more, on the run's workers; the server runs none itself."""

    def act() -> TransactionRow:
        return operations.retry_rollback(db, flow_run_id, key, announcing.announce, on_workers_only=True)

    return _transaction(perform(who, "retry", f"the rollback of flow run {flow_run_id}", act))


def _find(db: Database, run_id: str, key: str | None) -> TransactionRow:
    return transactions.find(db, run_id, key or None)


def _transaction(row: TransactionRow) -> Transaction:
    return Transaction(**_values(row))


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


def _hook(row: HookRow) -> Hook:
    return Hook(
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
