"""A home and a database of their own for tests, with nothing of yours inside and nothing left behind."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from orchestra import settings
from orchestra.store import behind, database

__all__ = ["orchestra_test_harness", "prefect_test_harness"]

#: Name of the database's file in a home.
_FILE = "orchestra.db"


@contextmanager
def orchestra_test_harness(
    server_startup_timeout: int | None = None, *, template: Path | None = None
) -> Iterator[Path]:
    """Everything inside runs in a fresh home with a database of its own; gives the home, which is gone afterwards.

    Neither the database nor the broker, key or profile of your settings is used, also by processes that are started
    inside. Harnesses may stand inside each other.

    Args:
        server_startup_timeout: Has no meaning: there is no server to wait for. As Prefect's harness takes it.
        template: A database with orchestra's schema, as `make_template` makes it, to begin with; None: one that is
            made once in a process.
    """
    home = Path(tempfile.mkdtemp(prefix="orchestra-test-"))
    try:
        shutil.copyfile(template or _template(), home / _FILE)
        _close()
        with settings.elsewhere(home):
            try:
                yield home
            finally:
                _close()
    finally:
        shutil.rmtree(home)


#: Under the name that it has in Prefect.
prefect_test_harness = orchestra_test_harness


def make_template(folder: Path) -> Path:
    """A database file with orchestra's schema and nothing in it; copying it is quicker than making a schema."""
    path = folder / _FILE
    made = database.Database(f"sqlite:///{path}")
    database.create_schema(made)
    # The last connection that is closed brings all into the one file.
    made.close()
    return path


@lru_cache(maxsize=1)
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="orchestra-template-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return make_template(folder)


def _close() -> None:
    """Write what is written behind, and close the database: the next use opens that of the settings in force."""
    behind.reset()
    database.reset()
