"""Runs of deployments that have a slot of the limits that hold for them, or wait for one; the processes of workers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.migrations.changes import add_index, of_a_run

revision = "0012_run_slots"
down_revision = "0011_ticks"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table and the column. Runs that are at work have no slot yet; they count once a limit is changed."""
    op.create_table(
        "run_slots",
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.Column("run_attempt", sa.Integer(), nullable=False),
        sa.Column("deployment_id", sa.String(36), nullable=False),
        sa.Column("pool_name", sa.String(255), nullable=False),
        sa.Column("queue_name", sa.String(255), nullable=False),
        sa.Column("order_at", sa.Double(), nullable=False),
        sa.Column("taken_at", sa.Double()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_run_slots"),
        of_a_run("run_slots"),
    )
    add_index("ix_run_slots_waiting", "run_slots", ["pool_name", "order_at"], where="taken_at IS NULL")
    add_index(
        "ix_flow_runs_queued", "flow_runs", ["queue", "due_at"], where="phase = 'READY' AND deployment_id IS NOT NULL"
    )
    op.add_column("workers", sa.Column("processes", sa.Text(), nullable=False, server_default="[]"))
    add_index("ix_run_slots_taken", "run_slots", ["pool_name"], where="taken_at IS NOT NULL")
