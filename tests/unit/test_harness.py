"""What orchestra has for tests of users' own flows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from orchestra import flow, get_client, settings
from orchestra.errors import NoBroker
from orchestra.testing.utilities import make_template, orchestra_test_harness, prefect_test_harness
from tests.helpers import ROOT
from tests.unit import canvas_flows

CLIENT = get_client(sync_client=True)


@flow
def work() -> str:
    """Where its run is recorded."""
    return settings.current().resolved_database_url


def names() -> list[str]:
    """The flows that the database in force knows."""
    return [each.name for each in CLIENT.read_flows()]


def test_runs_inside_a_harness_are_not_outside_and_back(home: Path) -> None:
    """Nor those of one harness in another; each folder is gone afterwards."""
    work()
    with orchestra_test_harness() as first:
        assert names() == []
        assert str(first) in work()
        with prefect_test_harness(server_startup_timeout=30) as second:
            assert names() == []
            assert str(second) in work()
        assert CLIENT.count_flow_runs() == 1

    assert str(home) in work()
    assert CLIENT.count_flow_runs() == 2
    assert not first.exists()
    assert not second.exists()


def test_the_surrounding_settings_are_not_used_inside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither database nor broker, key or profile; also not by a process that is started there. Others stay."""
    monkeypatch.setenv("ORCHESTRA_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("ORCHESTRA_DATABASE_URL", f"sqlite:///{home}/mine.db")
    monkeypatch.setenv("ORCHESTRA_SWEEP_SECONDS", "2")
    settings.reset()
    ask = "from orchestra import settings; print(settings.current().resolved_database_url)"

    with orchestra_test_harness() as inside:
        with pytest.raises(NoBroker):
            canvas_flows.straight.delay()
        told = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
        assert told.strip() == f"sqlite:///{inside}/orchestra.db"
        assert settings.current().sweep_seconds == 2.0

    assert settings.current().broker_url == "redis://127.0.0.1:1/0"


def test_what_was_overridden_stands_again_after_a_harness() -> None:
    """Also after an error inside."""
    settings.override(sweep_seconds=3.0)

    with pytest.raises(ValueError, match="inside"), orchestra_test_harness():
        raise ValueError("inside")

    assert settings.current().sweep_seconds == 3.0


@pytest.mark.alone
def test_a_harness_is_there_in_under_50_ms(tmp_path: Path) -> None:
    """To the first answer of its database, a copy: no test waits for a schema to be made. The best of some tries."""
    template = make_template(tmp_path)

    def seconds() -> float:
        began = time.perf_counter()
        with orchestra_test_harness(template=template):
            names()
            return time.perf_counter() - began

    assert min(seconds() for _ in range(10)) < 0.05


TESTS = """
from orchestra import flow, settings

@flow
def work():
    return settings.current().resolved_database_url

seen = []

def test_with_it(orchestra_db):
    seen.append(work())
    assert orchestra_db.count_flow_runs() == 1

def test_with_another(orchestra_db):
    assert orchestra_db.count_flow_runs() == 0
    assert work() not in seen

def test_without_it():
    assert settings.current().resolved_database_url.startswith("sqlite:////mine/")
"""


def test_the_fixture_gives_each_test_a_database_of_its_own(tmp_path: Path) -> None:
    """One that does not ask for it is left alone; pytest's temporary folders hold nothing of ours but the template."""
    (tmp_path / "test_mine.py").write_text(TESTS)
    environment = {
        **os.environ,
        "ORCHESTRA_HOME": "/mine",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-m", "pytest", "-p", "orchestra.testing.plugin", "-p", "no:cacheprovider", "-q"]
    ended = subprocess.run(
        [*command, "--basetemp", str(tmp_path / "base")],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "3 passed" in ended.stdout, ended.stdout + ended.stderr
    assert not list(tmp_path.glob("orchestra-*"))


def test_the_plugin_is_found_by_pytest_and_loads_nothing() -> None:
    """It is imported by every run of pytest where orchestra is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    ((name, module),) = project["project"]["entry-points"]["pytest11"].items()
    assert name == module
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout

    assert set(loaded.split()) & {"celery", "sqlalchemy", "pydantic", "kombu", "cloudpickle", "alembic"} == set()
    assert re.search(r"\bpytest\b", loaded)
