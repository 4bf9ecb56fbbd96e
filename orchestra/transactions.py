"""Transactions; those of orchestra's own are not there yet."""

from __future__ import annotations

from orchestra.db_transactions import db_transaction as db_transaction
from orchestra.unbuilt import absent

__getattr__ = absent(
    __name__,
    "transactions",
    """
    transaction atransaction Transaction AsyncTransaction get_transaction CommitMode IsolationLevel
    TransactionState
    """,
)
