"""Every example runs here, in one process, and says what its README promises."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT

EXAMPLES = ROOT / "examples"


def run(example: str, *words: str, home: Path) -> str:
    """What an example prints, to both streams; it must end well."""
    environment = {**os.environ, "ORCHESTRA_HOME": str(home), "PYTHONPATH": str(ROOT)}
    folder = shutil.copytree(EXAMPLES / example, home.parent / example)
    command = [sys.executable, "-W", "error", *words]
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


def test_the_quickstart_prints_what_the_readme_shows(home: Path) -> None:
    """The smallest program logs its sum under the run's name."""
    printed = run("quickstart", "hello.py", home=home)

    shown = re.search(r"Flow run '.+' - (\d.+)\n", (ROOT / "README.md").read_text())
    assert shown is not None
    assert shown[1] in printed


def test_the_pipeline_loads_twelve_months(home: Path) -> None:
    """The ETL example retries its flaky step, and its database holds the answer."""
    printed = run("etl_seattle", "etl.py", home=home)

    assert "the airport service did not answer" in printed
    with sqlite3.connect(home.parent / "etl_seattle" / "weather.db") as database:
        assert database.execute("select count(*), sum(hours) from months").fetchone() == (12, 8759)
    database.close()


def test_the_async_example_fetches_all_pages(home: Path) -> None:
    """Pages fetched by gather come back in order."""
    printed = run("async_fetch", "fetch.py", home=home)

    assert str([f"/page/{number}" for number in range(8)]) in printed


def test_a_flow_of_an_existing_celery_project_runs_without_celery(home: Path) -> None:
    """The same flow that workers run is a function here."""
    printed = run("existing_celery_app", "-c", "import flows; print(flows.daily_orders('2026-11-22'))", home=home)

    assert "{'north': 500, 'south': 500, 'west': 400}" in printed


def test_celery_tasks_of_an_existing_project_are_steps_here_too(home: Path) -> None:
    """A flow over the app's own tasks runs without Celery's workers."""
    printed = run("existing_celery_app", "-c", "import flows; print(flows.bill())", home=home)

    assert "['north: 6.25', 'south: 6.25', 'west: 5.00']" in printed


def test_the_canvas_example_prints_a_native_canvas(home: Path) -> None:
    """The drawn flow is a Celery signature that names its nodes."""
    printed = run("canvas", "draw.py", home=home)

    assert "orchestra.enter" in printed
    assert "pass_on(" in printed
