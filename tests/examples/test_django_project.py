"""The Django project: its own tests pass before and after flows move in, and the flows run on its workers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import WorkerFactory
from tests.helpers import ROOT
from tests.servers import Broker

TWO_LINES = ["import orchestra.celery\n", "orchestra.celery.install(app)\n"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the project."""
    return shutil.copytree(ROOT / "examples" / "django_project", tmp_path / "django_project")


def manage(folder: Path, *words: str, **environment: str) -> str:
    """What `manage.py` prints, to both streams; it must end well."""
    ended = subprocess.run(
        [sys.executable, "manage.py", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def without_orchestra(folder: Path) -> Path:
    """The project as it was before."""
    app = folder / "bookshop" / "celery.py"
    code = app.read_text()
    for line in TWO_LINES:
        assert line in code
        code = code.replace(line, "")
    app.write_text(code)
    (folder / "orders" / "flows.py").unlink()
    (folder / "orders" / "test_flows.py").unlink()
    return folder


def test_the_projects_tests_pass_without_orchestra(folder: Path) -> None:
    """Two lines and two files less: the project before."""
    assert "Ran 4 tests" in manage(without_orchestra(folder), "test")


def test_the_projects_tests_pass_with_orchestra(folder: Path) -> None:
    """The same tests, and those of the flows."""
    printed = manage(folder, "test")

    assert "Ran 7 tests" in printed
    assert "OK" in printed
    assert "Ran 7 tests" in (folder / "README.md").read_text()


@pytest.mark.services
def test_a_flow_runs_on_the_projects_workers(
    folder: Path, broker: Broker, worker_factory: WorkerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its steps are the project's tasks, each on its own queue; the ORM is Django's."""
    project = {"BROKER_URL": broker.url, "ORCHESTRA_BROKER_URL": "", "PYTHONPATH": f"{folder}:{ROOT}"}
    manage(folder, "migrate", **project)
    monkeypatch.chdir(folder)
    worker_factory(app="bookshop", queues="bookshop", env=project, concurrency=1)
    printer = worker_factory(app="bookshop", queues="printer", env=project, concurrency=1)
    code = "from orders.flows import *; print(fulfil.delay(Order.objects.create(title='Emma').pk).result(60))"

    assert "order 1 is confirmed" in manage(folder, "shell", "-v", "0", "-c", code, **project)
    assert "OSError: the printer warms up; try 2" in printer.log()
