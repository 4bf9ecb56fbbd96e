"""Wrappers around arguments that change how a task receives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class unmapped(Generic[T]):
    """In `.map()`, hand the value whole to every call instead of taking it apart."""

    value: T


@dataclass(frozen=True, slots=True)
class allow_failure(Generic[T]):
    """Run the task even if this upstream failed; it then receives the exception as the value."""

    value: T


@dataclass(frozen=True, slots=True)
class quote(Generic[T]):
    """Hand the value on as it is, without looking for futures in it."""

    value: T

    def unquote(self) -> T:
        """The value itself."""
        return self.value


def unwrap(value: Any) -> Any:
    """The value inside one wrapper, or the value itself."""
    return value.value if isinstance(value, (unmapped, allow_failure, quote)) else value
