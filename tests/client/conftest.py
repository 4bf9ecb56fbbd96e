"""What tests of the client share with those of the engine: a driver that carries messages."""

from __future__ import annotations

from tests.engine.conftest import driver, sqlite_database

__all__ = ["driver", "sqlite_database"]
