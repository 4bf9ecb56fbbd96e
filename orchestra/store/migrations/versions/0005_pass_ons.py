"""Outcomes owed to canvases of users' own, and the mark of runs that owe one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.migrations.changes import add_index, of_a_run

revision = "0005_pass_ons"
down_revision = "0004_flow_run_inputs"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and the table."""
    server_default = sa.text("false")
    op.add_column("flow_runs", sa.Column("passes_on", sa.Boolean(), nullable=False, server_default=server_default))
    op.create_table(
        "pass_ons",
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.Column("task_id", sa.String(255), nullable=False),
        sa.Column("message", sa.LargeBinary()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("announce_at", sa.Double()),
        sa.Column("lease_until", sa.Double()),
        sa.Column("passed_at", sa.Double()),
        sa.PrimaryKeyConstraint("run_id", "task_id", name="pk_pass_ons"),
        of_a_run("pass_ons"),
    )
    add_index("ix_pass_ons_owed", "pass_ons", ["run_id"], where="passed_at IS NULL")
