"""kill -9 while a deployment is written, while its runs are started, and while its schedules fire."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra.deployments import Deployment, run_deployment
from orchestra.errors import DeploymentNotFound
from orchestra.schedules import Interval
from orchestra.store import deployments
from orchestra.store.database import Database
from orchestra.store.tables import flow_runs, schedules, ticks
from tests import servers
from tests.helpers import ROOT
from tests.integration import deployed_flows

pytestmark = [pytest.mark.services, pytest.mark.slow]

DEPLOY = """
from orchestra.schedules import Cron
from tests.integration.deployed_flows import doubled
doubled.to_deployment("nightly", parameters={"number": 2}, tags=["new"], schedules=[Cron("0 1 * * *")]).apply()
"""
RUN = """
from orchestra.deployments import run_deployment
run_deployment("doubled/nightly", {"number": 4}, timeout=0, idempotency_key="once")
"""
TURN = """
from orchestra.engine.firing import fire_due
from orchestra.store.database import database
while fire_due(database(), lambda path: ("default", None))[1]:
    pass
"""


def killed_at(point: str, program: str) -> None:
    """Run a program that dies by SIGKILL at a point."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ORCHESTRA_FAILPOINTS": f"{point}=kill"}
    ended = subprocess.run([sys.executable, "-c", program], env=env, check=False, timeout=60, cwd=ROOT)
    assert ended.returncode == -signal.SIGKILL


def rows(database: Database, table: sa.Table) -> list[Any]:
    """All rows of a table."""
    return database.read(lambda connection: list(connection.execute(sa.select(table))))


@pytest.fixture
def deployed(database: Database) -> str:
    """The deployment `doubled/nightly`, with a schedule."""
    made = Deployment.build_from_flow(deployed_flows.doubled, "nightly", parameters={"number": 1}, cron="0 9 * * *")
    return made.apply()


def test_a_deploy_that_was_killed_has_written_nothing(database: Database) -> None:
    """Neither the deployment nor a schedule; the next deploy writes all."""
    killed_at("amid_deploy", DEPLOY)
    with pytest.raises(DeploymentNotFound):
        deployments.read(database, "doubled/nightly")
    assert rows(database, schedules) == []


def test_a_second_deploy_that_was_killed_has_changed_nothing(database: Database, deployed: str) -> None:
    """The first one stands whole."""
    before = deployments.read(database, deployed)
    killed_at("amid_deploy", DEPLOY)
    assert deployments.read(database, deployed) == before


@pytest.mark.parametrize(("point", "kept"), [("before_submit_commit", 0), ("after_submit_commit", 1)])
def test_a_run_is_written_whole_or_not_and_once(
    database: Database, deployed: str, broker: servers.Broker, point: str, kept: int
) -> None:
    """Killed before it was announced, it is owed to the sweeper; asked for again, it is the same run."""
    killed_at(point, RUN)
    found = rows(database, flow_runs)
    assert [(row.phase, row.state_name, row.announce_at is not None) for row in found] == [
        ("READY", "Pending", True)
    ] * kept

    again = run_deployment("doubled/nightly", {"number": 4}, timeout=0, idempotency_key="once")
    assert [row.id for row in rows(database, flow_runs)] == [again.id]
    assert kept == 0 or found[0].id == again.id


@pytest.mark.parametrize("point", ["before_fire", "amid_fire", "after_fire"])
def test_a_fire_time_has_one_run_wherever_a_beat_dies(database: Database, deployed: str, point: str) -> None:
    """Nothing of a turn is there, or all of it; the next beat makes the rest."""
    deployments.clear_schedules(database, deployed)
    deployments.add_schedule(database, deployed, Interval(10, catchup="all"))
    then = database.now() - 60
    database.write(lambda c: c.execute(sa.update(schedules).values(fired_at=then, next_at=then)).rowcount)

    killed_at(point, TURN)
    made = len(rows(database, flow_runs))
    assert made == len(rows(database, ticks))
    # One more fire time may have come meanwhile.
    assert made in ((6, 7) if point == "after_fire" else (0,))

    subprocess.run([sys.executable, "-c", TURN], check=True, timeout=60, cwd=ROOT)
    times = sorted(row.scheduled_at for row in rows(database, flow_runs))
    assert times == [times[0] + 10 * number for number in range(len(times))]
    assert len(times) == len(rows(database, ticks)) >= 6
