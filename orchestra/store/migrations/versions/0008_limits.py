"""Concurrency limits, and their slots."""

from __future__ import annotations

from alembic import op

from orchestra.store.tables import concurrency_limits, slots

revision = "0008_limits"
down_revision = "0007_cache"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is not there: the first revision takes its tables from the code, and so may have made it just now."""
    concurrency_limits.create(op.get_bind(), checkfirst=True)
    slots.create(op.get_bind(), checkfirst=True)
