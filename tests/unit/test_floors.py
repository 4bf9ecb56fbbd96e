"""The import graph: every file imports from floors below its own, and heavy packages stay unloaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

import pytest

from tests.helpers import ROOT

#: The first part of a module's name below `orchestra`, by floor (docs/contributing: a new file is given one here).
FLOORS = [
    "errors exceptions clock settings profiles identifiers lazy failpoints unbuilt",
    "callables digests states journal graph decomposition specs retries serializers typed_values pickles signing "
    "previews annotations names hooks transaction_rules questions schedules fire_times deployment_options work_pools "
    "cache_policies utilities task_runners masking sizes",
    "store blobs",
    "accounts "
    "context runtime logging results futures awaitables handles engine runners transactions db_transactions artifacts "
    "variables events concurrency locking input",
    "flows tasks observations flow_runs decorated deployments docker automations blocks canvas_members background",
    "celery",
    "cli client testing server dev serving project_files task_worker workers __main__",
]
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names.split()}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("orchestra", "celery_app")
    for path in (ROOT / folder).rglob("*.py")
    if "versions" not in path.relative_to(ROOT).parts
}
TREES = {module: ast.parse(path.read_text()) for module, path in FILES.items()}
OURS = sorted(module for module in TREES if module.startswith("orchestra."))


def imported(module: str) -> Iterator[str]:
    """The modules that a module imports, wherever in it the import stands."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: write the import in full"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in TREES else str(node.module)


def floor(module: str) -> int:
    """The floor of a module of orchestra; the root, which only shows names, stands above all."""
    return FLOOR_OF.get(module.split(".")[1], 0) if "." in module else len(FLOORS)


#: Packages that are loaded by what needs them, and by nothing else.
HEAVY = {"celery", "kombu", "redis", "sqlalchemy", "alembic", "pydantic", "fastapi", "uvicorn", "httpx2", "cloudpickle"}

GRAPH = {module: {name for name in imported(module) if name in TREES and name != module} for module in TREES}


@pytest.mark.parametrize("module", OURS)
def test_every_module_has_a_floor(module: str) -> None:
    """A new file is put on a floor before anything imports it."""
    assert module.split(".")[1] in FLOOR_OF


@pytest.mark.parametrize("module", OURS)
def test_imports_go_downward(module: str) -> None:
    """A file imports from its own floor or from those below."""
    upward = [name for name in GRAPH[module] if name.startswith("orchestra") and floor(name) > floor(module)]

    assert upward == []


def test_the_import_graph_has_no_loop() -> None:
    """No import knot, counting imports for type checking and inside functions too."""
    below = {module: {name for name in names if name != "orchestra"} for module, names in GRAPH.items()}
    try:
        TopologicalSorter(below).prepare()
        loop: list[str] = []
    except CycleError as error:
        loop = error.args[1]

    assert list(pairwise(loop)) == []


@pytest.mark.parametrize("module", sorted(set(TREES) - {"orchestra.lazy"}))
def test_no_import_stands_inside_a_function(module: str) -> None:
    """What must load late goes through orchestra/lazy.py."""
    functions = [node for node in ast.walk(TREES[module]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = [
        node.lineno
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]

    assert inside == []


@pytest.mark.parametrize("module", [module for module in OURS if floor(module) < 5])
def test_only_the_celery_floor_knows_celery(module: str) -> None:
    """Below floor 5 nothing imports celery, kombu or a broker's client."""
    assert {name.split(".")[0] for name in imported(module)} & {
        "celery",
        "kombu",
        "billiard",
        "redis",
        "celery_app",
    } == set()


def test_the_decorators_load_nothing_heavy() -> None:
    """`from orchestra import flow, task` loads no Celery, SQLAlchemy, pydantic or web framework."""
    code = "import sys; from orchestra import flow, task; print(*{name.split('.')[0] for name in sys.modules})"

    loaded = subprocess.run([sys.executable, "-c", code], check=True, text=True, capture_output=True, cwd=ROOT).stdout

    assert set(loaded.split()) & (HEAVY | {"click", "rich"}) == set()


def test_the_list_of_commands_loads_none_of_them() -> None:
    """`orchestra --help` loads the command line's own files and what draws help, and nothing that a command needs."""
    code = (
        "import sys; from orchestra.cli import cli\n"
        "cli(['--help'], standalone_mode=False)\nprint(*sys.modules, file=sys.stderr)"
    )

    run = subprocess.run([sys.executable, "-c", code], check=True, text=True, capture_output=True, cwd=ROOT)

    loaded = set(run.stderr.split())
    assert "flow-run" in run.stdout
    assert {name for name in loaded if name.startswith("orchestra.cli")} == {"orchestra.cli", "orchestra.cli._support"}
    assert {name.split(".")[0] for name in loaded} & HEAVY == set()


LIGHT = (
    "artifact beat cache config deployment events flow flow_run global_concurrency_limit profile task task_run "
    "transaction variable version work_pool work_queue worker"
).split()


@pytest.mark.parametrize("noun", LIGHT)
def test_a_noun_loads_nothing_heavy_before_it_runs(noun: str) -> None:
    """`orchestra NOUN --help` needs no database, broker or server, and loads nothing that would talk to one."""
    code = f"import sys, orchestra.cli.{noun}; print(*{{name.split('.')[0] for name in sys.modules}})"

    loaded = subprocess.run([sys.executable, "-c", code], check=True, text=True, capture_output=True, cwd=ROOT).stdout

    assert set(loaded.split()) & HEAVY == set()


def test_asking_the_database_loads_no_way_to_ask_a_server() -> None:
    """`flow-run ls` loads pydantic and an HTTP client only where it asks through a server."""
    code = "import sys, orchestra.client.backend; print(*{name.split('.')[0] for name in sys.modules})"

    loaded = subprocess.run([sys.executable, "-c", code], check=True, text=True, capture_output=True, cwd=ROOT).stdout

    assert "sqlalchemy" in loaded.split()
    assert set(loaded.split()) & (HEAVY - {"sqlalchemy"}) == set()


@pytest.mark.parametrize("module", ["orchestra.cli.server", "orchestra.cli.doctor"])
def test_looking_at_a_server_does_not_load_one(module: str) -> None:
    """`server status`, `server stop` and `doctor` load no web framework."""
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"

    loaded = subprocess.run([sys.executable, "-c", code], check=True, text=True, capture_output=True, cwd=ROOT).stdout

    assert set(loaded.split()) & {"fastapi", "starlette", "uvicorn", "jinja2"} == set()
