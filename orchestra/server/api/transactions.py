"""`/api/transactions`: the transactions of flow runs, what their rollbacks did, and those that failed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from orchestra.engine import operations
from orchestra.server import announcing
from orchestra.server.acts import perform
from orchestra.server.api.shapes import After, Id, Key, Limit, Page
from orchestra.server.dependencies import Asker, Db
from orchestra.store import queries, transaction_records
from orchestra.store.transaction_records import TransactionDetails, TransactionRecord
from orchestra.store.transactions import TransactionRow
from orchestra.transaction_rules import Durable

router = APIRouter(prefix="/transactions", tags=["transactions"])

_Key = Annotated[Key | None, Query(description="Of the transaction; null: the run's only one.")]


@router.get("", response_model=Page[TransactionRecord])
def list_transactions(
    db: Db,
    limit: Limit = 50,
    after: After = None,
    flow_run_id: Annotated[Id | None, Query(description="Only those of this flow run.")] = None,
    state: Annotated[list[Durable], Query(description="Only in these states.", max_length=20)] = [],  # noqa: B006
) -> queries.Page[TransactionRecord]:
    """Transactions, the newest first."""
    states = [each.value for each in state]
    return transaction_records.list_transactions(
        db, flow_run_id=flow_run_id, states=states, limit=limit, after=after or None
    )


@router.get("/{flow_run_id}")
def read_transaction(db: Db, flow_run_id: Id, key: _Key = None) -> TransactionDetails:
    """A transaction of a flow run: its state, what was set in it, and its hooks."""
    return transaction_records.read(db, flow_run_id, key)


@router.post("/{flow_run_id}/retry")
def retry_transaction(db: Db, who: Asker, flow_run_id: Id, key: _Key = None) -> TransactionRecord:
    """Run the rollback hooks that failed once more, on the run's workers; the server runs none itself."""

    def act() -> TransactionRow:
        return operations.retry_rollback(db, flow_run_id, key, announcing.announce, on_workers_only=True)

    return transaction_records.record_of(perform(who, "retry", f"the rollback of flow run {flow_run_id}", act))
