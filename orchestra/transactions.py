"""The place of transactions, which are not there yet."""

from __future__ import annotations

from orchestra.unbuilt import absent

__getattr__ = absent(
    __name__,
    "transactions",
    """
    transaction atransaction Transaction AsyncTransaction get_transaction CommitMode IsolationLevel
    TransactionState
    """,
)
