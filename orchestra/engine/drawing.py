"""`flow.visualize()`: the steps a flow body asks for, as a Graphviz drawing. No task runs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from orchestra import lazy
from orchestra.engine.tracing import Plan, sketch
from orchestra.errors import GraphvizNotFound
from orchestra.specs import FlowSpec


def show(flow: FlowSpec, parameters: dict[str, Any]) -> Any:
    """Draw `flow`, and show it: in a notebook by returning the drawing, elsewhere by opening a PNG file.

    Raises:
        GraphvizNotFound: The package or the program is not there.
        StaticFlowError: The body looks into a result.
    """
    try:
        graphviz = lazy.resolve("graphviz")
    except ImportError as error:
        raise GraphvizNotFound("the package graphviz") from error
    if shutil.which("dot") is None:
        raise GraphvizNotFound("the program dot")
    drawing = graphviz.Source(dot(flow.name, sketch(flow, parameters)))
    if not in_notebook():
        # It stays there: the program that shows it may read it later.
        drawing.render(Path(mkdtemp(prefix="orchestra-drawing-")) / "flow", format="png", view=True, cleanup=True)
    return drawing


def in_notebook() -> bool:
    """Whether a notebook shows what a cell returns."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def dot(name: str, plan: Plan) -> str:
    """A plan in Graphviz's language: a node for each step, an edge for each dependency."""
    lines = [f"digraph {_quoted(name)} {{", "  rankdir=LR", "  node [shape=box]"]
    for step in plan.steps:
        lines.append(f"  {_quoted(step.key)} [label={_quoted(step.name)}]")
        lines.extend(f"  {_quoted(edge.upstream)} -> {_quoted(step.key)}" for edge in step.edges)
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
