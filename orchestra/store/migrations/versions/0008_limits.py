"""Concurrency limits, and their slots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.migrations.changes import add_index

revision = "0008_limits"
down_revision = "0006_results"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "concurrency_limits",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("slot_limit", sa.Integer(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False, server_default=sa.text("true")),
        sa.Column("slot_decay_per_second", sa.Double(), nullable=False, server_default="0"),
        sa.Column("drained_at", sa.Double(), nullable=False, server_default="0"),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_concurrency_limits"),
        sa.UniqueConstraint("name", name="uq_concurrency_limits_name"),
    )
    op.create_table(
        "slots",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=True),
        sa.Column("limit_name", sa.String(512), nullable=False),
        sa.Column("holder", sa.String(1024), nullable=False),
        sa.Column("occupy", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("run_id", sa.String(36)),
        sa.Column("run_attempt", sa.Integer()),
        sa.Column("step_key", sa.String(512)),
        sa.Column("step_id", sa.String(36)),
        sa.Column("claim_number", sa.Integer()),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("lease_until", sa.Double()),
        sa.Column("taken_at", sa.Double()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("label", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_slots"),
        sa.UniqueConstraint("holder", "limit_name", name="uq_slots_holder_limit_name"),
    )
    add_index("ix_slots_waiting", "slots", ["limit_name", "id"], where="taken_at IS NULL")
    add_index("ix_slots_taken", "slots", ["limit_name"], where="taken_at IS NOT NULL")
