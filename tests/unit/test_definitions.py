"""Finding flows and tasks by path."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from orchestra import flow, task
from orchestra.engine import definitions
from orchestra.errors import ConfigurationError, DefinitionError, DefinitionNotFound

CODE = """
from orchestra import flow, task

@task(queue="heavy")
def work(n): return n

@flow(queue="etl")
def whole(n=1): return work(n)

def plain(): pass

if __name__ == "__main__":
    raise SystemExit("ran as a script")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the module `deep_flows`."""
    (tmp_path / "deep_flows.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "deep_flows", raising=False)
    return tmp_path


def test_modules_are_found_in_the_working_directory(folder: Path) -> None:
    """A worker imports ORCHESTRA_FLOWS from where it was started, too."""
    modules = definitions.import_modules(["deep_flows"])

    assert sorted(spec.name for spec in definitions.specs_in(modules)) == ["whole", "work"]
    assert definitions.queues_of(modules) == ["etl", "heavy"]


def test_other_things_in_a_module_are_not_looked_into(folder: Path) -> None:
    """A proxy such as Flask's `current_app` raises where there is nothing behind it."""
    proxy = "class Proxy:\n    def __getattr__(self, name): raise RuntimeError('outside of a request')\n"
    (folder / "deep_flows.py").write_text(f"{CODE}\n{proxy}\ncurrent_app = Proxy()\n")
    modules = definitions.import_modules(["deep_flows"])

    assert definitions.queues_of(modules) == ["etl", "heavy"]


def test_a_flow_and_a_task_are_found_by_their_paths(folder: Path) -> None:
    """`module:qualname`, as rows carry it."""
    definitions.see_working_directory()

    assert definitions.load_flow("deep_flows:whole").name == "whole"
    assert definitions.load_task("deep_flows:work").name == "work"


def test_a_flow_of_main_is_found_by_its_file_without_running_it(folder: Path) -> None:
    """Its tasks' paths lead to that file again, in every process."""
    flow = definitions.load_flow("__main__:whole", f"{folder}/deep_flows.py:whole")

    assert flow.path == f"{folder}/deep_flows.py:whole"
    assert definitions.load_task(f"{folder}/deep_flows.py:work").name == "work"
    assert definitions.load_flow(flow.path) is flow


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no_such_module:whole", "No module named 'no_such_module'"),
        ("deep_flows:missing", "no attribute 'missing'"),
        ("deep_flows:plain", "no flow but of type function"),
        ("deep_flows:work", "no flow but of type"),
        ("deep_flows:outer.<locals>.whole", "no attribute 'outer'"),
    ],
)
def test_what_is_not_there_is_named_with_the_reason(folder: Path, path: str, reason: str) -> None:
    """The run then waits, and says for what."""
    definitions.see_working_directory()

    with pytest.raises(DefinitionNotFound, match=reason):
        definitions.load_flow(path)


def test_a_module_that_does_not_import_is_named_with_its_error(folder: Path) -> None:
    """A worker says so at its start instead of losing runs later."""
    (folder / "broken_flows.py").write_text("1 / 0")

    with pytest.raises(ConfigurationError, match=r"ORCHESTRA_FLOWS names .*'broken_flows'.*ZeroDivisionError"):
        definitions.import_modules(["broken_flows"])


def test_none_says_nothing_of_an_option() -> None:
    """As in Prefect, whose defaults are None."""

    def work() -> int:
        return 1

    made = task(name=None, retries=None, retry_delay_seconds=None, tags=None)(work)  # type: ignore[arg-type]

    assert (made.name, made.retries, made.spec.tags) == ("work", 0, frozenset())
    assert flow(name=None, retries=None)(work).spec.name == "work"  # type: ignore[arg-type]
    assert made.with_options(retries=3).with_options(retries=None).spec.retries == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"retries": "x"}, {"retries": -1}, {"name": 3}])
@pytest.mark.parametrize("decorate", [task, flow])
def test_options_of_a_wrong_kind_are_refused_where_they_are_given(decorate: Any, options: dict[str, Any]) -> None:
    """And the error names the option."""
    with pytest.raises(DefinitionError, match=next(iter(options))):
        decorate(**options)(len)
