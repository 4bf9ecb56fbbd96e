"""Who waits for a run on workers is woken by what the worker tells, whatever its pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestra import handles, identifiers
from orchestra.store.database import database
from orchestra.store.wake import RUN
from tests.conftest import WorkerFactory
from tests.helpers import wait_until
from tests.integration import live_flows as flows
from tests.matrix import POOLS

pytestmark = [pytest.mark.services, pytest.mark.slow]


@pytest.mark.usefixtures("database_url")
@pytest.mark.parametrize("pool", POOLS)
def test_a_client_is_woken_by_the_worker_that_ends_its_run(
    worker_factory: WorkerFactory, pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would look by itself ten minutes later."""
    monkeypatch.setattr(handles, "_FIRST_PAUSE", 600.0)
    monkeypatch.setattr(handles, "BACKSTOP", 600.0)
    worker_factory(flows.__name__, pool=pool, concurrency=1)

    handle = flows.through_gates.delay(str(tmp_path), 1)
    with database().wake.bell((RUN, identifiers.new_run_id())) as bell:
        wait_until(lambda: bell.is_live, "hints to be heard")
        (tmp_path / "0").touch()
        assert handle.result(timeout=90) == 1
