"""Two code trees: workers of two versions of a flow, on one queue."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestra.deployments import Deployment, run_deployment
from orchestra.store import queries, workers
from orchestra.store.database import Database
from tests.conftest import WorkerFactory
from tests.helpers import ROOT, wait_until
from tests.integration.flows import notes
from tests.servers import Worker

pytestmark = [pytest.mark.services, pytest.mark.slow]

CODE = """
from pathlib import Path

from orchestra import flow, once, sleep, task

VERSION = "{version}"


@task
def stamp(file):
    with Path(file).open("a") as out:
        out.write("stamp-" + VERSION + "\\n")
    return VERSION


@flow(version=VERSION)
def ship(file, again):
    first = stamp.submit(file).result()
    while not once(Path(again).exists):
        sleep(1.2)
    return [VERSION, first, *[future.result() for future in stamp.map([file] * 4)]]
"""


@pytest.fixture
def trees(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Folders with the code of versions 1 and 2."""
    found = {}
    for version in ("1", "2"):
        found[version] = tmp_path / f"tree{version}"
        found[version].mkdir()
        (found[version] / "shipping.py").write_text(CODE.replace("{version}", version))
    yield found
    sys.modules.pop("shipping", None)


def ship_of(tree: Path) -> Any:
    """The flow as a client sees it that has this code."""
    sys.modules.pop("shipping", None)
    sys.path.insert(0, str(tree))
    importlib.invalidate_caches()
    try:
        return importlib.import_module("shipping").ship
    finally:
        sys.path.remove(str(tree))


def start(worker_factory: WorkerFactory, tree: Path, *flows: str, **options: Any) -> Worker:
    """A worker with this code, and two slots."""
    return worker_factory(
        *flows, pool="threads", env={"PYTHONPATH": os.pathsep.join([str(tree), str(ROOT)])}, **options
    )


def message(database: Database, run_id: str) -> str:
    """What is said of a run's state."""
    return queries.read_flow_run(database, run_id).run.state.message or ""


@pytest.mark.usefixtures("short_lease")
def test_a_run_waits_for_a_worker_of_its_version(
    database: Database, worker_factory: WorkerFactory, trees: dict[str, Path], tmp_path: Path
) -> None:
    """Over a deploy that ends the old worker: new runs go on, the old one says who is missing, and ends when its
    version is there again; none of its steps runs under the other."""
    file, again = str(tmp_path / "notes"), tmp_path / "again"
    old = start(worker_factory, trees["1"], "shipping")
    run = ship_of(trees["1"]).delay(file, str(again))
    wait_until(lambda: notes(file), "the first step")
    assert {queue for each in workers.live(database) for queue in each.queues} == {"default", "default@1"}

    start(worker_factory, trees["2"], "shipping")
    assert old.terminate() == 0
    again.touch()
    newer = ship_of(trees["2"]).delay(file, str(again))
    assert newer.result(timeout=40) == ["2"] * 6
    wait_until(lambda: "no worker of version '1' listens on queue 'default'" in message(database, run.id), "word", 30)
    assert notes(file).count("stamp-1") == 1

    start(worker_factory, trees["1"], "shipping")
    assert run.result(timeout=60) == ["1"] * 6


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_deployment_finds_the_worker_of_its_version(
    database: Database, worker_factory: WorkerFactory, trees: dict[str, Path], tmp_path: Path
) -> None:
    """Workers that were told of no flow learn which version they have when they load it; one that consumes the queue
    of a version alone takes nothing else."""
    (tmp_path / "again").touch()
    file, again = str(tmp_path / "notes"), str(tmp_path / "again")
    for version in ("1", "2"):
        flow = ship_of(trees[version])
        Deployment.build_from_flow(flow, f"v{version}", entrypoint_type="module_path").apply()
    start(worker_factory, trees["2"])
    start(worker_factory, trees["1"], queues="default@1")

    runs = [run_deployment(f"ship/v{version}", {"file": file, "again": again}, timeout=0) for version in "1212"]

    assert [run.result(timeout=60)[0] for run in runs] == ["1", "2", "1", "2"]
