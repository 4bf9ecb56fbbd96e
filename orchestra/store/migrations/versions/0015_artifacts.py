"""Artifacts, and of each key its newest one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from orchestra.store.migrations.changes import add_index

revision = "0015_artifacts"
down_revision = "0014_versions"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "artifacts",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("key", sa.String(255)),
        sa.Column("type", sa.String(64)),
        sa.Column("description", sa.Text()),
        sa.Column("data", sa.Text()),
        sa.Column("metadata", sa.Text()),
        sa.Column("flow_run_id", sa.String(36)),
        sa.Column("task_run_id", sa.String(36)),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_artifacts"),
    )
    add_index("ix_artifacts_created", "artifacts", ["created_at", "id"])
    add_index("ix_artifacts_type", "artifacts", ["type", "created_at", "id"])
    add_index("ix_artifacts_key", "artifacts", ["key", "created_at", "id"], where="key IS NOT NULL")
    for whose in ("flow_run", "task_run"):
        columns = [f"{whose}_id", "created_at", "id"]
        add_index(f"ix_artifacts_{whose}", "artifacts", columns, where=f"{whose}_id IS NOT NULL")
    op.create_table(
        "artifact_collections",
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("latest_id", sa.String(36), nullable=False),
        sa.Column("type", sa.String(64)),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_artifact_collections"),
    )
    add_index("ix_artifact_collections_created", "artifact_collections", ["created_at", "key"])
    add_index("ix_artifact_collections_type", "artifact_collections", ["type", "created_at", "key"])
