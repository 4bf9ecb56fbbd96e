"""Results that later calls of a task are answered with."""

from __future__ import annotations

from alembic import op

from orchestra.store.tables import cache_entries

revision = "0007_cache"
down_revision = "0005_pass_ons"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is not there: the first revision takes its tables from the code, and so may have made it just now."""
    cache_entries.create(op.get_bind(), checkfirst=True)
