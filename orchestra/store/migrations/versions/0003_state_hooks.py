"""State hooks that are owed, and what a flow run knows of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.migrations.changes import of_a_run

revision = "0003_state_hooks"
down_revision = "0002_step_tags"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the table."""
    op.add_column("flow_runs", sa.Column("has_hooks", sa.Boolean()))
    op.add_column("flow_runs", sa.Column("hooks_attempt", sa.Integer()))
    op.create_table(
        "owed_hooks",
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.Column("run_attempt", sa.Integer(), nullable=False),
        sa.Column("step_key", sa.String(512), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("state_type", sa.String(16), nullable=False),
        sa.Column("state_name", sa.String(64), nullable=False),
        sa.Column("state_message", sa.Text()),
        sa.Column("position", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("waits_for", sa.Text()),
        sa.Column("phase", sa.String(8), nullable=False),
        sa.Column("due_at", sa.Double()),
        sa.Column("announce_at", sa.Double()),
        sa.Column("announced_at", sa.Double()),
        sa.Column("queue", sa.String(255)),
        sa.Column("priority", sa.Integer()),
        sa.Column("owner", sa.String(255)),
        sa.Column("lease_until", sa.Double()),
        sa.Column("lease_seconds", sa.Double()),
        sa.Column("claim_number", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("lapses", sa.Integer(), nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("run_id", "run_attempt", "step_key", name="pk_owed_hooks"),
        of_a_run("owed_hooks"),
    )
