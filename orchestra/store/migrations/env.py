"""Runs revisions on the connection that `orchestra.store.upgrade` hands over, within its transaction."""

from __future__ import annotations

from alembic import context

from orchestra.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter most things in place; Alembic then copies the table.
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
