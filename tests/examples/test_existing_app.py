"""The existing Celery project: its routes and its own tasks go on working when flows move in."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import WorkerFactory
from tests.helpers import ROOT, wait_until
from tests.servers import Broker

FOLDER = ROOT / "examples" / "existing_celery_app"
pytestmark = pytest.mark.services


@pytest.fixture
def project(broker: Broker) -> dict[str, str]:
    """The environment of the example's project: its own broker setting, none of orchestra's."""
    return {"BROKER_URL": broker.url, "ORCHESTRA_BROKER_URL": "", "PYTHONPATH": str(FOLDER)}


def python(code: str, project: dict[str, str]) -> str:
    """What some code prints in the project."""
    environment = {**os.environ, **project}
    command = [sys.executable, "-c", f"import proj, flows; {code}"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_flow_runs_on_the_queues_of_the_project(project: dict[str, str], worker_factory: WorkerFactory) -> None:
    """The flow runs where it says, its tasks where the app's task_routes say."""
    etl = worker_factory(app="proj", queues="etl,celery", env=project, concurrency=1)
    heavy = worker_factory(app="proj", queues="heavy", env=project, concurrency=1)

    printed = python("print(flows.daily_orders.delay('2026-11-22').result(timeout=30))", project)

    assert printed.strip() == "{'north': 500, 'south': 500, 'west': 400}"
    assert "parse_orders" in heavy.log()
    assert "parse_orders" not in etl.log().partition(" ready.")[2]


def test_tasks_of_the_project_are_steps_of_a_flow(project: dict[str, str], worker_factory: WorkerFactory) -> None:
    """Each runs where the project's routes send it, and `self.retry` is its second attempt."""
    etl = worker_factory(app="proj", queues="etl,celery", env=project, concurrency=1)
    billing = worker_factory(app="proj", queues="billing", env=project, concurrency=1)

    printed = python("print(flows.bill.delay().result(timeout=30))", project)

    assert printed.strip() == "['north: 6.25', 'south: 6.25', 'west: 5.00']"
    assert "ConnectionError: the rates are not there yet; try 2" in etl.log()
    assert "charge-2" in billing.log()


def test_the_projects_own_canvas_goes_on_as_before(project: dict[str, str], worker_factory: WorkerFactory) -> None:
    """What beat sends: a chain over a group, in Celery's own way."""
    worker = worker_factory(app="proj", queues="etl,celery", env=project, concurrency=2)

    python("import shop; shop.nightly.delay('today')", project)

    wait_until(lambda: "report: 14 orders" in worker.log(), "the nightly report")


def test_the_projects_own_tasks_run_as_ever(project: dict[str, str], worker_factory: WorkerFactory) -> None:
    """A plain Celery task of the app is sent and run beside flows."""
    worker = worker_factory(app="proj", queues="etl,celery", env=project, concurrency=1)

    python("proj.send_report.delay('three shops')", project)

    wait_until(lambda: "report: three shops" in worker.log(), "the worker to report")
