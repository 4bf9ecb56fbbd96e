"""Flows whose tasks write rows of their own by `db_transaction()`: each row counts, so that one too many shows."""

from __future__ import annotations

import time

import sqlalchemy as sa
from sqlalchemy.orm import Session

from orchestra import flow, task
from orchestra.context import task_run_context
from orchestra.transactions import db_transaction
from tests.crash import ledger
from tests.crash.flows import SHORT, hold, total

entries = sa.Table(
    "entries",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.String),
    sa.Column("step_key", sa.String),
)


def write_entry(session: Session) -> None:
    """One row that names the step."""
    running = task_run_context.get()
    assert running is not None
    assert running.flow_run is not None
    session.execute(sa.insert(entries).values(run_id=running.flow_run.run_id, step_key=running.step_key))


@task
def enter(seconds: float = 0.0) -> int:
    """Writes one row, and keeps it to itself for a while."""
    with ledger.entry(), db_transaction() as session:
        write_entry(session)
        time.sleep(seconds)
        return 1


@flow
def entering() -> int:
    """Three direct calls."""
    return sum(enter() for _ in range(3))


@flow
def entering_submitted() -> int:
    """Three messages, and one that takes their results."""
    return total.submit([enter.submit() for _ in range(3)]).result()


@task
def enter_slowly() -> int:
    """As `enter`; a body that is the only one waits for another."""
    with ledger.entry(), db_transaction() as session:
        write_entry(session)
        while ledger.is_first():
            time.sleep(SHORT)
        return 1


@flow
def stopped_within() -> int:
    """One that is stopped in its block."""
    return enter_slowly.submit().result()


@flow
def crowded(holding: float, open_for: float, times: int) -> int:
    """A long task, and beside it many that hold SQLite's lock one after another."""
    long = hold.submit(holding)
    done = total.submit([enter.submit(open_for) for _ in range(times)]).result()
    long.result()
    return done
