"""What is old goes, with all that is its own, and nothing else."""

from __future__ import annotations

import math
import time
import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra import settings
from orchestra.errors import ConfigurationError
from orchestra.store import artifacts, blobs, events, removal, tables
from orchestra.store.database import Database

DAY = 86_400.0
KEEP = {"runs": 90 * DAY, "logs": math.inf, "events": 90 * DAY, "artifacts": 90 * DAY}


def add_run(database: Database, age: float = 100 * DAY, **values: Any) -> str:
    """A run that ended some time ago, with a step, a state and a log line; returns its id."""
    run_id = str(uuid.uuid4())
    then = time.time() - age
    common = {"phase": "DONE", "state_type": "COMPLETED", "state_name": "Completed", "created_at": then}
    run = {
        "id": run_id,
        "name": "brave-otter",
        "flow_name": "etl",
        "path": "flows:etl",
        "runner": "celery",
        "root_run_id": run_id,
        "end_time": then,
        **common,
        **values,
    }
    step = {
        "run_id": run_id,
        "run_attempt": 1,
        "step_key": "main/work-0",
        "id": str(uuid.uuid4()),
        "branch": "main",
        "position": 0,
        "sequence": 0,
        "kind": "TASK",
        "name": "work",
        "recorded_attempt": 1,
        **common,
    }
    state = {"run_id": run_id, "type": "COMPLETED", "name": "Completed", "timestamp": then}
    line = {"run_id": run_id, "logger": "x", "level": 20, "message": "hello", "timestamp": then}

    def work(connection: sa.Connection) -> None:
        connection.execute(tables.flow_runs.insert().values(run))
        connection.execute(tables.steps.insert().values(step))
        connection.execute(tables.states.insert().values(state))
        connection.execute(tables.logs.insert().values(line))

    database.write(work)
    return run_id


def there(database: Database, table: sa.Table = tables.flow_runs, column: str = "id") -> set[str]:
    """The runs of which a table has rows."""
    return set(database.read(lambda connection: connection.scalars(sa.select(table.c[column])).all()))


def prune(database: Database, **keep: float) -> dict[str, int]:
    """Without pauses."""
    return removal.prune(database, {**KEEP, **keep}, pause=lambda seconds: None)


def test_old_runs_go_with_all_that_is_theirs(database: Database) -> None:
    """And young ones stay with all that is."""
    young = add_run(database, 89 * DAY)
    for _ in range(120):
        add_run(database)

    assert prune(database) == {"runs": 120}
    assert there(database) == {young}
    for table in (tables.steps, tables.states, tables.logs):
        assert there(database, table, "run_id") == {young}
    assert prune(database) == {}


def test_what_has_not_ended_stays(database: Database) -> None:
    """However old it is; and so does what ended not long ago."""
    waits = add_run(database, phase="WAITING", state_type="PAUSED", end_time=None)
    ended_lately = add_run(database, end_time=time.time() - DAY)

    assert prune(database) == {}
    assert there(database) == {waits, ended_lately}


def test_children_go_with_their_parent(database: Database) -> None:
    """Not before it, and a family of which one lives stays whole."""
    parent = add_run(database)
    child = add_run(database, parent_run_id=parent)
    add_run(database, parent_run_id=child)
    living = add_run(database)
    its_child = add_run(database, parent_run_id=living, phase="CLAIMED", state_type="RUNNING", end_time=None)
    young = add_run(database, DAY)
    old_child = add_run(database, parent_run_id=young)

    assert prune(database) == {"runs": 3}
    assert there(database) == {living, its_child, young, old_child}


def test_what_owes_something_stays(database: Database) -> None:
    """Hooks, an outcome to a canvas, a rollback that failed."""
    hooks, canvas, rollback, settled = (add_run(database) for _ in range(4))
    now = time.time()
    owed = {
        "run_attempt": 1,
        "step_key": "",
        "name": "etl",
        "state_type": "FAILED",
        "state_name": "Failed",
        "phase": "READY",
    }
    begun = {"run_attempt": 1, "key": "main/transaction-0", "created_at": now}

    def work(connection: sa.Connection) -> None:
        connection.execute(tables.owed_hooks.insert().values(run_id=hooks, **owed))
        connection.execute(tables.pass_ons.insert().values(run_id=canvas, task_id="x", created_at=now))
        connection.execute(tables.pass_ons.insert().values(run_id=settled, task_id="x", created_at=now, passed_at=now))
        connection.execute(tables.transactions.insert().values(run_id=rollback, state="ROLLBACK_FAILED", **begun))
        connection.execute(tables.transactions.insert().values(run_id=settled, state="ROLLED_BACK", **begun))

    database.write(work)

    assert prune(database) == {"runs": 1}
    assert there(database) == {hooks, canvas, rollback}


def test_large_results_go_when_nobody_else_has_them(database: Database) -> None:
    """One that a young run has too stays."""
    shared, own = (blobs.keep(database, text * 10) for text in (b"shared", b"own"))
    young = add_run(database, DAY, result_blob=shared)
    add_run(database, result_blob=shared)
    add_run(database, result_blob=own)

    assert prune(database) == {"runs": 2}
    assert there(database) == {young}
    assert there(database, tables.blobs, "name") == {shared}


def test_log_lines_may_go_earlier(database: Database) -> None:
    """Those of ended runs; a body that goes on would write them again."""
    ended = add_run(database, 40 * DAY)
    goes_on = add_run(database, 40 * DAY, phase="WAITING", end_time=None)
    young = add_run(database, DAY)

    assert prune(database, logs=30 * DAY) == {"logs": 1}
    assert there(database, tables.logs, "run_id") == {goes_on, young}
    assert ended in there(database)


def test_old_events_go(database: Database) -> None:
    """By when they were written down."""
    now = time.time()
    rows = [events.act("flow-run", "seen", str(age)) | {"received": now - age * DAY} for age in (100, 91, 89, 0)]
    database.write(lambda connection: events.record(connection, *rows))

    assert prune(database) == {"events": 2}
    assert there(database, tables.events, "resource_id") == {f"orchestra.flow-run.{age}" for age in (89, 0)}


def test_of_artifacts_the_newest_of_a_key_stays(database: Database) -> None:
    """And what belongs to a run that is there; versions before it, and what nobody has, go."""
    run_id = add_run(database, DAY)

    def make(name: str, age: float, key: str | None = None, flow_run_id: str | None = None) -> None:
        new = artifacts.NewArtifact(id=name, key=key, type="markdown", data='"x"', flow_run_id=flow_run_id)
        database.write(lambda connection: artifacts.add(connection, new, time.time() - age * DAY))

    for age in (300, 200, 100):
        make(f"version-{age}", age, key="report")
    make("alone", 100)
    make("of a run", 100, flow_run_id=run_id)
    make("young", 1)

    assert prune(database)["artifacts"] == 3
    assert there(database, tables.artifacts) == {"version-100", "of a run", "young"}


def test_for_ever_is_for_ever(database: Database) -> None:
    """With a retention of 0 days."""
    settings.override(retention_days=("0",))
    run_id = add_run(database, 10_000 * DAY)

    assert removal.prune(database, settings.current().retention_seconds) == {}
    assert there(database) == {run_id}


def test_days_are_said_for_all_and_for_some() -> None:
    """As in 90,logs=30; what cannot be read is refused, and so is what is not kept by itself."""

    def days(*parts: str) -> dict[str, float]:
        return {k: s / DAY for k, s in settings.Settings(retention_days=parts).retention_seconds.items()}

    assert set(days("90").values()) == {90}
    assert days("10.5", "logs=3") == {"runs": 10.5, "logs": 3, "events": 10.5, "artifacts": 10.5}
    assert days("logs=3")["runs"] == 90
    for parts in [("x",), ("-1",), ("90", "steps=3"), ("logs=",), ("inf",)]:
        with pytest.raises(ConfigurationError, match="ORCHESTRA_RETENTION_DAYS"):
            days(*parts)
