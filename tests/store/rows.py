"""Rows that tests of the store need to be there."""

from __future__ import annotations

import time
import uuid

from orchestra.store import tables
from orchestra.store.database import Database


def add_run(database: Database) -> str:
    """Insert a flow run, local and running; returns its id."""
    run_id = str(uuid.uuid4())
    row = {
        "id": run_id,
        "name": "brave-otter",
        "flow_name": "etl",
        "path": "flows:etl",
        "runner": "local",
        "root_run_id": run_id,
        "phase": "CLAIMED",
        "state_type": "RUNNING",
        "state_name": "Running",
        "created_at": time.time(),
    }
    database.write(lambda connection: connection.execute(tables.flow_runs.insert().values(row)))
    return run_id
