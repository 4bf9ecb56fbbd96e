"""Canvases drawn for people."""

from __future__ import annotations

from celery import Celery, chain, chord, group

from orchestra.cli import _drawing
from orchestra.store.queries import Node

app = Celery("drawing", broker="memory://", set_as_current=False)


@app.task(name="work", shared=False)
def work() -> None:
    """Does nothing."""


def node(key: str, *upstream: str, at: float = 1.0, inline: bool = False) -> Node:
    """A completed step."""
    above = tuple(f"main/{name}" for name in upstream)
    return Node(f"main/{key}", key, "task", "COMPLETED", "Completed", inline, "q", at, above)


def step(key: str) -> object:
    """A signature as dispatch makes them."""
    return work.si("run", f"main/{key}").set(queue="etl")


def test_a_celery_signature_is_drawn_in_celerys_words() -> None:
    """Chains, groups and chords by their data, members by step key and queue."""
    drawn = _drawing.text(_drawing.of_signature(chain(step("a-0"), step("b-0"), app=app)))
    assert drawn.splitlines() == ["chain of 2", "  a-0  (queue etl)", "  b-0  (queue etl)"]
    drawn = _drawing.text(_drawing.of_signature(chord(group(step("a-0"), step("a-1"), app=app), step("b-0"), app=app)))
    assert [line.strip() for line in drawn.splitlines()] == [
        "chord",
        "group of 2",
        "a-0  (queue etl)",
        "a-1  (queue etl)",
        "then",
        "b-0  (queue etl)",
    ]


def test_steps_dispatched_together_are_a_group_and_those_behind_them_a_chords_body() -> None:
    """Direct calls stand alone, in order."""
    nodes = [
        node("first-0", at=1.0, inline=True),
        node("work-0", at=2.0),
        node("work-1", at=2.0),
        node("total-0", "work-0", "work-1", at=2.0),
        node("last-0", at=3.0, inline=True),
    ]
    tree = _drawing.of_run(nodes)
    assert isinstance(tree, _drawing.Chain)
    first, middle, last = tree.parts
    assert isinstance(middle, _drawing.Chord)
    kinds = [type(part).__name__ for part in (first, middle.header, middle.body, last)]
    assert kinds == ["Call", "Group", "Call", "Call"]


def test_a_mermaid_graph_joins_groups_through_one_node() -> None:
    """Two groups of n and m cost n + m edges; names cannot break out of their quotes."""
    many = _drawing.group(_drawing.Call(f"a{number}") for number in range(3))
    graph = _drawing.mermaid(_drawing.chain([many, many, _drawing.Call('x"]<b>')]))
    assert graph.count("-->") == 3 + 3 + 3
    assert 'x#quot;]#lt;b#gt;"]' in graph


def test_a_large_group_has_one_line_a_task_and_state() -> None:
    """Text and graph stay readable; what differs still shows."""
    calls = [_drawing.Call(f"a-{number}", "Completed") for number in range(1000)]
    many = _drawing.group([*calls, _drawing.Call("a-1000", "Failed"), _drawing.Call("b-0", "Completed")])
    drawn = ["group of 1002", "  a-0 … a-999  (1000 calls, Completed)", "  a-1000  (Failed)", "  b-0  (Completed)"]
    assert _drawing.text(many).splitlines() == drawn
    assert len(_drawing.mermaid(many).splitlines()) == 4
    chains = _drawing.group(_drawing.chain(calls[:2]) for _ in range(1000))
    assert "… and 992 more" in _drawing.text(chains)


def test_a_run_without_steps_is_drawn_as_an_empty_chain() -> None:
    """Nothing to draw is no error."""
    assert _drawing.text(_drawing.of_run([])) == "chain of 0"
