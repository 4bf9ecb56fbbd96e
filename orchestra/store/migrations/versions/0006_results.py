"""Results that are kept in a storage outside of the database."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.migrations.changes import add_index

revision = "0006_results"
down_revision = "0005_pass_ons"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "stored_results",
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("storage", sa.Text(), nullable=False),
        sa.Column("path", sa.String(255), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("dropped_at", sa.Double()),
        sa.PrimaryKeyConstraint("name", name="pk_stored_results"),
    )
    add_index("ix_stored_results_created", "stored_results", ["created_at"])
    add_index("ix_stored_results_dropped", "stored_results", ["name"], where="dropped_at IS NOT NULL")
