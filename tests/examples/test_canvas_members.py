"""The project whose canvases have flows and tasks as members."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import WorkerFactory
from tests.helpers import ROOT
from tests.servers import Broker

FOLDER = ROOT / "examples" / "canvas_members"
pytestmark = pytest.mark.services


def test_the_shops_canvases_give_what_the_readme_shows(broker: Broker, worker_factory: WorkerFactory) -> None:
    """A chain, a chord, and a task in the background."""
    env = {"BROKER_URL": broker.url, "ORCHESTRA_BROKER_URL": "", "PYTHONPATH": f"{FOLDER}:{ROOT}"}
    worker_factory(app="shop", queues="celery", env=env)
    code = (
        "import shop; print(shop.one_order.delay().get(timeout=60)); print(shop.all_orders.delay().get(timeout=60)); "
        "shop.charge_later({'number': 1, 'cents': 5})"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert (ended.stdout.split(), ended.returncode) == (["700", "600"], 0), ended.stderr
