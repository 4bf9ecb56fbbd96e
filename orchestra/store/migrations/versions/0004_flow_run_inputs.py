"""Messages to flow runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.migrations.changes import add_index, of_a_run

revision = "0004_flow_run_inputs"
down_revision = "0003_state_hooks"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "flow_run_inputs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.Column("key_prefix", sa.String(255), nullable=False),
        sa.Column("key", sa.String(1024), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("token", sa.String(1024)),
        sa.Column("taken_by", sa.String(1024)),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_flow_run_inputs"),
        sa.UniqueConstraint("key", name="uq_flow_run_inputs_key"),
        sa.UniqueConstraint("token", name="uq_flow_run_inputs_token"),
        of_a_run("flow_run_inputs"),
    )
    add_index("ix_flow_run_inputs_run", "flow_run_inputs", ["run_id", "id"])
    add_index("ix_flow_run_inputs_taken", "flow_run_inputs", ["taken_by"], where="taken_by IS NOT NULL")
    add_index("ix_flow_run_inputs_waiting", "flow_run_inputs", ["run_id", "id"], where="taken_by IS NULL")
