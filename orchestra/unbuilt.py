"""Names of Prefect's whose place is decided and which are not built yet: asked for, they say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestra.errors import NotThereYet


def absent(module: str, what: str, names: str) -> Callable[[str], Any]:
    """A module's `__getattr__` that says of these names that they are not there yet.

    Args:
        module: Its `__name__`.
        what: What they belong to, as in "caching".
        names: Them, parted by spaces.
    """
    wanted = frozenset(names.split())

    def find(name: str) -> Any:
        if name in wanted:
            raise NotThereYet(module, name, what)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return find
