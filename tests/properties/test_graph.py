"""Random graphs: every edge is respected, and every node comes once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestra import graph
from orchestra.graph import STRIPE, Edge, Node, Outcome
from tests.exploring import tries


@st.composite
def graphs(draw: st.DrawFn, most: int = 25) -> list[Node]:
    """Nodes in an order of submission: edges go to earlier ones, some of them twice, some lenient."""
    count = draw(st.integers(1, most))
    nodes = []
    for number in range(count):
        upstreams = draw(st.lists(st.integers(0, number - 1), max_size=4)) if number else []
        edges = tuple(Edge(f"n{upstream}", draw(st.booleans())) for upstream in upstreams)
        nodes.append(Node(f"n{number}", edges))
    return nodes


@dataclass
class World:
    """What a store does with plans, in memory: joins are counted down as steps end."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    ready: list[str] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)
    joins: dict[str, graph.Join] = field(default_factory=dict)
    remaining: dict[str, int] = field(default_factory=dict)
    members: dict[tuple[str, str], graph.Member] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    #: For each step that ran, how its upstreams stood.
    seen: dict[str, dict[str, Outcome]] = field(default_factory=dict)

    def dispatch(self, nodes: list[Node]) -> None:
        new = {node.key for node in nodes}
        plan = graph.plan(nodes, dict(self.outcomes))
        self.outcomes |= dict.fromkeys(new, Outcome.OPEN)
        self.ready += plan.ready
        self.waiting |= plan.waiting
        for join in plan.joins:
            assert join.id not in self.joins
            self.joins[join.id], self.remaining[join.id] = join, join.remaining
        for member in plan.members:
            # One row for each upstream and join, as in the table.
            assert (member.edge.upstream, member.join) not in self.members
            self.members[member.edge.upstream, member.join] = member
        for key in plan.failed:
            self.end(key, succeeded=False)

    def run(self, position: int, succeeds: Callable[[str], bool], nodes: Mapping[str, Node]) -> None:
        key = self.ready.pop(position % len(self.ready))
        self.started.append(key)
        self.seen[key] = {edge.upstream: self.outcomes[edge.upstream] for edge in nodes[key].edges}
        self.end(key, succeeded=succeeds(key))

    def end(self, key: str, *, succeeded: bool) -> None:
        self.outcomes[key] = Outcome.SUCCEEDED if succeeded else Outcome.FAILED
        for member in [member for (upstream, _), member in self.members.items() if upstream == key]:
            if member.edge.strict and not succeeded:
                for dependent in [node for node, join in self.waiting.items() if join == member.target]:
                    del self.waiting[dependent]
                    self.end(dependent, succeeded=False)
            self.count(member.join)

    def count(self, join_id: str) -> None:
        self.remaining[join_id] -= 1
        if self.remaining[join_id]:
            return
        parent = self.joins[join_id].parent
        if parent is not None:
            self.count(parent)
            return
        for dependent in [node for node, join in self.waiting.items() if join == join_id]:
            del self.waiting[dependent]
            self.ready.append(dependent)


@settings(deadline=None, max_examples=tries(40))
@given(graphs(), st.data())
def test_every_edge_is_respected_and_every_node_comes_once(nodes: list[Node], data: st.DataObject) -> None:
    """For any graph, any order of endings, any failures, and any split of the graph into dispatches."""
    failing = data.draw(st.sets(st.sampled_from([node.key for node in nodes])))
    by_key = {node.key: node for node in nodes}
    world, rest = World(), list(nodes)

    while rest or world.ready:
        if rest and (not world.ready or data.draw(st.booleans())):
            cut = data.draw(st.integers(1, len(rest)))
            part, rest = rest[:cut], rest[cut:]
            # Submitted before what they depend on was dispatched: an upstream is in the same dispatch or an earlier.
            world.dispatch(part)
        else:
            world.run(data.draw(st.integers(0, 30)), lambda key: key not in failing, by_key)

    assert not world.waiting
    assert len(world.started) == len(set(world.started))
    doomed: set[str] = set()
    for node in nodes:
        culprits = [edge.upstream for edge in node.edges if edge.strict and edge.upstream in doomed | failing]
        if culprits:
            doomed.add(node.key)
    assert set(world.started) == {node.key for node in nodes} - doomed
    for key, upstreams in world.seen.items():
        assert Outcome.OPEN not in upstreams.values()
        strict = {edge.upstream for edge in by_key[key].edges if edge.strict}
        assert all(upstreams[upstream] is Outcome.SUCCEEDED for upstream in strict)


@pytest.mark.parametrize("count", [1, STRIPE, STRIPE + 1, 5 * STRIPE - 3])
def test_joins_of_many_members_are_striped(count: int) -> None:
    """No counter has more than a stripe of members, and all of them together are counted."""
    upstreams = [Node(f"u{i}") for i in range(count)]
    plan = graph.plan([*upstreams, Node("d", tuple(Edge(u.key) for u in upstreams))], {})

    leaves = [join for join in plan.joins if join.id not in {other.parent for other in plan.joins}]
    assert sum(join.remaining for join in leaves) == count
    assert all(join.remaining <= STRIPE for join in plan.joins)
    assert len(plan.members) == count
    assert {member.target for member in plan.members} == {"d"}


def test_dependents_with_the_same_upstreams_share_a_join() -> None:
    """Whatever the order in which they name them."""
    a, b = Edge("a"), Edge("b")
    plan = graph.plan([Node("a"), Node("b"), Node("x", (a, b)), Node("y", (b, a)), Node("z", (a,))], {})

    assert plan.waiting["x"] == plan.waiting["y"] != plan.waiting["z"]
    assert len(plan.joins) == 2


def test_an_upstream_that_is_named_twice_counts_once() -> None:
    """Strictly, if it is named strictly at all."""
    plan = graph.plan([Node("a"), Node("x", (Edge("a"), Edge("a", strict=False)))], {})

    assert [join.remaining for join in plan.joins] == [1]
    assert [member.edge for member in plan.members] == [Edge("a")]


@settings(deadline=None, max_examples=tries(40))
@given(graphs())
def test_layers_put_each_node_after_its_upstreams(nodes: list[Node]) -> None:
    """And each as early as that allows."""
    layers = graph.layers(nodes)
    level = {key: number for number, layer in enumerate(layers) for key in layer}

    assert sorted(level) == sorted(node.key for node in nodes)
    for node in nodes:
        assert level[node.key] == max((level[edge.upstream] for edge in node.edges), default=-1) + 1


@pytest.mark.parametrize(("slots", "expected"), [(0, 16), (8, 16), (9, 18), (100, 200)])
def test_the_window_is_twice_the_slots_and_at_least_sixteen(slots: int, expected: int) -> None:
    """So that slots do not run dry between two announcements."""
    assert graph.window(slots) == expected
