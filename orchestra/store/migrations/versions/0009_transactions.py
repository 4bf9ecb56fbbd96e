"""Transactions, their hooks, the values kept under their keys, and the steps that belong to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.tables import LONGEST_KEY, transaction_hooks, transaction_keys, transactions

revision = "0009_transactions"
down_revision = "0008_limits"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is not there: the first revision takes its tables from the code, and so may have made it just now."""
    connection = op.get_bind()
    if "transaction_key" not in {column["name"] for column in sa.inspect(connection).get_columns("steps")}:
        op.add_column("steps", sa.Column("transaction_key", sa.String(LONGEST_KEY)))
    for table in (transactions, transaction_hooks, transaction_keys):
        table.create(connection, checkfirst=True)
