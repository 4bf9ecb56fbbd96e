"""The pytest plugin: fixtures for tests of your flows, used where a test asks for them by name and nowhere else.

Loaded by every run of pytest where orchestra is installed, so it imports nothing that a test has not asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestra import lazy


@pytest.fixture(scope="session")
def orchestra_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with orchestra's schema, made once in a session (of each worker, under pytest-xdist)."""
    made: Path = lazy.resolve("orchestra.testing.utilities:make_template")(tmp_path_factory.mktemp("orchestra"))
    return made


@pytest.fixture
def orchestra_db(orchestra_template: Path) -> Iterator[Any]:
    """A home and a database of the test's own, gone after it; gives a client (`SyncOrchestraClient`) to look at runs.

    Neither database nor broker of your settings is touched.
    """
    with lazy.resolve("orchestra.testing.utilities:orchestra_test_harness")(template=orchestra_template):
        yield lazy.resolve("orchestra.client.orchestration:get_client")(sync_client=True)
