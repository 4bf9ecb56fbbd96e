"""When each schedule is to be looked at next, and the fire times for which a run was made."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.migrations.changes import add_index

revision = "0011_ticks"
down_revision = "0010_deployments"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the table; schedules that are there count from their last change on."""
    op.add_column("schedules", sa.Column("next_at", sa.Double()))
    op.add_column("schedules", sa.Column("fired_at", sa.Double(), nullable=False, server_default=sa.text("0")))
    op.execute("UPDATE schedules SET next_at = updated_at, fired_at = updated_at")
    add_index("ix_schedules_next", "schedules", ["next_at"], where="next_at IS NOT NULL")
    op.create_table(
        "ticks",
        sa.Column("schedule_id", sa.String(36), nullable=False),
        sa.Column("fire_at", sa.Double(), nullable=False),
        sa.Column("run_id", sa.String(36), nullable=False),
        sa.PrimaryKeyConstraint("schedule_id", "fire_at", name="pk_ticks"),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["schedules.id"], name="fk_ticks_schedule_id_schedules", ondelete="CASCADE"
        ),
    )
