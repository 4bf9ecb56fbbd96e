"""Canvases drawn for people: as indented text, and as Mermaid graphs.

A canvas is a tree of `Call`s within `Chain`s, `Group`s and `Chord`s, made from a Celery signature or from the steps
of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestra.store.queries import Node


#: A group of more members is drawn with one line for all calls of a task.
SHOWN = 8


@dataclass(frozen=True, slots=True)
class Call:
    """One task call."""

    name: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """Parts that run one after the other."""

    parts: tuple[Canvas, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Parts that run at once."""

    parts: tuple[Canvas, ...]


@dataclass(frozen=True, slots=True)
class Chord:
    """A body that runs when all of the header has ended."""

    header: Canvas
    body: Canvas


Canvas = Call | Chain | Group | Chord


# -- from a Celery signature -------------------------------------------------------------------------------------


def of_signature(signature: Mapping[str, Any]) -> Canvas:
    """A Celery signature as a tree; knows chains, groups and chords by their data."""
    kwargs = signature.get("kwargs") or {}
    if "header" in kwargs and "body" in kwargs:
        return Chord(_group(kwargs["header"]), of_signature(kwargs["body"]))
    if signature.get("task") == "celery.chain":
        return chain(of_signature(part) for part in kwargs["tasks"])
    if signature.get("task") == "celery.group":
        return _group(kwargs["tasks"])
    return Call(_name(signature), _note(signature))


def _group(parts: Any) -> Canvas:
    if isinstance(parts, Mapping):
        return of_signature(parts)
    return group(of_signature(part) for part in parts)


def _name(signature: Mapping[str, Any]) -> str:
    """The name that Flower shows, else the step key among the arguments, else the Celery task's name."""
    shadow = (signature.get("options") or {}).get("shadow")
    args = signature.get("args") or ()
    key = args[-1] if args and isinstance(args[-1], str) and "/" in args[-1] else None
    return str(key.partition("/")[2] if key else shadow or signature.get("task"))


def _note(signature: Mapping[str, Any]) -> str:
    queue = (signature.get("options") or {}).get("queue")
    return f"queue {queue}" if queue else ""


# -- from the steps of a run -------------------------------------------------------------------------------------


def of_run(nodes: Sequence[Node]) -> Canvas:
    """The canvases a run was made of, in the order in which its body asked for them.

    Steps dispatched together and ready at once were a group; steps behind others were the body of a chord over
    these; direct calls stand alone.
    """
    parts = [part for _, dispatch in groupby(nodes, key=_dispatch) for part in _layers(list(dispatch))]
    return chain(parts)


def _dispatch(node: Node) -> tuple[Any, ...]:
    return (node.key,) if node.inline or node.kind != "task" else (node.created_at,)


def _layers(dispatch: list[Node]) -> list[Canvas]:
    """One dispatch, cut into layers: each step in the first one behind all of its upstreams."""
    level: dict[str, int] = {}
    for node in dispatch:
        level[node.key] = 1 + max((level[key] for key in node.upstream if key in level), default=-1)
    layers: dict[int, list[Canvas]] = {}
    for node in dispatch:
        layers.setdefault(level[node.key], []).append(_call(node))
    drawn = [group(layers[number]) for number in sorted(layers)]
    return _as_chords(drawn)


def _as_chords(layers: list[Canvas]) -> list[Canvas]:
    """Layers one behind the other; a group followed by anything is a chord's header."""
    if len(layers) < 2 or not isinstance(layers[0], Group):
        return layers[:1] + (_as_chords(layers[1:]) if layers[1:] else [])
    rest = _as_chords(layers[1:])
    return [Chord(layers[0], chain(rest))]


def _call(node: Node) -> Call:
    how = "direct" if node.inline else node.kind if node.kind != "task" else f"queue {node.queue}" if node.queue else ""
    return Call(node.key.partition("/")[2] or node.key, ", ".join(filter(None, (how, node.state_name))))


# -- drawing -----------------------------------------------------------------------------------------------------


def chain(parts: Iterable[Canvas]) -> Canvas:
    """A chain; one part stands for itself."""
    found = tuple(parts)
    return found[0] if len(found) == 1 else Chain(found)


def group(parts: Iterable[Canvas]) -> Canvas:
    """A group; one part stands for itself."""
    found = tuple(parts)
    return found[0] if len(found) == 1 else Group(found)


def text(canvas: Canvas) -> str:
    """The tree, indented, in Celery's words."""
    return "\n".join(_lines(canvas, 0))


def _lines(canvas: Canvas, depth: int) -> list[str]:
    pad = "  " * depth
    if isinstance(canvas, Call):
        return [f"{pad}{canvas.name}" + (f"  ({canvas.note})" if canvas.note else "")]
    if isinstance(canvas, Chord):
        return [f"{pad}chord", *_lines(canvas.header, depth + 1), f"{pad}  then", *_lines(canvas.body, depth + 2)]
    word = "chain" if isinstance(canvas, Chain) else "group"
    parts = _shown(canvas.parts) if isinstance(canvas, Group) else canvas.parts
    inner = [line for part in parts for line in _lines(part, depth + 1)]
    return [f"{pad}{word} of {len(canvas.parts)}", *inner]


def _shown(parts: Sequence[Canvas]) -> list[Canvas]:
    """The members of a group as they are drawn: in a large one, calls of one task with one note become one."""
    if len(parts) <= SHOWN:
        return list(parts)
    alike: dict[tuple[str, str], list[Call]] = {}
    others: list[Canvas] = []
    for part in parts:
        if isinstance(part, Call):
            alike.setdefault((part.name.rpartition("-")[0], part.note), []).append(part)
        else:
            others.append(part)
    drawn = [_together(calls) for calls in alike.values()]
    hidden = len(others) - SHOWN
    return [*drawn, *others[:SHOWN], *([Call(f"… and {hidden} more")] if hidden > 0 else [])]


def _together(calls: Sequence[Call]) -> Call:
    if len(calls) == 1:
        return calls[0]
    first, last = calls[0], calls[-1]
    return Call(f"{first.name} … {last.name}", ", ".join(filter(None, (f"{len(calls)} calls", first.note))))


@dataclass(slots=True)
class _Graph:
    """Lines of a Mermaid graph."""

    lines: list[str] = field(default_factory=lambda: ["graph LR"])
    count: int = 0

    def node(self, label: str) -> str:
        self.count += 1
        name = f"n{self.count}"
        clean = label.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
        self.lines.append(f'  {name}["{clean}"]')
        return name

    def joint(self, sources: Sequence[str]) -> str:
        """A small node behind all of these, through which many edges go as one."""
        self.count += 1
        name = f"n{self.count}"
        self.lines.append(f"  {name}(( ))")
        self.edges(sources, name)
        return name

    def edges(self, sources: Sequence[str], target: str) -> None:
        self.lines.extend(f"  {source} --> {target}" for source in sources)


def mermaid(canvas: Canvas) -> str:
    """The tree as a Mermaid graph, for Markdown pages that render it."""
    graph = _Graph()
    _draw(canvas, [], graph)
    return "\n".join(graph.lines)


def _draw(canvas: Canvas, before: list[str], graph: _Graph) -> list[str]:
    """Add the canvas behind the nodes `before`; returns the nodes it ends with."""
    if isinstance(canvas, Call):
        name = graph.node(canvas.name)
        graph.edges(before, name)
        return [name]
    if isinstance(canvas, Chord):
        return _draw(canvas.body, _draw(canvas.header, before, graph), graph)
    if isinstance(canvas, Chain):
        for part in canvas.parts:
            before = _draw(part, before, graph)
        return before
    return _draw_group(canvas, before, graph)


def _draw_group(canvas: Group, before: list[str], graph: _Graph) -> list[str]:
    parts = _shown(canvas.parts)
    if len(before) > 1:
        before = [graph.joint(before)]
    return [end for part in parts for end in _draw(part, before, graph)]
