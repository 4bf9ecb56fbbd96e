"""Verbs that work in plain functions and in coroutines alike: there they block, here they are awaited."""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Done:
    """An awaitable that has nothing left to wait for."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


class Ready(Generic[T]):
    """An awaitable whose value is there."""

    def __init__(self, value: T) -> None:
        self._value = value

    def __await__(self) -> Generator[None, None, T]:
        yield from ()
        return self._value

    def __repr__(self) -> str:
        return f"<to be awaited: {self._value!r}>"


class ReadyText(str):
    """Text that may be awaited, and is that text then."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, str]:
        yield from ()
        return str(self)


def answer(value: Any) -> Any:
    """What a verb gives that plain functions call and coroutines await: the value, there to be awaited."""
    if not in_coroutine():
        return value
    return ReadyText(value) if isinstance(value, str) else Ready(value)


def in_coroutine() -> bool:
    """Whether an event loop runs in this thread."""
    # Without asyncio loaded none can run; nothing is loaded just to learn that.
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None
