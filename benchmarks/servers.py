"""Servers for one run of the benchmarks; they go with it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from tests import servers


@contextlib.contextmanager
def valkey(folder: Path) -> Iterator[str]:
    """A Valkey (or Redis) that keeps nothing on disk; gives its URL without a database number."""
    broker = servers.Broker(folder)
    broker.start()
    try:
        yield broker.url.rpartition("/")[0]
    finally:
        broker.stop()


@contextlib.contextmanager
def postgresql() -> Iterator[str | None]:
    """An empty PostgreSQL database; gives its SQLAlchemy URL, or None where there is no server to be had."""
    try:
        server = servers.postgres()
    except AssertionError as missing:
        print(f"PostgreSQL is left out: {missing}", file=sys.stderr)
        yield None
        return
    name = server.create()
    try:
        yield server.url(name)
    finally:
        server.drop(name)
        server.stop()
