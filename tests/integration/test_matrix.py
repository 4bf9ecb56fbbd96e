"""A mapped flow on each pool, broker and database; a seeded third of the combinations, `tests/matrix.py` says which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestra import settings
from tests import matrix, servers
from tests.conftest import WorkerFactory, forget, fresh_database
from tests.integration import runner_flows as flows

pytestmark = pytest.mark.services


@pytest.fixture
def surroundings(
    pool: str,
    transport: str,
    kind: str,
    broker: servers.Broker,
    home: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """A worker's broker and database, set as this process's too; gives the pool."""
    with fresh_database(kind, request, home) as url:
        monkeypatch.setenv("ORCHESTRA_DATABASE_URL", url)
        if transport == "rabbitmq":
            request.getfixturevalue("rabbitmq")
        else:
            monkeypatch.setenv(
                "ORCHESTRA_BROKER_URL", broker.socket_url if transport == "valkey-socket" else broker.url
            )
        settings.reset()
        forget()
        yield pool


@pytest.mark.parametrize(("pool", "transport", "kind"), matrix.selected())
def test_a_mapped_flow_runs(surroundings: str, worker_factory: WorkerFactory) -> None:
    """Direct and submitted calls, joins, async branches and timeouts, by two workers."""
    for _ in range(2):
        worker_factory(flows.__name__, pool=surroundings, concurrency=1 if surroundings == "solo" else 4)

    handles = [flows.mapped.delay(8), flows.mapped_async.delay(4), flows.times_out.delay()]

    assert handles[0].result(timeout=60) == 2 * 4 * sum(range(8))
    assert handles[1].result(timeout=60) == [1, 12, 2, 3]
    assert handles[2].result(timeout=60) == ["TimedOut"] * 3
