"""What replay decides, as pure functions: which step a body asks for, and what the journal answers.

A flow body is run again from the top in each segment. Each branch of control numbers the steps it asks for; the same
code asks for the same steps, so that what was journaled can be handed back. Where it asks for others, replay stops.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from orchestra.errors import NonDeterministic

#: The branch of the body itself.
MAIN = "main"
#: Begins the name of a patch's row. Its white space keeps it apart from every step's.
_PATCH = "patched "


class Record(Protocol):
    """What replay needs to know of a journaled step."""

    @property
    def key(self) -> str:
        """Its step key."""
        ...

    @property
    def branch(self) -> str:
        """The branch that asked for it."""
        ...

    @property
    def position(self) -> int:
        """Its ordinal in that branch."""
        ...

    @property
    def recorded_attempt(self) -> int:
        """The run attempt in which it was recorded."""
        ...

    @property
    def fingerprint(self) -> str | None:
        """Digest of its inputs; None where they could not be encoded."""
        ...


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Asked:
    """A step that a body asks for."""

    key: str
    branch: str
    position: int


@dataclass(slots=True)
class Branch:
    """One line of control of a body, and the steps it has asked for so far."""

    id: str = MAIN
    position: int = 0
    children: int = 0
    #: Steps asked for so far, by name.
    counts: dict[str, int] = field(default_factory=dict)
    #: Calls so far that are not journaled, by name.
    uncounted: dict[str, int] = field(default_factory=dict)
    #: The branches of the body that were cancelled.
    cancelled: set[str] = field(default_factory=set)
    #: What was said of patches so far; a branch that begins later goes by it too.
    patches: dict[str, bool] = field(default_factory=dict)

    def ask(self, name: str) -> Asked:
        """The next step of this name."""
        asked = self.peek(name)
        self.counts[name] = self.counts.get(name, 0) + 1
        self.position += 1
        return asked

    def peek(self, name: str) -> Asked:
        """What `ask` would give."""
        return Asked(f"{self.id}/{name}-{self.counts.get(name, 0)}", self.id, self.position)

    def outside(self, name: str) -> Asked:
        """The next call of this name that takes no place in the journal; counted apart from those that do."""
        count = self.uncounted.get(name, 0)
        self.uncounted[name] = count + 1
        return Asked(f"{self.id}/{name}~{count}", self.id, self.position)

    def patch(self, name: str) -> Asked:
        """Where it is kept that this branch goes by a patch: beside its steps, among which it takes no place."""
        return Asked(f"{self.id}/{_PATCH}{name}", self.id, self.position)

    def child(self) -> Branch:
        """A branch that begins here; numbered by its parent, in the order of creation."""
        made = Branch(f"{self.id}.{self.children}", cancelled=self.cancelled, patches=dict(self.patches))
        self.children += 1
        return made


class Replay(Generic[R]):
    """The journal of one run attempt, as its body's calls are answered from it.

    Steps recorded in this attempt must be asked for again at the same positions. Steps that a retry has moved on from
    an earlier attempt answer by key, if their inputs are equal; their positions count until the first step that is
    run again.
    """

    def __init__(self, records: Iterable[R], run_attempt: int) -> None:
        self.run_attempt = run_attempt
        self._own: dict[tuple[str, int], R] = {}
        self._moved: dict[str, R] = {}
        self._moved_at: dict[tuple[str, int], R] = {}
        self._last: dict[str, int] = {}
        self._moved_last: dict[str, int] = {}
        self._patches: set[str] = set()
        self._asked: set[str] = set()
        #: A step of this attempt was run again, so that positions of moved steps no longer count.
        self._rerun = False
        for record in records:
            self._keep(record)

    def _keep(self, record: R) -> None:
        if record.key.removeprefix(f"{record.branch}/").startswith(_PATCH):
            self._patches.add(record.key)
            return
        place = (record.branch, record.position)
        if record.recorded_attempt == self.run_attempt:
            self._own[place] = record
            self._last[record.branch] = max(record.position, self._last.get(record.branch, -1))
        else:
            self._moved[record.key] = record
            self._moved_at[place] = record
            self._moved_last[record.branch] = max(record.position, self._moved_last.get(record.branch, -1))

    def answer(self, asked: Asked, fingerprint: str | None = None, *, afresh: bool = False) -> R | None:
        """The journaled step that `asked` is, or None where it is new.

        Args:
            fingerprint: Of the inputs it is asked with, where known.
            afresh: One of its inputs is the result of a step that is run again in this attempt, so that no step of an
                earlier attempt answers.

        Raises:
            NonDeterministic: The journal holds another step there, or a later one of the branch but not this.
        """
        place = (asked.branch, asked.position)
        own = self._own.get(place)
        if own is not None:
            if own.key != asked.key:
                raise NonDeterministic(asked.branch, asked.position, own.key, asked.key)
            self._asked.add(own.key)
            self._rerun = True
            return own
        moved = None if afresh else self._moved_answer(asked, fingerprint)
        if moved is not None:
            return moved
        if self._last.get(asked.branch, -1) > asked.position:
            raise NonDeterministic(asked.branch, asked.position, None, asked.key)
        self._rerun = True
        return None

    def holds(self, asked: Asked) -> bool:
        """Whether the journal has this very step, recorded in this attempt."""
        own = self._own.get((asked.branch, asked.position))
        return own is not None and own.key == asked.key

    def reaches(self, asked: Asked) -> bool:
        """Whether the journal has a step of this attempt at that place or a later one of the branch."""
        return self._last.get(asked.branch, -1) >= asked.position

    def patched(self, asked: Asked) -> bool | None:
        """Whether the run goes by a patch here; None where it has not come here yet, and so can.

        False where it has, in this attempt or an earlier one, by code that had no such patch. A patch that was
        recorded and is not asked for any more is nothing to the steps, so that one may be dropped from the code.
        """
        if asked.key in self._patches:
            return True
        last = max(self._last.get(asked.branch, -1), self._moved_last.get(asked.branch, -1))
        return False if last >= asked.position else None

    def _moved_answer(self, asked: Asked, fingerprint: str | None) -> R | None:
        if not self._rerun:
            there = self._moved_at.get((asked.branch, asked.position))
            if there is not None and there.key != asked.key:
                raise NonDeterministic(asked.branch, asked.position, there.key, asked.key)
        moved = self._moved.get(asked.key)
        if moved is None or fingerprint is None or moved.fingerprint in (None, fingerprint):
            return moved
        return None

    def check_ended(self, cancelled: Collection[str] = ()) -> None:
        """Check that a body which has ended asked for every step of its journal.

        Args:
            cancelled: Branches that need not have: where the journal answers at once, their cancellation comes early.

        Raises:
            NonDeterministic: Names the first that it did not ask for.
        """
        left = [
            record
            for record in self._own.values()
            if record.key not in self._asked and not _is_of(record.branch, cancelled)
        ]
        if left:
            first = min(left, key=lambda record: (record.branch, record.position))
            raise NonDeterministic(first.branch, first.position, first.key, None)


def _is_of(branch: str, ancestors: Collection[str]) -> bool:
    """Whether a branch is one of these, or began in one."""
    return any(branch == each or branch.startswith(each + ".") for each in ancestors)
