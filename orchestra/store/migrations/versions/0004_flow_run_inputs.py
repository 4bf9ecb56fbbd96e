"""Messages to flow runs."""

from __future__ import annotations

from alembic import op

from orchestra.store.tables import flow_run_inputs

revision = "0004_flow_run_inputs"
down_revision = "0003_state_hooks"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is not there: the first revision takes its tables from the code, and so may have made it just now."""
    flow_run_inputs.create(op.get_bind(), checkfirst=True)
