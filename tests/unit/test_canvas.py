"""Flows as canvases: what tracing finds, how it is taken apart, how it is drawn, and what cannot be drawn."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.canvas import Signature
from hypothesis import given
from hypothesis import strategies as st

from orchestra import clock, serializers
from orchestra.celery import install
from orchestra.celery.canvas import LARGEST_MEAN_BYTES, plan_static, weight
from orchestra.celery.dispatch import CeleryCarrier
from orchestra.cli import _drawing
from orchestra.decomposition import Leaf, Parallel, Series, Tree, decompose, leaves
from orchestra.engine.parameters import bind
from orchestra.engine.tracing import Plan, trace
from orchestra.errors import NotImportable, ParameterTypeError, StaticFlowError
from orchestra.flows import Flow, flow
from orchestra.graph import Edge, Node
from orchestra.store.runs import NewRun
from orchestra.tasks import task
from tests.unit import canvas_flows as flows

Graph = dict[str, list[str]]


def plan(flow: Flow[Any, Any], **parameters: Any) -> Plan:
    """The plan of a flow."""
    return trace(flow.spec, bind(flow.fn, (), parameters), lambda task: (task.queue or "default", task.priority))


def edges(flow: Flow[Any, Any], **parameters: Any) -> Graph:
    """Its steps, and which steps each depends on; `?` marks those that may fail."""
    return {
        step.key.removeprefix("main"): [
            edge.upstream.removeprefix("main") + ("" if edge.strict else "?") for edge in step.edges
        ]
        for step in plan(flow, **parameters).steps
    }


# -- tracing -----------------------------------------------------------------------------------------------------


def test_direct_calls_keep_their_order() -> None:
    """Each depends on the one before."""
    assert edges(flows.straight) == {"/add-0": [], "/add-1": ["/add-0"], "/add-2": ["/add-1"]}


def test_submitted_calls_depend_on_their_futures_only() -> None:
    """Side by side as far as their edges allow."""
    assert edges(flows.diamond) == {
        "/add-0": [],
        "/add-1": ["/add-0"],
        "/add-2": ["/add-0"],
        "/add-3": ["/add-1", "/add-2"],
    }


def test_what_stands_behind_a_direct_call_or_a_wait_runs_behind_it() -> None:
    """As it does step by step, though no data goes there; what was waited for may have failed."""
    assert edges(flows.ordered) == {
        "/add-0": [],
        "/add-1": ["/add-0"],
        "/add-2": ["/add-0"],
        "/add-3": ["/add-0", "/add-1?"],
    }


def test_failures_that_the_body_allows_are_no_hindrance() -> None:
    """`allow_failure`, `raise_on_failure=False`, `return_state=True`."""
    assert edges(flows.lenient) == {"/add-0": [], "/add-1": ["/add-0?"], "/add-2": ["/add-1"]}


def test_branches_of_an_async_body_run_side_by_side_and_are_joined() -> None:
    """Behind `gather` stands what follows it."""
    assert edges(flows.gathered) == {
        ".1/fetch-0": [],
        ".1/fetch-1": [".1/fetch-0"],
        ".2/fetch-0": [],
        ".2/fetch-1": [".2/fetch-0"],
        "/fetch-0": [".1/fetch-1", ".2/fetch-1"],
    }


def test_a_body_that_runs_in_a_loop_already_can_be_traced() -> None:
    """An async flow's canvas may be asked for in a coroutine."""

    async def asking() -> int:
        return len(plan(flows.gathered, n=3).steps)

    coroutine = asking()
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    assert ended.value.value == 7


def test_parameters_shape_the_plan() -> None:
    """The body runs with the real ones, made to fit their annotations."""
    assert len(plan(flows.layered, width="5").steps) == 7
    with pytest.raises(ParameterTypeError, match="width"):
        plan(flows.layered, width="many")


def test_a_task_that_no_worker_could_import_is_refused() -> None:
    """As in any flow on Celery."""
    lonely = task(lambda: 1)

    with pytest.raises(NotImportable, match="lambda"):
        plan(flow(lambda: lonely()))


def test_the_outcome_holds_references_for_results() -> None:
    """Values and futures are told apart; what may raise is named in order."""
    raising, value = serializers.decode(plan(flows.layered, width=1).outcome[1:])

    assert raising == ["main/add-0", "main/total-0"]
    assert (value["sum"], value["parts"]) == (
        serializers.StepRef("main/total-0"),
        [serializers.StepRef("main/add-1", allow_failure=True)],
    )


LOOKING = [
    name
    for name, found in vars(flows).items()
    if isinstance(found, Flow) and "  # " in inspect.getsource(found.fn) and name != "passes_through_a_helper"
]


@pytest.mark.parametrize("name", LOOKING)
def test_a_body_that_looks_is_refused_with_its_line(name: str) -> None:
    """The error names what the body does, the file and the line, and says that the flow runs step by step."""
    looking = getattr(flows, name)
    lines, first = inspect.getsourcelines(looking.fn)
    marked = next(number for number, text in enumerate(lines, first) if "  # " in text)
    word = lines[marked - first].rpartition("  # ")[2].strip()

    with pytest.raises(StaticFlowError) as raised:
        plan(looking)

    assert raised.value.where == f"{flows.__file__}:{marked}"
    assert word in ("bool", "json") or word in raised.value.what
    assert "step by step" in str(raised.value)


def test_a_function_that_the_body_calls_is_named_by_its_own_line() -> None:
    """There the result is looked into."""
    marked = inspect.getsourcelines(flows.helped)[1] + 1

    with pytest.raises(StaticFlowError, match=rf"canvas_flows\.py:{marked} it looks into the result of task 'add'"):
        plan(flows.passes_through_a_helper)


def test_a_deadline_is_refused() -> None:
    """No canvas keeps it."""
    with pytest.raises(StaticFlowError, match="timeout_seconds"):
        plan(flows.hurries)


def test_a_trace_of_thousands_takes_little_time() -> None:
    """Tracing, planning and taking apart."""
    started = clock.monotonic()
    found = decompose(plan(flows.layered, width=2000).nodes)

    assert found.exact
    assert clock.monotonic() - started < 3


# -- series and parallel parts -----------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    """Graphs of up to 14 nodes, each behind some of those before it."""
    nodes: list[Node] = []
    for number in range(draw(st.integers(0, 14))):
        upstream = draw(st.sets(st.sampled_from([node.key for node in nodes]), max_size=3)) if nodes else set()
        nodes.append(Node(f"n{number}", tuple(Edge(key) for key in sorted(upstream))))
    return nodes


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Trees of series and parallel parts."""
    shape = draw(
        st.recursive(
            st.just(None),
            lambda inner: st.tuples(st.booleans(), st.lists(inner, min_size=2, max_size=4)),
            max_leaves=12,
        )
    )
    names = iter(range(1000))

    def build(shape: Any) -> Tree:
        if shape is None:
            return Leaf(f"n{next(names)}")
        return (Series if shape[0] else Parallel)(tuple(build(part) for part in shape[1]))

    return build(shape)


def order_of(tree: Tree | None) -> set[tuple[str, str]]:
    """The pairs of nodes that a tree puts one before the other."""
    if tree is None or isinstance(tree, Leaf):
        return set()
    pairs = set().union(*(order_of(part) for part in tree.parts))
    if isinstance(tree, Series):
        for place, part in enumerate(tree.parts):
            for later in tree.parts[place + 1 :]:
                pairs |= {(a, b) for a in leaves(part) for b in leaves(later)}
    return pairs


def paths_of(nodes: list[Node]) -> set[tuple[str, str]]:
    """The pairs of nodes between which there is a path."""
    before: dict[str, set[str]] = {}
    for node in nodes:
        before[node.key] = {edge.upstream for edge in node.edges}.union(*(before[edge.upstream] for edge in node.edges))
    return {(a, b) for b, upstream in before.items() for a in upstream}


@given(graphs())
def test_every_edge_is_kept_and_every_node_stands_once(nodes: list[Node]) -> None:
    """Of any graph; where the parts are exact, nothing is ordered beyond it."""
    found = decompose(nodes)

    assert sorted(leaves(found.tree)) == sorted(node.key for node in nodes)
    assert paths_of(nodes) <= order_of(found.tree)
    assert found.exact == (paths_of(nodes) == order_of(found.tree))


@given(trees())
def test_what_is_series_parallel_is_taken_apart_exactly(tree: Tree) -> None:
    """Any such order is found again."""
    order = order_of(tree)
    names = [*leaves(tree)]
    nodes = [Node(key, tuple(Edge(other) for other in names if (other, key) in order)) for key in names]

    found = decompose(nodes)

    assert found.exact
    assert order_of(found.tree) == order


def test_an_n_is_cut_into_layers() -> None:
    """The smallest graph that is not made of series and parallel parts."""
    found = decompose(plan(flows.crossed).nodes)

    assert not found.exact
    assert found.tree == Series((
        Series((
            Parallel((Leaf("main/add-0"), Leaf("main/add-1"))),
            Parallel((Leaf("main/add-2"), Leaf("main/add-3"))),
        )),
        Leaf("main/add-4"),
    ))  # fmt: skip


def test_deep_nesting_is_cut_into_layers() -> None:
    """Celery walks canvases by recursion."""
    nodes = [Node("top")]
    for depth in range(200):
        nodes += [Node(f"side{depth}", nodes[-1].edges), Node(f"on{depth}", (Edge(nodes[-1].key),))]

    assert sorted(leaves(decompose(nodes).tree)) == sorted(node.key for node in nodes)


# -- drawing -----------------------------------------------------------------------------------------------------


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app that can join, with orchestra installed."""
    made = install(Celery("drawing", broker="memory://", backend="cache+memory://", set_as_current=False))
    made.conf.task_routes = {"tests.unit.canvas_flows.fetch": {"queue": "net", "priority": 3}}
    yield made
    made.close()


def draw(flow: Flow[Any, Any], app: Celery, **parameters: Any) -> Signature | None:
    """The canvas that `.delay()` of a static flow would send."""
    carrying = CeleryCarrier(app)
    new = NewRun(flow.name, flow.spec.path, "a-run", b"", id="RUN", queue="flows")
    return plan_static(flow.spec, bind(flow.fn, (), parameters), new, carrying).canvas


def text(canvas: Any) -> str:
    """A canvas as people see it."""
    return _drawing.text(_drawing.of_signature(canvas))


def test_chains_groups_and_chords_are_native(app: Celery) -> None:
    """A chain with a chord in it."""
    canvas = draw(flows.layered, app)

    assert isinstance(canvas, Signature)
    assert text(canvas).splitlines() == [
        "chain of 2",
        "  add-0  (queue flows)",
        "  chord",
        "    group of 3",
        "      add-1  (queue flows)",
        "      add-2  (queue flows)",
        "      add-3  (queue flows)",
        "    then",
        "      total-0  (queue heavy)",
    ]


def test_nodes_are_tiny(app: Celery) -> None:
    """Ids, a queue, a name for Flower: no arguments, no results."""
    canvas = draw(flows.straight, app)
    assert canvas is not None

    first = canvas.tasks[0]
    assert (first["task"], first["args"], first["kwargs"]) == ("orchestra.task", ("RUN", "main/add-0"), {})
    assert first["options"] == {"queue": "flows", "shadow": "add-0"}
    assert first["immutable"]
    assert len(json.dumps(first)) < 300


def test_queues_and_priorities_are_those_of_the_calls(app: Celery) -> None:
    """The decorator's, else as the app routes the task, else the run's."""
    fetching = draw(flows.gathered, app)
    assert fetching is not None
    assert fetching.tasks[-1].body["options"] == {"queue": "net", "shadow": "fetch-0", "priority": 3}

    heavy = draw(flows.layered, app)
    assert heavy is not None
    assert heavy.tasks[-1].body["options"] == {"queue": "heavy", "shadow": "total-0", "priority": 7}


def test_a_header_never_ends_in_a_group(app: Celery) -> None:
    """Celery would wait for results that are not kept: an empty node joins them first."""
    lines = text(draw(flows.nested_groups, app)).split("\n")

    assert [line.strip() for line in lines].count("join  (queue flows)") == 2
    assert lines[:2] == ["chain of 2", "  start  (queue flows)"]


def test_where_the_canvas_is_not_exact_the_journal_announces_too(app: Celery) -> None:
    """Its nodes carry the run attempt, by which a worker tells them."""
    canvas = draw(flows.crossed, app)

    assert "('RUN', 1, 'main/add-2')" in str(dict(canvas or {}))


def test_what_needs_no_canvas_is_announced_by_the_journal(app: Celery) -> None:
    """One step, a mere group, nothing at all."""
    assert draw(flows.empty, app) is None
    assert draw(flows.straight, app, n=1) is None


def test_without_chords_the_journal_carries_the_run(app: Celery) -> None:
    """No result backend, or one that cannot join."""
    bare = install(Celery("bare", broker="memory://", set_as_current=False))

    assert draw(flows.layered, bare) is None
    assert draw(flows.straight, bare) is not None
    bare.close()


def test_what_would_flood_the_broker_is_not_sent(app: Celery) -> None:
    """A message holds all that comes behind it: long chains weigh the square of their length."""
    assert draw(flows.straight, app, n=50) is not None
    assert draw(flows.straight, app, n=500) is None
    assert draw(flows.layered, app, width=1000) is not None
    tree = decompose(plan(flows.straight, n=500).nodes).tree
    assert tree is not None
    assert weight(tree) > 500 * LARGEST_MEAN_BYTES


# -- by hand -----------------------------------------------------------------------------------------------------


def test_a_canvas_by_hand_makes_its_run_and_passes_it_on() -> None:
    """Drawn without broker and without a run; it prints well."""
    printed = str(flows.diamond.canvas(n=2))

    assert printed.startswith("orchestra.enter(")
    assert re.search(r"n=2, __orchestra__=\{.*'tests.unit.canvas_flows:diamond'.*'seal': '[0-9a-f]{64}'", printed)
    assert re.search(r"task\('canvas:[0-9a-f]{8}', 'main/add-0'\)", printed)
    assert "pass_on('canvas:" in printed


def test_each_canvas_has_a_token_of_its_own() -> None:
    """So that two of one flow in one workflow are two runs."""
    tokens = {flows.diamond.canvas(n=2).tasks[0].kwargs["__orchestra__"]["token"] for _ in range(3)}

    assert len(tokens) == 3


def test_a_canvas_is_drawn_as_a_mermaid_graph() -> None:
    """Nodes by name, and the edges between them."""
    drawn = _drawing.mermaid(_drawing.of_signature(flows.diamond.canvas())).splitlines()

    assert drawn[0] == "graph LR"
    labels = dict(re.findall(r'^  (n\d+)\["(.+)"\]$', "\n".join(drawn), re.MULTILINE))
    assert list(labels.values()) == ["enter diamond", "add-0", "add-1", "add-2", "add-3", "pass on diamond"]
    arrows = {tuple(labels[end] for end in line.strip().split(" --> ")) for line in drawn if " --> " in line}
    assert {("add-0", "add-1"), ("add-0", "add-2"), ("add-1", "add-3"), ("add-2", "add-3")} <= arrows


def test_a_canvas_is_json() -> None:
    """To be kept, or sent elsewhere."""
    assert json.loads(json.dumps(flows.layered.canvas()))["task"] == "celery.chain"
