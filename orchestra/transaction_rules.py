"""What the tree of nested transactions decides, as pure functions: who commits when, and what rolls back with what.

A block that ends well is its parent's to commit, unless it says EAGER. One that fails takes all around it along, down
to what was committed before.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar


class TransactionState(enum.StrEnum):
    """Where a transaction stands."""

    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    #: It was given the value that its key stands for.
    STAGED = "STAGED"
    COMMITTED = "COMMITTED"
    ROLLED_BACK = "ROLLED_BACK"


class CommitMode(enum.StrEnum):
    """When a block that ended well is committed."""

    #: At its own end, also inside of another block.
    EAGER = "EAGER"
    #: With the outermost block.
    LAZY = "LAZY"
    #: By `txn.commit()` only; the end of an outermost block rolls back what is not committed by then.
    OFF = "OFF"


class IsolationLevel(enum.StrEnum):
    """What those who work for one key, of a transaction or of the cache, keep each other from."""

    #: Nothing: two may do so at once; what is committed first is read by those who come later.
    READ_COMMITTED = "READ_COMMITTED"
    #: Only one at a time does; the others wait for it.
    SERIALIZABLE = "SERIALIZABLE"


class Durable(enum.StrEnum):
    """Where a transaction stands in the database."""

    ACTIVE = "ACTIVE"
    COMMITTING = "COMMITTING"
    COMMITTED = "COMMITTED"
    ROLLING_BACK = "ROLLING_BACK"
    ROLLED_BACK = "ROLLED_BACK"
    #: Every hook was run, and one failed in all its tries.
    ROLLBACK_FAILED = "ROLLBACK_FAILED"


#: Decided for good: its steps stand, and a retry of the run need not do them again.
STANDING = frozenset({Durable.COMMITTING, Durable.COMMITTED})
#: Still owes hooks.
UNSETTLED = frozenset({Durable.COMMITTING, Durable.ROLLING_BACK})


class HookKind(enum.StrEnum):
    """When a hook of a transaction runs."""

    COMMIT = "commit"
    ROLLBACK = "rollback"


class HookState(enum.StrEnum):
    """Where a hook of a transaction stands."""

    PENDING = "PENDING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class End(enum.Enum):
    """What follows when a block ended well."""

    NOTHING = enum.auto()
    COMMIT = enum.auto()
    ROLL_BACK = enum.auto()


class Node(Protocol):
    """A transaction, as its tree sees it."""

    state: TransactionState
    commit_mode: CommitMode

    @property
    def parent(self) -> Node | None:
        """The block around it."""
        ...

    @property
    def children(self) -> Iterable[Node]:
        """The blocks inside it, in the order in which they were opened."""
        ...


N = TypeVar("N", bound=Node)

OVER = frozenset({TransactionState.COMMITTED, TransactionState.ROLLED_BACK})


def mode_of(given: CommitMode | None, parent: CommitMode | None) -> CommitMode:
    """The commit mode of a block: as it says, else as the one around it, else LAZY."""
    return given or parent or CommitMode.LAZY


def end_of(node: Node) -> End:
    """What follows when a block ended well.

    What is left of one that was rolled back meanwhile, because a block inside it failed, is rolled back too.
    """
    if node.state is TransactionState.COMMITTED:
        return End.NOTHING
    if node.state is TransactionState.ROLLED_BACK:
        return End.ROLL_BACK
    if node.commit_mode is CommitMode.EAGER:
        return End.COMMIT
    if node.parent is not None:
        return End.NOTHING
    return End.COMMIT if node.commit_mode is CommitMode.LAZY else End.ROLL_BACK


def root_of(node: N) -> N:
    """The outermost block around a node."""
    while node.parent is not None:
        node = node.parent  # type: ignore[assignment]  # a tree is of one type
    return node


def subtree(node: N) -> Iterator[N]:
    """A node and all below it, parents first, in the order of opening."""
    yield node
    for child in node.children:
        yield from subtree(child)  # type: ignore[misc]  # a tree is of one type


def committed_with(node: N) -> list[N]:
    """What a commit of a node commits: all below it that is not over."""
    return [each for each in subtree(node) if each.state not in OVER]


def rolled_back_with(node: N) -> list[N]:
    """What a failure of a node rolls back: the whole tree, but what was committed before."""
    return [each for each in subtree(root_of(node)) if each.state is not TransactionState.COMMITTED]
