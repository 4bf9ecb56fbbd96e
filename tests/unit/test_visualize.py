"""`flow.visualize()`: what a body would ask for, drawn without running a task."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestra import flow, task
from orchestra.engine.drawing import dot
from orchestra.engine.tracing import sketch
from orchestra.errors import GraphvizNotFound, StaticFlowError

ran: list[int] = []


@task
def load(day: int) -> int:
    """A task."""
    ran.append(day)
    return day


@task
def total(values: list[int]) -> int:
    """A task."""
    return sum(values)


@flow
def child(number: int) -> int:
    """A flow."""
    return total([number])


@flow
def pipeline(days: int) -> int:
    """A flow with a subflow."""
    return child(total.submit(load.map(range(days))))


@flow
def looking(days: int) -> int:
    """A flow that cannot be drawn."""
    return 1 if load(days) else 2


@task(viz_return_value=3)
def count() -> int:
    """A task that says what a drawing takes for its value."""
    ran.append(-1)
    return 0


@flow
def branching() -> int:
    """A flow that looks into values of such tasks."""
    submitted = count.submit()
    return sum(load(number) for number in range(count())) if submitted.result() > 2 else 0


@flow
def counting() -> list[object]:
    """As many tasks as another one says."""
    return [load.submit(number) for number in range(count())]


def test_a_task_may_say_what_a_drawing_takes_for_its_value() -> None:
    """So that a body which looks into it can be drawn; the task itself does not run."""
    drawn = dot("counting", sketch(counting.spec, {}))

    assert drawn.count("[label=") == 4
    assert drawn.count('"main/count-0" ->') == 3
    with pytest.raises(StaticFlowError, match="'load'"):
        sketch(branching.spec, {})
    assert ran == []


def test_every_step_is_drawn_behind_what_it_waits_for() -> None:
    """Subflows are steps; no task runs, and none need be importable."""
    drawn = dot("pipeline", sketch(pipeline.spec, {"days": 2}))

    assert '"main/load-0" -> "main/total-0"' in drawn
    assert '"main/load-1" -> "main/total-0"' in drawn
    assert '"main/total-0" -> "main/child-0"' in drawn
    assert drawn.count("[label=") == 4
    assert ran == []


def test_names_cannot_break_out_of_the_drawing() -> None:
    """Quotes and backslashes in them are kept."""
    odd = flow(name='a"b\\')(lambda: None)

    assert dot(odd.name, sketch(odd.spec, {})).startswith('digraph "a\\"b\\\\" {')


def test_a_body_that_looks_into_a_result_is_named() -> None:
    """With the task and the line."""
    with pytest.raises(StaticFlowError, match=r"result of task 'load'"):
        sketch(looking.spec, {"days": 1})


def test_without_graphviz_the_error_says_what_draws_too(tmp_path: Path) -> None:
    """It names the package to install, and the command that needs none."""
    (tmp_path / "graphviz.py").write_text("raise ImportError('no such package')\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom tests.unit.test_visualize import pipeline\n"

    ended = subprocess.run(
        [sys.executable, "-c", code + "pipeline.visualize(2)"], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 1
    assert "pip install graphviz" in ended.stderr
    assert "orchestra flow canvas MODULE:FLOW --mermaid" in ended.stderr
    assert issubclass(GraphvizNotFound, ImportError)
