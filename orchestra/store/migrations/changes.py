"""Changes that revisions have in common. They mean the same for ever: a revision is not touched once it is released."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op


def add_index(name: str, table: str, columns: Sequence[str], *, unique: bool = False, where: str | None = None) -> None:
    """Add an index, over the rows for which `where` holds if given; the same in both dialects."""
    condition = None if where is None else sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


def of_a_run(table: str) -> sa.ForeignKeyConstraint:
    """The constraint that the rows of a new table belong to a flow run and go with it."""
    name = f"fk_{table}_run_id_flow_runs"
    return sa.ForeignKeyConstraint(["run_id"], ["flow_runs.id"], name=name, ondelete="CASCADE")
