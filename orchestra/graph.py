"""What may run when: readiness of submitted steps from their edges, as pure functions."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

#: Members of one join that count down the same row; more are striped, so that their completions do not queue up there.
STRIPE = 64
#: Rows of a wave announced ahead, at least.
MIN_WINDOW = 16


class Outcome(enum.Enum):
    """How a step stands, as its dependents see it."""

    OPEN = "open"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Edge:
    """A dependence on `upstream`; where it is not strict, a failed upstream is no hindrance."""

    upstream: str
    strict: bool = True


@dataclass(frozen=True, slots=True)
class Node:
    """A submitted step and what it depends on."""

    key: str
    edges: tuple[Edge, ...] = ()


@dataclass(frozen=True, slots=True)
class Join:
    """A counter of upstreams that have not ended; at zero it lets its dependents, or its parent, go on."""

    id: str
    remaining: int
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """An upstream, the join it counts down, and the join that holds the dependents."""

    edge: Edge
    join: str
    target: str


@dataclass(slots=True)
class Plan:
    """What to write for newly submitted nodes."""

    ready: list[str] = field(default_factory=list)
    #: Node to the join it waits for.
    waiting: dict[str, str] = field(default_factory=dict)
    #: Node to the upstream for whose failure it is not run.
    failed: dict[str, str] = field(default_factory=dict)
    joins: list[Join] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)


def plan(nodes: Iterable[Node], outcomes: Mapping[str, Outcome]) -> Plan:
    """Sort new nodes into ready, waiting and failed; nodes with the same open upstreams share one join.

    Args:
        nodes: In the order of submission, so that an upstream stands before its dependents.
        outcomes: Of every upstream that is not among `nodes`.
    """
    made = Plan()
    known = dict(outcomes)
    shared: dict[frozenset[Edge], str] = {}
    for node in nodes:
        known[node.key] = Outcome.OPEN
        culprit = next((e.upstream for e in node.edges if e.strict and known[e.upstream] is Outcome.FAILED), None)
        pending = [edge for edge in _merged(node.edges) if known[edge.upstream] is Outcome.OPEN]
        if culprit is not None:
            made.failed[node.key] = culprit
            known[node.key] = Outcome.FAILED
        elif not pending:
            made.ready.append(node.key)
        else:
            edges = frozenset(pending)
            if edges not in shared:
                shared[edges] = node.key
                _add_join(made, node.key, pending)
            made.waiting[node.key] = shared[edges]
    return made


def _merged(edges: Iterable[Edge]) -> list[Edge]:
    """One edge for each upstream: strict if any of its edges is."""
    strict: dict[str, bool] = {}
    for edge in edges:
        strict[edge.upstream] = strict.get(edge.upstream, False) or edge.strict
    return [Edge(upstream, needed) for upstream, needed in strict.items()]


def _add_join(made: Plan, join_id: str, edges: Sequence[Edge]) -> None:
    if len(edges) <= STRIPE:
        made.joins.append(Join(join_id, len(edges)))
        made.members.extend(Member(edge, join_id, join_id) for edge in edges)
        return
    stripes = [edges[start : start + STRIPE] for start in range(0, len(edges), STRIPE)]
    made.joins.append(Join(join_id, len(stripes)))
    for number, stripe in enumerate(stripes):
        stripe_id = f"{join_id}#{number}"
        made.joins.append(Join(stripe_id, len(stripe), parent=join_id))
        made.members.extend(Member(edge, stripe_id, join_id) for edge in stripe)


def window(slots: int) -> int:
    """How many rows of a wave are announced ahead, for a queue with that many live slots."""
    return max(MIN_WINDOW, 2 * slots)


def layers(nodes: Iterable[Node]) -> list[list[str]]:
    """The nodes in layers: each in the first layer after all of its upstreams.

    Raises:
        KeyError: An upstream stands after its dependent, or is not among the nodes.
    """
    level: dict[str, int] = {}
    for node in nodes:
        level[node.key] = 1 + max((level[edge.upstream] for edge in node.edges), default=-1)
    found: list[list[str]] = [[] for _ in range(max(level.values(), default=-1) + 1)]
    for key, number in level.items():
        found[number].append(key)
    return found
