"""The database was away: those who could not renew their claims are not expired as if they had died."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra import settings
from orchestra.errors import StoreUnavailable
from orchestra.serializers import encode
from orchestra.store import claims, due, runs
from orchestra.store.database import Database
from orchestra.store.tables import flow_runs, leaders
from tests.store.rows import add_run

pytestmark = pytest.mark.slow


def change(database: Database, statement: Any) -> None:
    """Run one UPDATE."""
    database.write(lambda connection: connection.execute(statement).rowcount)


def outage(database: Database, leases: float) -> None:
    """As if the database had been away for so many leases, and nobody had renewed or swept."""
    seconds = leases * settings.current().lease_seconds
    column = flow_runs.c
    change(database, sa.update(leaders).values(ticked_at=leaders.c.ticked_at - seconds))
    change(
        database,
        sa.update(flow_runs).values(lease_until=column.lease_until - seconds, announce_at=column.announce_at - seconds),
    )


def grace_is_over(database: Database) -> None:
    """As if the lease that owners are given had passed, with a sweeper that ticks."""
    change(database, sa.update(leaders).values(lease_until=leaders.c.lease_until - settings.current().lease_seconds))


def claimed_run(database: Database) -> str:
    """A flow run that a worker holds; its id."""
    new = runs.NewRun(flow_name="etl", path="proj:etl", name="a-run", parameters=encode({}), queue="etl")
    runs.create(database, new)
    assert claims.claim_run(database, new.id) is not None
    return new.id


def local_run(database: Database) -> str:
    """A flow run that another process carries out; its id."""
    run_id = add_run(database)
    later = database.now() + settings.current().lease_seconds
    change(database, sa.update(flow_runs).where(flow_runs.c.id == run_id).values(lease_until=later))
    return run_id


def taken_over(database: Database) -> int:
    """How many claims of workers the sweeper takes over."""
    return len(due.take_due(database))


EXPIRING = pytest.mark.parametrize(
    ("start", "expired"),
    [
        pytest.param(claimed_run, taken_over, id="a worker's"),
        pytest.param(local_run, due.expire_local, id="a local run's"),
    ],
)
Start = Callable[[Database], str]
Expired = Callable[[Database], int]


@EXPIRING
def test_nobody_is_expired_for_a_lease_after_an_outage(database: Database, start: Start, expired: Expired) -> None:
    """However soon the sweeper, which may have waited for the database in the midst of a sweep, goes on."""
    start(database)
    due.keep_watch(database)
    outage(database, 1.5)

    assert (expired(database), expired(database)) == (0, 0)
    grace_is_over(database)
    assert expired(database) == 1


@EXPIRING
def test_an_outage_of_nearly_a_lease_counts(database: Database, start: Start, expired: Expired) -> None:
    """A claim that was renewed a beat before it has lapsed."""
    start(database)
    due.keep_watch(database)
    outage(database, 0.9)
    change(database, sa.update(flow_runs).values(lease_until=1.0, announce_at=1.0))

    assert expired(database) == 0


@EXPIRING
def test_a_dead_owner_is_expired_at_once_while_the_sweeper_ticks(
    database: Database, start: Start, expired: Expired
) -> None:
    """Without an outage nobody is waited for."""
    start(database)
    due.keep_watch(database)
    change(database, sa.update(flow_runs).values(lease_until=1.0, announce_at=1.0))

    assert expired(database) == 1


def test_the_grace_is_known_to_a_sweeper_that_takes_over(database: Database) -> None:
    """It stands in the database: a second one that begins to tick does not cut it short."""
    claimed_run(database)
    due.keep_watch(database)
    outage(database, 2.0)
    due.keep_watch(database)

    assert taken_over(database) == 0


def test_a_database_that_is_away_is_not_waited_for_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    """After two seconds a warning says what is the matter, once; then comes the error."""
    away = Database("postgresql://postgres@127.0.0.1:1/orchestra", patience=4.0)

    with pytest.raises(StoreUnavailable):
        away.now()

    (said,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "does not answer" in said
