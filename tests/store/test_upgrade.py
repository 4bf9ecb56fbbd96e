"""Revisions of the schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from orchestra.errors import SchemaMismatch
from orchestra.store import database as databases
from orchestra.store import upgrade
from orchestra.store.database import SCHEMA_VERSION, Database
from orchestra.store.tables import flow_runs, metadata
from tests import servers


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without any table."""
    if request.param == "sqlite":
        yield Database(f"sqlite:///{tmp_path / 'empty.db'}")
        return
    server: servers.Postgres = request.getfixturevalue("postgres")
    name = server.create()
    database = Database(server.url(name))
    yield database
    database.close()
    server.drop(name)


def set_version(db: Database, version: str) -> None:
    """Say that the schema is of that revision."""
    db.write(lambda conn: conn.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{version}'"))


def test_the_revisions_make_the_schema_that_the_code_creates(empty: Database) -> None:
    """Nothing differs between an upgraded database and a fresh one, and the newest revision is the code's."""

    def differences(conn: Connection) -> object:
        return compare_metadata(MigrationContext.configure(conn), metadata)

    empty.write(upgrade.run_revisions)
    assert empty.read(differences) == []
    assert databases.schema_version(empty) == SCHEMA_VERSION
    config = Config()
    config.set_main_option("script_location", "orchestra.store:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA_VERSION


def test_upgrade_creates_an_empty_database_and_then_changes_nothing(empty: Database) -> None:
    """It may be repeated."""
    for _ in range(2):
        upgrade.upgrade(empty)
        assert databases.schema_version(empty) == SCHEMA_VERSION


def test_a_newer_database_is_refused(empty: Database) -> None:
    """By `db upgrade`, and by everything that opens it."""
    upgrade.upgrade(empty)
    set_version(empty, "9999")
    with pytest.raises(SchemaMismatch, match="newer"):
        upgrade.upgrade(empty)
    with pytest.raises(SchemaMismatch, match="newer"):
        databases.check_schema(empty)


def test_reset_leaves_an_empty_schema(empty: Database) -> None:
    """All rows are gone, the tables are there."""
    upgrade.upgrade(empty)
    upgrade.reset(empty)
    assert databases.schema_version(empty) == SCHEMA_VERSION
    assert empty.read(lambda conn: conn.scalar(sa.select(sa.func.count()).select_from(flow_runs))) == 0
