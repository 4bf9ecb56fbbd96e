"""The first schema."""

from __future__ import annotations

from alembic import op

from orchestra.store.tables import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create all tables.

    They are taken from `tables.py` as long as no release has this schema; the second revision freezes them here.
    """
    metadata.create_all(op.get_bind())
