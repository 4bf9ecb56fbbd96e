"""Bringing a database to this code's schema, and emptying one; only `orchestra db` does so, never a worker."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from orchestra.errors import SchemaMismatch
from orchestra.store.database import SCHEMA_VERSION, Database, create_schema, schema_version
from orchestra.store.tables import metadata


def upgrade(database: Database) -> None:
    """Create the schema of an empty database, or run the revisions that an older one lacks, in one transaction.

    Safe to repeat. Workers should be stopped: one of another version refuses to start.

    Raises:
        SchemaMismatch: The database is newer than this code, or of a version that it does not know.
    """
    version = schema_version(database)
    if version is None:
        create_schema(database)
    elif version > SCHEMA_VERSION:
        raise SchemaMismatch(
            f"the database's schema is {version}, newer than {SCHEMA_VERSION}: install the newer orchestra that made it"
        )
    elif version < SCHEMA_VERSION:
        database.write(run_revisions)


def run_revisions(connection: Connection, until: str = "head") -> None:
    """Run all revisions that the database lacks, up to and with `until`, within the caller's transaction."""
    config = Config()
    config.set_main_option("script_location", "orchestra.store:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, until)
    except CommandError as error:
        raise SchemaMismatch(
            f"the database's schema cannot be brought to {SCHEMA_VERSION} ({error}): use the orchestra that made it, "
            "or empty it by `orchestra db reset`, which deletes all runs"
        ) from error


def reset(database: Database) -> None:
    """Drop our tables with all that is in them, and create them anew. A crash leaves them dropped or whole."""

    def drop(connection: Connection) -> None:
        metadata.drop_all(connection)
        connection.exec_driver_sql("DROP TABLE IF EXISTS alembic_version")

    database.write(drop)
    create_schema(database)
