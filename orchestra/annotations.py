"""Wrappers around arguments that change how a task receives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Annotation(Generic[T]):
    """A wrapper around one value."""

    value: T

    def unwrap(self) -> T:
        """The value itself."""
        return self.value

    def rewrap(self, value: Any) -> Self:
        """The same wrapper around another value."""
        return type(self)(value)


@dataclass(frozen=True, slots=True)
class unmapped(Annotation[T]):
    """In `.map()`, hand the value whole to every call instead of taking it apart."""


@dataclass(frozen=True, slots=True)
class allow_failure(Annotation[T]):
    """Run the task even if this upstream failed; it then receives the exception as the value."""


@dataclass(frozen=True, slots=True)
class quote(Annotation[T]):
    """Hand the value on as it is, without looking for futures in it."""

    def unquote(self) -> T:
        """The value itself."""
        return self.value


@dataclass(frozen=True, slots=True)
class opaque(Annotation[T]):
    """Hand on the value of this future, and do not look into anything else: a large structure that holds no futures."""


@dataclass(frozen=True, slots=True)
class freeze(Annotation[T]):
    """A parameter of a deployment that nobody may change when a run is started."""

    def unfreeze(self) -> T:
        """The value itself."""
        return self.value


def unwrap(value: Any) -> Any:
    """The value inside one wrapper, or the value itself."""
    return value.value if isinstance(value, Annotation) else value
