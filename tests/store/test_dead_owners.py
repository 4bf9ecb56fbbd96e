"""A process of a worker has died: what it held is free at once, for whoever may go on with it."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from orchestra import identifiers
from orchestra.store import claims, due, runs
from orchestra.store.database import Database
from orchestra.store.tables import Phase, flow_runs
from tests.store.rows import add_run
from tests.store.test_races import announced, new_run, row

ORDERLY = pytest.mark.parametrize("orderly", [False, True], ids=["killed", "at shutdown"])


def free(database: Database, *, orderly: bool) -> int:
    """Free what this host's processes hold, as if all of them were dead."""
    host, _, _ = identifiers.process_of(identifiers.owner())
    return claims.expire_dead(database, host, lambda owner: False, orderly=orderly)


def local_run(database: Database) -> str:
    """A flow run that a task of this process called, and carries out here; its id."""
    run_id = add_run(database)
    values = {"owner": identifiers.owner(), "lease_seconds": 30.0, "lease_until": database.now() + 30.0}
    statement = sa.update(flow_runs).where(flow_runs.c.id == run_id).values(claim_number=1, **values)
    database.write(lambda connection: connection.execute(statement).rowcount)
    return run_id


@ORDERLY
def test_a_local_run_of_a_dead_process_is_crashed(database: Database, orderly: bool) -> None:
    """Nobody else can go on with it: it is not announced, on no queue."""
    run_id = local_run(database)
    assert free(database, orderly=orderly) == 1

    assert due.take_due(database) == []
    assert due.expire_local(database) == 1
    found = runs.read(database, run_id)
    assert (found["phase"], found["state_name"]) == (Phase.DONE, "Crashed")


@ORDERLY
def test_a_workers_run_of_a_dead_process_is_announced(database: Database, orderly: bool) -> None:
    """Another worker goes on with it; at a shutdown no lapse is counted."""
    run = new_run(database)
    assert free(database, orderly=orderly) == 1

    assert announced([due.take_due(database)], "flow") == [run.run_id]
    assert claims.claim_run(database, run.run_id) is not None
    assert row(database, run)["lapses"] == (0 if orderly else 1)
