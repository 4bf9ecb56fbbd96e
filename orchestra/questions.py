"""What a body asks of people, of other runs and of concurrency limits, as plain data.

The journal keeps it with the step that waits, so that whoever answers can be told what is wanted and whether an answer
fits, without the code of the flow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from orchestra import clock, serializers

#: Names that begin so are locks: limits of 1 without a row of their own.
LOCK = "cache:"
#: Longer waits, and those without an end, are kept as this: a hundred years, in seconds.
LONGEST_WAIT = 100 * 365.25 * 86400.0


def wait_seconds(timeout: float | timedelta | None) -> float:
    """How long to wait, in seconds; None: without an end."""
    return LONGEST_WAIT if timeout is None else min(max(clock.seconds(timeout), 0.0), LONGEST_WAIT)


@dataclass(frozen=True, slots=True)
class Question:
    """What a pause asks of a person. All of it is plain data."""

    #: The name that the body gave the pause.
    key: str | None = None
    #: JSON schema of the answer; None: it is only to be resumed.
    schema: dict[str, Any] | None = None
    description: str | None = None
    #: The answer is one value, which the schema has as its only field, `value`.
    wrapped: bool = False
    #: Why the answer before was refused.
    refused: str | None = None

    def encoded(self) -> bytes | None:
        """As the step keeps it; None where there is nothing to keep."""
        found = {name: value for name in self.__slots__ if (value := getattr(self, name)) not in (None, False)}
        return serializers.encode(found, what="what a pause asks for") if found else None

    @classmethod
    def decoded(cls, data: bytes | None) -> Question:
        """What a step kept."""
        return cls() if data is None else cls(**serializers.decode(data))


@dataclass(frozen=True, slots=True)
class Pause:
    """A flow's body that waits for a person."""

    question: Question
    #: Seconds until it is given up.
    timeout: float
    #: What people see meanwhile: `Paused` or `Suspended`.
    state_name: str = "Paused"
    #: Makes of the answer what the body gets. Raises InvalidRunInput; None: there is no answer.
    accept: Callable[[Any], Any] | None = None
    #: Whether another process can read what is made of the answer; else it makes it again.
    lasting: bool = True


@dataclass(frozen=True, slots=True)
class Receive:
    """A wait for a message of another run."""

    #: Seconds until it is given up.
    timeout: float
    #: Only messages with one of these key prefixes; None: any.
    prefixes: tuple[str, ...] | None = None
    #: Keys of messages that are not wanted.
    exclude: tuple[str, ...] = ()

    def encoded(self) -> bytes:
        """As the step keeps it, without the time."""
        prefixes = None if self.prefixes is None else list(self.prefixes)
        return serializers.encode([prefixes, list(self.exclude)], what="what a run waits to receive")

    @classmethod
    def decoded(cls, data: bytes) -> Receive:
        """What a step kept."""
        prefixes, exclude = serializers.decode(data)
        return cls(0.0, None if prefixes is None else tuple(prefixes), tuple(exclude))


@dataclass(frozen=True, slots=True)
class Slots:
    """Slots of concurrency limits that a block of code has while it runs."""

    names: tuple[str, ...]
    #: How many of each.
    occupy: int = 1
    #: Seconds until the wait for them is given up; at 0 nobody waits.
    timeout: float = LONGEST_WAIT
    #: For how long a process that is gone keeps them, in seconds.
    lease_seconds: float = 300.0
    #: A name without a limit is an error.
    strict: bool = False
    #: A block whose lease was lost ends with an error.
    must_hold: bool = False
    #: What people are told of the holder; JSON.
    label: str | None = None

    @property
    def named(self) -> str:
        """The limits, for people."""
        return ", ".join(repr(name) for name in self.names)


@dataclass(frozen=True, slots=True)
class Message:
    """Something that is sent to a flow run."""

    #: The id of the run that is to have it.
    receiver: str
    #: By which it is asked for.
    prefix: str
    key: str
    #: Encoded: `value`, `key` and `sender`.
    content: bytes
    #: The same for the same sending, however often it is tried.
    token: str | None = None
