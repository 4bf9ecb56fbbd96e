"""The sweeper, on both databases, with a carrier that only remembers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from orchestra import clock, settings
from orchestra.celery.sweeper import Sweeper
from orchestra.serializers import encode
from orchestra.store import claims, due, leaders, runs, unsent
from orchestra.store.announcements import Announcement
from orchestra.store.database import Database
from tests.helpers import wait_until

pytestmark = pytest.mark.slow

#: Of every claim and period here, in seconds.
LEASE, SWEEP = 0.6, 0.2


class Remembering:
    """A carrier that keeps what it was to announce."""

    queues: frozenset[str] = frozenset()
    default_queue = "default"

    def __init__(self) -> None:
        self.announced: list[str] = []

    def announce(self, announcements: Sequence[Announcement]) -> None:
        """Keep the runs' ids."""
        self.announced += [each.run_id for each in announcements]

    def later(self, announcement: Announcement) -> None:
        """Never asked here."""

    def route(self, path: str) -> tuple[str | None, int | None]:
        """No routes."""
        return None, None

    def slots(self, queue: str) -> int:
        """None."""
        return 0

    def stopping(self) -> bool:
        """Never."""
        return False


@pytest.fixture(autouse=True)
def short_lease(database: Database) -> None:
    """So short that a test can wait for it."""
    settings.override(lease_seconds=LEASE, sweep_seconds=SWEEP)


@pytest.fixture
def carrier() -> Remembering:
    """A carrier that only remembers."""
    return Remembering()


@pytest.fixture
def sweeper(database: Database, carrier: Remembering) -> Sweeper:
    """A sweeper that begins to lead at its first tick."""
    return Sweeper(database, carrier)


def create(database: Database, **more: Any) -> runs.Created:
    """A flow run, as `.delay()` writes it."""
    new = runs.NewRun(flow_name="etl", path="proj:etl", name="a-run", parameters=encode({}), queue="etl", **more)
    return runs.create(database, new)


def announced(sweeper: Sweeper, carrier: Remembering, run_id: str) -> bool:
    """Whether a tick has announced the run by now."""
    sweeper.tick()
    return run_id in carrier.announced


@pytest.mark.alone
def test_a_lost_message_is_announced_again(sweeper: Sweeper, carrier: Remembering, database: Database) -> None:
    """The row is the debt: nobody claimed it within a lease."""
    run_id = create(database).row["id"]
    assert not announced(sweeper, carrier, run_id)

    wait_until(lambda: announced(sweeper, carrier, run_id), "the run to be announced again")


@pytest.mark.alone
def test_a_run_is_announced_when_it_is_due(sweeper: Sweeper, carrier: Remembering, database: Database) -> None:
    """Not before; and the next tick comes in time for it."""
    created = create(database, delay=0.5)
    due_at = created.row["due_at"]

    waited = sweeper.tick()
    seen_before = created.row["id"] in carrier.announced
    wait_until(lambda: announced(sweeper, carrier, created.row["id"]), "the run to be announced")

    assert not seen_before
    assert waited <= 0.5
    assert 0 <= database.now() - due_at < 1.0


def test_what_the_broker_did_not_take_is_announced_after_a_sweep(
    sweeper: Sweeper, carrier: Remembering, database: Database
) -> None:
    """Sooner than after the lease that a sent message is given."""
    settings.override(lease_seconds=60.0)
    created = create(database)

    unsent.owe_again(database, created.announcements)

    wait_until(lambda: announced(sweeper, carrier, created.row["id"]), "the run to be announced", 5)


def test_a_lapsed_claim_is_announced(sweeper: Sweeper, carrier: Remembering, database: Database) -> None:
    """Its owner gave no sign of life for a lease."""
    run_id = create(database).row["id"]
    assert claims.claim_run(database, run_id) is not None
    assert not announced(sweeper, carrier, run_id)

    wait_until(lambda: announced(sweeper, carrier, run_id), "the claim to lapse")


def test_a_lapsed_claim_is_given_a_lease_after_an_outage(
    sweeper: Sweeper, carrier: Remembering, database: Database
) -> None:
    """If no sweeper was there for longer than a lease, nobody could renew: owners may come back first."""
    run_id = create(database).row["id"]
    claims.claim_run(database, run_id)
    due.keep_watch(database)
    wait_until(lambda: outage_is_over(database), "an outage")

    begun = clock.monotonic()
    wait_until(lambda: announced(sweeper, carrier, run_id), "the claim to be announced")

    assert clock.monotonic() - begun >= LEASE


def outage_is_over(database: Database) -> bool:
    """Whether the sweepers were away for longer than a lease."""
    row = database.read(
        lambda c: c.exec_driver_sql(f"SELECT ticked_at FROM leaders WHERE duty = '{leaders.EXPIRY}'").one()
    )
    return bool(database.now() - row[0] > LEASE * 1.2)


def test_only_one_leads(sweeper: Sweeper, carrier: Remembering, database: Database) -> None:
    """The other does nothing while the first ticks, and takes over when it steps down."""
    settings.override(lease_seconds=6.0)  # that a tick on a busy machine takes long is no reason to take over
    waiting = Remembering()
    other = Sweeper(database, waiting)
    sweeper.tick()
    run_id = create(database, delay=0.1).row["id"]
    wait_until(lambda: other.tick() and announced(sweeper, carrier, run_id), "the leader to announce")
    assert waiting.announced == []

    sweeper.step_down()
    second = create(database).row["id"]

    wait_until(lambda: announced(other, waiting, second), "the other to lead")


def test_a_failing_tick_is_logged_and_repeated(
    sweeper: Sweeper, carrier: Remembering, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """One bad moment does not stop the loop."""
    carrier.announce = None  # type: ignore[assignment,method-assign]  # anything that fails
    run_id = create(database).row["id"]

    with caplog.at_level(logging.WARNING):
        wait_until(lambda: sweeper.tick() and "a sweep failed" in caplog.text, "a sweep to fail")
    del carrier.announce

    wait_until(lambda: announced(sweeper, carrier, run_id), "the run to be announced")
