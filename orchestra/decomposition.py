"""A graph of calls as series and parallel parts: the shape of a Celery canvas, as pure functions.

A canvas can say "one after another" and "side by side", nothing else. Most flows are made of just these; what is not
(the smallest is an N: a before c and d, b before d only) is cut into layers, which keeps every edge and adds some.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestra.graph import Node

#: Parts are nested at most so deep; below that they are cut into layers. Celery walks canvases by recursion.
MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Leaf:
    """One node."""

    key: str


@dataclass(frozen=True, slots=True)
class Series:
    """Parts that run one after another: each when all of the one before has ended."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Parallel:
    """Parts that run side by side."""

    parts: tuple[Tree, ...]


Tree = Leaf | Series | Parallel


@dataclass(frozen=True, slots=True)
class Decomposition:
    """The parts of a graph."""

    #: None where the graph is empty.
    tree: Tree | None
    #: False: some part was cut into layers, so that the tree orders more than the graph does.
    exact: bool


def decompose(nodes: Iterable[Node]) -> Decomposition:
    """The series and parallel parts of a graph; every path of it is kept.

    Args:
        nodes: Each behind its upstreams, as they were asked for.

    Raises:
        KeyError: An upstream stands after its dependent, or is not among the nodes.
    """
    order = _Order(list(nodes))
    if not order.keys:
        return Decomposition(None, True)
    tree = order.tree(list(range(len(order.keys))), 0)
    return Decomposition(tree, order.exact)


def leaves(tree: Tree | None) -> Iterator[str]:
    """The keys in a tree, in its order."""
    if isinstance(tree, Leaf):
        yield tree.key
    elif tree is not None:
        for part in tree.parts:
            yield from leaves(part)


class _Order:
    """Which node comes before which, as sets of bits: bit i stands for the i-th node."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.keys = [node.key for node in nodes]
        self.exact = True
        index: dict[str, int] = {}
        self.before: list[int] = []
        self.after = [0] * len(nodes)
        for number, node in enumerate(nodes):
            mask = 0
            for upstream in {index[edge.upstream] for edge in node.edges}:
                mask |= self.before[upstream] | 1 << upstream
            self.before.append(mask)
            index[node.key] = number
        for number in reversed(range(len(nodes))):
            reached = self.after[number] | 1 << number
            for upstream in {index[edge.upstream] for edge in nodes[number].edges}:
                self.after[upstream] |= reached

    def tree(self, members: list[int], depth: int) -> Tree:
        """The parts of a subset, given in the order of asking."""
        if len(members) == 1:
            return Leaf(self.keys[members[0]])
        if depth < MAX_DEPTH:
            parts = self._side_by_side(members)
            if len(parts) > 1:
                return Parallel(tuple(self.tree(part, depth + 1) for part in parts))
            parts = self._one_after_another(members)
            if len(parts) > 1:
                return Series(tuple(self.tree(part, depth + 1) for part in parts))
        self.exact = False
        return self._layers(members)

    def _side_by_side(self, members: list[int]) -> list[list[int]]:
        """The parts between which there is no path."""
        rest = _bits(members)
        parts: list[int] = []
        while rest:
            found, frontier = 0, rest & -rest
            while frontier:
                found |= frontier
                near = 0
                for number in _numbers(frontier):
                    near |= self.before[number] | self.after[number]
                frontier = near & rest & ~found
            parts.append(found)
            rest &= ~found
        return [list(_numbers(part)) for part in parts]

    def _one_after_another(self, members: list[int]) -> list[list[int]]:
        """The parts of which each stands wholly before the next."""
        inside = _bits(members)
        ordered = sorted(members, key=lambda number: ((self.before[number] & inside).bit_count(), number))
        # What all members from a place on have before them.
        common = [inside] * (len(ordered) + 1)
        for place in reversed(range(len(ordered))):
            common[place] = common[place + 1] & self.before[ordered[place]]
        parts: list[list[int]] = [[]]
        seen = 0
        for place, number in enumerate(ordered):
            if parts[-1] and not seen & ~common[place]:
                parts.append([])
            parts[-1].append(number)
            seen |= 1 << number
        return [sorted(part) for part in parts]

    def _layers(self, members: list[int]) -> Tree:
        """Layers one after another: each node in the first one behind all that comes before it."""
        level: dict[int, int] = {}
        inside = _bits(members)
        for number in members:
            level[number] = 1 + max((level[each] for each in _numbers(self.before[number] & inside)), default=-1)
        found: list[list[Leaf]] = [[] for _ in range(max(level.values()) + 1)]
        for number in members:
            found[level[number]].append(Leaf(self.keys[number]))
        layers = tuple(layer[0] if len(layer) == 1 else Parallel(tuple(layer)) for layer in found)
        return layers[0] if len(layers) == 1 else Series(layers)


def _bits(numbers: Iterable[int]) -> int:
    found = 0
    for number in numbers:
        found |= 1 << number
    return found


def _numbers(bits: int) -> Iterator[int]:
    """The numbers of the bits that are set, ascending."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest
