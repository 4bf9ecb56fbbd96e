"""Sizes of memory as people write them: bytes, or a number with a unit."""

from __future__ import annotations

import re

from orchestra.errors import ConfigurationError

#: What `parse` takes as text.
PATTERN = r"^\s*\d+(\.\d+)?\s*([kKmMgGtT][iI]?[bB]?|[bB])?\s*$"
_PARTS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)(b?)\s*", re.IGNORECASE)


def parse(size: int | str) -> int:
    """Bytes. `kB MB GB TB` count in thousands; `KiB MiB GiB TiB`, and `k m g t` alone, as Docker reads them, in 1024s.

    Raises:
        ConfigurationError: It is no size; shows how one is written.
    """
    if isinstance(size, int):
        return size
    if not re.fullmatch(PATTERN, size) or (found := _PARTS.fullmatch(size)) is None:
        raise ConfigurationError(f"{size!r} is no size of memory: write bytes, or a number with a unit, as in 512MiB")
    number, letter, binary, byte = found.groups()
    base = 1000 if byte and not binary else 1024
    return int(float(number) * base ** " kmgt".index(letter.lower() or " "))


def words(count: float) -> str:
    """Bytes for people: `512 MiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
