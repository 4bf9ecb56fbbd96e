"""A broker that takes connections and answers nothing: submitting goes on, and the sweeper sends what is owed."""

from __future__ import annotations

import time

import pytest

from orchestra import settings
from orchestra.celery.apps import current_app
from orchestra.celery.dispatch import carrier
from orchestra.store import due
from orchestra.store.database import Database
from tests import servers
from tests.helpers import wait_until
from tests.integration import flows

pytestmark = pytest.mark.services


@pytest.mark.alone
def test_submitting_is_not_held_up_by_a_broker_that_stands_still(broker: servers.Broker, database: Database) -> None:
    """`.delay()` returns within seconds, the next ones at once; all are announced when it answers again."""
    settings.override(sweep_seconds=0.2)
    assert broker.process is not None
    flows.both.delay(1)
    with servers.stopped(broker.process.pid):
        begun = time.monotonic()
        slow = flows.both.delay(1)
        first = time.monotonic() - begun
        quick = [flows.both.delay(1) for _ in range(3)]
        all_of_them = time.monotonic() - begun

    assert first < 5
    assert all_of_them - first < 1
    owed = {slow.id, *(each.id for each in quick)}
    seen: set[str] = set()

    def announced() -> bool:
        seen.update(each.run_id for each in due.take_due(database))
        return owed <= seen

    wait_until(announced, "the runs to be owed")


def test_the_apps_own_timeouts_are_kept(broker: servers.Broker, database: Database) -> None:
    """Ours are for an app that has none."""
    current_app().conf.broker_transport_options = {"socket_timeout": 7}
    with carrier()._producers.one() as producer:
        options = producer.connection.transport_options

    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (7, 1.5)


def test_only_redis_is_given_its_timeouts(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other transports do not know them."""
    monkeypatch.setenv("ORCHESTRA_BROKER_URL", "memory://")
    settings.reset()
    with carrier()._producers.one() as producer:
        assert "socket_timeout" not in producer.connection.transport_options
