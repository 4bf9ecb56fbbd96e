"""Flows loaded by where they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestra.errors import DefinitionNotFound
from orchestra.flows import Flow, load_flow_from_entrypoint
from tests.unit import canvas_flows

SOURCE = """
from orchestra import flow

@flow
def work(number: int = 1) -> int:
    return number * 2

not_a_flow = 3

if __name__ == "__main__":
    raise SystemExit("the script runs")
"""


def test_a_flow_of_a_file_is_loaded_without_running_it(tmp_path: Path) -> None:
    """As a script that is imported; the same flow each time."""
    file = tmp_path / "etl.py"
    file.write_text(SOURCE)

    loaded = load_flow_from_entrypoint(f"{file}:work")

    assert isinstance(loaded, Flow)
    assert loaded(4) == 8
    assert load_flow_from_entrypoint(f"{file}:work") is loaded


@pytest.mark.parametrize("entrypoint", ["tests.unit.canvas_flows:straight", "tests.unit.canvas_flows.straight"])
def test_a_flow_of_a_module_is_the_modules_own(entrypoint: str) -> None:
    """With a colon, or with a dot as Prefect writes it."""
    assert load_flow_from_entrypoint(entrypoint) is canvas_flows.straight


@pytest.mark.parametrize("name", ["missing", "not_a_flow"])
def test_what_is_no_flow_is_named(tmp_path: Path, name: str) -> None:
    """With the path that was asked for."""
    file = tmp_path / "etl.py"
    file.write_text(SOURCE)

    with pytest.raises(DefinitionNotFound, match=f"etl.py:{name}"):
        load_flow_from_entrypoint(f"{file}:{name}")
