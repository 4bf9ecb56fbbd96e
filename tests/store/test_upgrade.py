"""Revisions of the schema."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

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


def scripts() -> ScriptDirectory:
    """The revisions."""
    config = Config()
    config.set_main_option("script_location", "orchestra.store:migrations")
    return ScriptDirectory.from_config(config)


def shape(conn: Connection) -> dict[str, Any]:
    """All that a database says of our tables; Alembic compares neither defaults nor conditions of indexes."""
    inspector = sa.inspect(conn)

    def named(found: Iterable[Any]) -> dict[str, str]:
        return {each["name"]: str(sorted(each.items(), key=str)) for each in found}

    return {
        table: {
            "columns": named(inspector.get_columns(table)),
            "key": str(inspector.get_pk_constraint(table)),
            "unique": named(inspector.get_unique_constraints(table)),
            "foreign": named(inspector.get_foreign_keys(table)),
            "indexes": {
                each["name"]: [
                    each["column_names"],
                    each["unique"],
                    {k: str(v) for k, v in each["dialect_options"].items()},
                ]
                for each in inspector.get_indexes(table)
            },
        }
        for table in metadata.tables
    }


def test_the_revisions_make_the_schema_that_the_code_creates(empty: Database) -> None:
    """Run one by one; nothing differs from a fresh database, and the newest revision is the code's."""

    def differences(conn: Connection) -> object:
        return compare_metadata(MigrationContext.configure(conn), metadata)

    for revision in reversed([each.revision for each in scripts().walk_revisions()]):
        empty.write(lambda conn, revision=revision: upgrade.run_revisions(conn, revision))
        assert databases.schema_version(empty) == revision
    upgraded = empty.read(shape)

    assert empty.read(differences) == []
    assert databases.schema_version(empty) == scripts().get_current_head() == SCHEMA_VERSION
    upgrade.reset(empty)
    assert empty.read(shape) == upgraded


def test_the_schema_of_a_release_comes_from_its_revisions_alone() -> None:
    """They take nothing from the code, which changes: a database of that release is upgraded from what it has."""
    for script in scripts().walk_revisions():
        if script.revision <= "0005_pass_ons":
            tree = ast.parse(Path(script.path).read_text())
            taken = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert taken <= {"__future__", "alembic", "orchestra.store.migrations.changes"}, script.revision


def test_a_database_of_the_first_release_keeps_its_rows(empty: Database) -> None:
    """What is added later has a value in old rows too."""
    row = {"id": "1", "name": "a", "flow_name": "f", "path": "m:f", "runner": "local", "root_run_id": "1"}
    row |= {"phase": "DONE", "state_type": "COMPLETED", "state_name": "Completed", "created_at": 1.0}
    columns, values = ", ".join(row), ", ".join(f":{name}" for name in row)

    empty.write(lambda conn: upgrade.run_revisions(conn, "0001"))
    empty.write(lambda conn: conn.execute(sa.text(f"INSERT INTO flow_runs ({columns}) VALUES ({values})"), row))
    upgrade.upgrade(empty)

    kept = empty.read(lambda conn: conn.execute(sa.select(flow_runs)).mappings().one())
    assert row.items() <= dict(kept).items()
    assert (kept["passes_on"], kept["has_hooks"], kept["tags"]) == (False, None, "[]")


@pytest.mark.parametrize("is_old", [False, True], ids=["fresh", "upgraded"])
def test_ids_that_are_counted_up_outgrow_32_bits(empty: Database, is_old: bool) -> None:
    """Also in a database made when they could not; what it has is kept."""
    last = 2**31 - 1
    counted = [table for table in metadata.sorted_tables if table.autoincrement_column is not None]
    run = {"name": "a", "flow_name": "f", "path": "m:f", "runner": "local", "root_run_id": "x"}
    run |= {"id": "x", "phase": "DONE", "state_type": "COMPLETED", "state_name": "Completed", "created_at": 1.0}

    def add(conn: Connection, table: sa.Table, word: str, **values: int) -> int:
        required = [column for column in table.c if not column.nullable and not column.primary_key]
        value = {str: word, bytes: b"", int: 1, float: 1.0}
        row: dict[str, Any] = {each.name: value[each.type.python_type] for each in required}
        if "run_id" in row:
            row["run_id"] = "x"
        return int(conn.execute(table.insert().values(row | values).returning(table.c.id)).scalar_one())

    def count_up(conn: Connection) -> None:
        conn.execute(flow_runs.insert().values(run))
        for table in counted:
            add(conn, table, "old", id=last)
            if conn.dialect.name == "postgresql":
                conn.execute(sa.text(f"SELECT setval('{table.name}_id_seq', {last})"))

    empty.write(lambda conn: upgrade.run_revisions(conn, "0023_lines_of_tasks" if is_old else "head"))
    empty.write(count_up)
    upgrade.upgrade(empty)

    added = empty.write(lambda conn: {table.name: add(conn, table, "new") for table in counted})
    assert set(added) == {"flow_run_inputs", "logs", "slots", "states"}
    assert set(added.values()) == {last + 1}


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
