"""Whatever the tree of blocks, and whatever dies: what is undone and what is committed is what the rules say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from orchestra import flow, task
from orchestra.store.database import Database
from orchestra.transactions import CommitMode, Transaction, get_transaction, transaction
from tests.drive import Driver, Killed, emptied
from tests.engine.conftest import sqlite_database
from tests.exploring import tries

pytestmark = pytest.mark.slow

__all__ = ["sqlite_database"]

SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
EFFECTS: list[str] = []


class Failed(Exception):
    """What a program raises."""


@task
def do(what: str) -> None:
    """Can be undone."""
    EFFECTS.append(f"do {what}")
    own = get_transaction()
    assert own is not None
    own.set("what", what)


@do.on_rollback
def undo(txn: Transaction) -> None:
    """Undoes it."""
    EFFECTS.append(f"undo {txn.get('what')}")


@do.on_commit
def confirm(txn: Transaction) -> None:
    """Makes it final."""
    EFFECTS.append(f"confirm {txn.get('what')}")


# -- programs: ["do"], ["fail"], ["commit"], ["rollback"], ["block", mode, catches, [program, …]] --------------------

LEAVES = st.sampled_from([["do"], ["do"], ["do"], ["fail"], ["commit"], ["rollback"]])
MODES = st.sampled_from([None, "EAGER", "LAZY", "OFF"])


def _blocks(inner: st.SearchStrategy[list[Any]]) -> st.SearchStrategy[list[Any]]:
    return st.tuples(st.just("block"), MODES, st.booleans(), st.lists(inner, max_size=4)).map(list)


PROGRAMS = st.lists(_blocks(st.recursive(LEAVES, _blocks, max_leaves=8)), min_size=1, max_size=2)


def perform(program: list[Any], place: str = "") -> None:
    """Run a program, each task named by its place."""
    for number, step in enumerate(program):
        here = f"{place}{number}."
        if step[0] == "block":
            _perform_block(step, here)
        elif step[0] == "do":
            do(here)
        elif step[0] == "fail":
            raise Failed(here)
        else:
            txn = get_transaction()
            if txn is not None:
                txn.commit() if step[0] == "commit" else txn.rollback()


def _perform_block(step: list[Any], here: str) -> None:
    _, mode, catches, inner = step
    try:
        with transaction(commit_mode=None if mode is None else CommitMode(mode)):
            perform(inner, here)
    except Failed:
        if not catches:
            raise


@flow
def performing(program: list[Any]) -> str:
    """The same, as a flow."""
    try:
        perform(program)
    except Failed as error:
        return f"failed at {error}"
    return "ended"


# -- the rules, said a second time -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Node:
    """A block of the model."""

    mode: str
    parent: Node | None = None
    state: str = "active"
    is_left: bool = False
    children: list[Node] = field(default_factory=list)

    def tree(self) -> list[Node]:
        return [self, *(each for child in self.children for each in child.tree())]

    def root(self) -> Node:
        return self if self.parent is None else self.parent.root()


class Model:
    """What a program must do."""

    def __init__(self) -> None:
        self.effects: list[str] = []
        #: What was done in which block, oldest first, and owes a hook.
        self.owed: list[tuple[Node, str]] = []
        #: What was done outside of every block, and so committed by itself.
        self.alone: set[str] = set()

    def here(self, node: Node | None) -> Node | None:
        while node is not None and (node.state == "committed" or node.is_left):
            node = node.parent
        return node

    def perform(self, program: list[Any], place: str, around: Node | None) -> None:
        for number, step in enumerate(program):
            here, node = f"{place}{number}.", self.here(around)
            if step[0] == "block":
                self.block(step, here, node)
            elif step[0] == "do":
                self.effects.append(f"do {here}")
                if node is None:
                    self.effects.append(f"confirm {here}")
                    self.alone.add(here)
                else:
                    self.owed.append((node, here))
            elif step[0] == "fail":
                raise Failed(here)
            elif node is not None and step[0] == "commit" and node.state == "active":
                self.commit(node)
            elif node is not None and step[0] == "rollback":
                self.roll_back(node)

    def block(self, step: list[Any], here: str, parent: Node | None) -> None:
        _, mode, catches, inner = step
        node = Node(mode or (parent.mode if parent else "LAZY"), parent)
        if parent is not None:
            parent.children.append(node)
        try:
            self.perform(inner, here, node)
        except Failed:
            if node.state != "committed":
                self.roll_back(node)
            node.is_left = True
            if not catches:
                raise
            return
        node.is_left = True
        if node.state == "rolled back" or (node.state == "active" and node.mode == "OFF" and parent is None):
            self.roll_back(node)
        elif node.state == "active" and (node.mode == "EAGER" or parent is None):
            self.commit(node)

    def commit(self, node: Node) -> None:
        nodes = [each for each in node.tree() if each.state == "active"]
        for each in nodes:
            each.state = "committed"
        self.effects += [f"confirm {what}" for owner, what in self.owed if owner in nodes]
        self.owed = [(owner, what) for owner, what in self.owed if owner not in nodes]

    def roll_back(self, node: Node) -> None:
        nodes = [each for each in node.root().tree() if each.state != "committed"]
        for each in nodes:
            each.state = "rolled back"
        self.effects += [f"undo {what}" for owner, what in self.owed[::-1] if owner in nodes]
        self.owed = [(owner, what) for owner, what in self.owed if owner not in nodes]


def modelled(program: list[Any]) -> Model:
    """What a program does, hooks included."""
    model = Model()
    with contextlib.suppress(Failed):
        model.perform(program, "", None)
    return model


def may_be_repeated(model: Model, repeated: list[str]) -> bool:
    """Whether one process's death explains it: one body or hook, or a body with the hooks of its own commit."""
    if len(repeated) <= 1:
        return True
    return any(repeated == [f"do {what}", f"confirm {what}"] for what in model.alone)


# -- the properties --------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing was done yet."""
    EFFECTS.clear()
    yield
    EFFECTS.clear()


@given(PROGRAMS)
@settings(max_examples=tries(150), deadline=None, suppress_health_check=SUPPRESSED)
def test_a_script_does_what_the_rules_say(home: Path, program: list[Any]) -> None:
    """In memory."""
    EFFECTS.clear()
    with contextlib.suppress(Failed):
        perform(program)

    assert modelled(program).effects == EFFECTS


@given(PROGRAMS, st.integers(1, 25), st.booleans())
# Done behind a rollback: in the replay it is not undone there, but at the end of its block.
@example([["block", None, False, [["block", None, False, [["rollback"], ["do"], ["do"]]]]]], 5, False)
# Done behind a block that failed inside: likewise.
@example([["block", None, False, [["block", None, True, [["fail"]]], ["do"], ["do"]]]], 5, False)
# A task outside of every block is committed by itself, as the last part of it: both may be repeated.
@example([["block", None, False, [["commit"], ["do"]]]], 3, False)
@settings(max_examples=tries(60), deadline=None, suppress_health_check=SUPPRESSED)
def test_a_flow_does_so_whatever_dies(
    sqlite_database: Database, program: list[Any], write: int, after_commit: bool
) -> None:
    """On a worker that dies at any write; what was under way, and no more, may be called again."""
    EFFECTS.clear()
    driver = Driver(emptied(sqlite_database), slots=1)
    run_id = driver.submit(performing, program=program)
    driver.workers_database.kill_at(write, after_commit=after_commit)
    with contextlib.suppress(Killed):
        driver.settle()
    driver.lapse()
    driver.elapse(40)

    assert driver.finish(run_id, messages=300).is_completed()
    model = modelled(program)
    assert list(dict.fromkeys(EFFECTS)) == model.effects
    assert may_be_repeated(model, [what for n, what in enumerate(EFFECTS) if what in EFFECTS[:n]])
