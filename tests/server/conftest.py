"""A server over the database of the test's home, asked in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from orchestra.server import create_app
from tests.engine.conftest import driver, sqlite_database

__all__ = ["driver", "sqlite_database"]


@pytest.fixture
def web() -> Iterator[TestClient]:
    """A client of a server on loopback."""
    with TestClient(create_app(), base_url="http://127.0.0.1:4200") as client:
        yield client
