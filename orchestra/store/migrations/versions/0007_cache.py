"""Results that later calls of a task are answered with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.migrations.changes import add_index

revision = "0007_cache"
down_revision = "0006_results"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "cache_entries",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("policy_key", sa.Text(), nullable=False),
        sa.Column("task", sa.String(1024), nullable=False),
        sa.Column("task_name", sa.String(255), nullable=False),
        sa.Column("result", sa.LargeBinary()),
        sa.Column("result_blob", sa.String(80)),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(36)),
        sa.Column("step_id", sa.String(36)),
        sa.Column("transaction_attempt", sa.Integer()),
        sa.Column("transaction_key", sa.String(512)),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double()),
        sa.PrimaryKeyConstraint("key", name="pk_cache_entries"),
    )
    add_index("ix_cache_entries_created", "cache_entries", ["created_at", "key"])
    add_index("ix_cache_entries_task", "cache_entries", ["task_name", "created_at", "key"])
    add_index("ix_cache_entries_expires", "cache_entries", ["expires_at"], where="expires_at IS NOT NULL")
    add_index("ix_cache_entries_blob", "cache_entries", ["result_blob"], where="result_blob IS NOT NULL")
