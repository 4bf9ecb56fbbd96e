"""Engines, transactions and their repetition. No table's meaning is known here.

SQLite: WAL, `BEGIN IMMEDIATE` for writes (a deferred transaction that turns into a writer fails at once, whatever the
timeout), plain reads. PostgreSQL: READ COMMITTED, the server's clock. An engine belongs to the process that made it;
after a fork the child makes its own.
"""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa
import sqlalchemy.dialects.postgresql
import sqlalchemy.dialects.sqlite
from sqlalchemy.engine import Connection, Engine, RootTransaction, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles

from orchestra import clock, serializers, settings
from orchestra.errors import (
    ConfigurationError,
    DatabaseNeeded,
    DbTransactionError,
    SchemaMismatch,
    SearchTooLong,
    SecretKeyMismatch,
    StoreError,
    StoreUnavailable,
)
from orchestra.store import tables
from orchestra.store.prepared import Prepared
from orchestra.store.wake import Hint, WakeChannel, noted
from orchestra.store.wake_channels import Chosen

T = TypeVar("T")

logger = logging.getLogger("orchestra.store")

#: For how long a transaction is repeated while the database is away or locked, in seconds.
PATIENCE = 60.0
#: First and longest pause between two tries, in seconds.
_PAUSES = (0.02, 1.0)
#: For how long nothing is said about that, in seconds.
_QUIET = 2.0
#: SQLSTATEs after which the same transaction may be tried again: connection lost, server going down or starting,
#: idle for too long within a transaction, serialization failure, deadlock, lock not available, too many connections.
_TRANSIENT_STATES = ("08", "57P", "25P03", "40001", "40P01", "55P03", "53300")
_SQLITE_BUSY = (5, 6)
#: After so many steps of its machine SQLite looks whether a search takes too long.
_LOOKED_AT = 50_000
#: Version of the schema this code works with: the newest revision under `migrations/`.
SCHEMA_VERSION = "0025_every_state"

#: The threads of this process, by ident, that hold SQLite's write lock for a transaction of a user's code.
holding: dict[int, str] = {}
_SELF_LOCKED = (
    "inside db_transaction(), and until the task ends, this task holds the lock of SQLite that all writers need: a "
    "call of orchestra that writes would wait for itself. Make it before the block, or use PostgreSQL"
)

_version_table = sa.Table("alembic_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))


class Database:
    """One database, for one process. Safe to use from any thread."""

    def __init__(self, url: str, *, patience: float = PATIENCE) -> None:
        """Prepare for `url`; connects at first use.

        Args:
            url: SQLAlchemy URL, SQLite or PostgreSQL.
            patience: For how many seconds a transaction is repeated while the database does not answer.

        Raises:
            ConfigurationError: Neither SQLite nor PostgreSQL.
        """
        self.url = url
        self.patience = patience
        self._engine = _engine(url)
        # Views of the same connections: how a transaction begins, or that there is none.
        self._durable = self._engine.execution_options(begin="durable")
        self._relaxed = self._engine.execution_options(begin="relaxed")
        self._reader = self._engine.execution_options(begin=None)
        self.dialect = self._engine.dialect.name
        #: For transactions that users' code takes part in; made when the first of them begins.
        self._joint: Engine | None = None
        #: Hints to and from others that use this database.
        self.wake = WakeChannel(Chosen(self._reader))
        #: What prepared statements raise, without Core around it.
        self.driver_error: type[Exception] = self._engine.dialect.loaded_dbapi.Error

    def write(self, work: Callable[[Connection], T], *, durable: bool = False, relaxed: bool = False) -> T:
        """Run `work` in one transaction and commit it.

        `work` is repeated as a whole when the database was locked or away, also when the answer to COMMIT was lost:
        it must recognise what an earlier try of it has committed.

        Args:
            work: Gets the connection; must not catch database errors.
            durable: On SQLite, survive a power loss too (synchronous FULL), not only the death of processes.
            relaxed: On PostgreSQL, do not wait for the disk: a crash of the server may undo this transaction. It is
                never undone where a later one is kept that is not relaxed.

        Raises:
            StoreUnavailable: No success within `patience`; the outcome is unknown.
            StoreError: The database refused, for good.
        """
        return self._repeat(lambda: self._transaction(work, durable, relaxed))

    def write_alone(self, work: Callable[[Connection], T]) -> T:
        """Run `work`, whose only write is one statement, which is a transaction of its own.

        On PostgreSQL that is one round trip in the place of three; it is durable unless the statement is `unwaited`.
        As for the rest, see `write`.
        """
        if self.dialect == "sqlite":
            return self.write(work)

        def run() -> T:
            with self._reader.connect() as connection:
                done = work(connection)
                hints = noted(connection)
            self._tell(hints)
            return done

        return self._repeat(run)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` outside of a transaction: each statement sees what was committed before it.

        Raises:
            StoreUnavailable: No answer within `patience`.
        """

        def run() -> T:
            with self._reader.connect() as connection:
                return work(connection)

        return self._repeat(run)

    def search(self, work: Callable[[Connection], T], *, seconds: float) -> T:
        """Run `work` as `read` does, and break it off when it takes too long: nobody knows what people search for.

        Args:
            work: Gets the connection.
            seconds: How long it may take; on PostgreSQL, each of its statements.

        Raises:
            SearchTooLong: It would have taken longer.
            StoreUnavailable: No answer within `patience`.
        """

        def run() -> T:
            with self._reader.connect() as connection, _broken_off_after(connection, seconds):
                return work(connection)

        return self._repeat(run)

    def begin(self) -> tuple[Connection, RootTransaction]:
        """Begin a transaction that the caller ends, on a connection that no other kind of transaction uses.

        Raises:
            StoreUnavailable: No answer, or no lock, within `patience`.
        """
        engine = self._joint = self._joint or _engine(self.url)

        def run() -> tuple[Connection, RootTransaction]:
            connection = engine.connect()
            try:
                return connection, connection.begin()
            except BaseException:
                connection.close()
                raise

        return self._repeat(run)

    def now(self) -> float:
        """The clock by which leases and due times are compared, in seconds since the epoch."""
        if self.dialect == "sqlite":
            return clock.now()
        return self.read(instant)

    def close(self) -> None:
        """Close all connections; the next use opens new ones."""
        self.wake.close()
        self._engine.dispose()
        if self._joint is not None:
            self._joint.dispose()

    def abandon(self) -> None:
        """Forget connections that belong to the parent process, without closing them."""
        self.wake.forget()
        self._engine.dispose(close=False)
        if self._joint is not None:
            self._joint.dispose(close=False)

    def _transaction(self, work: Callable[[Connection], T], durable: bool, relaxed: bool) -> T:
        engine = self._durable if durable else self._relaxed if relaxed else self._engine
        with engine.begin() as connection:
            done = work(connection)
            hints = noted(connection)
        self._tell(hints)
        return done

    def _tell(self, hints: set[Hint]) -> None:
        if hints:
            # A crash before costs those who wait the pause until they look by themselves.
            self.wake.tell(hints)

    def _repeat(self, run: Callable[[], T]) -> T:
        end = clock.monotonic() + self.patience
        quiet_until = min(clock.monotonic() + _QUIET, end)
        pause = _PAUSES[0]
        while True:
            try:
                return run()
            except (DBAPIError, PoolTimeout, self.driver_error) as error:
                cause = getattr(error, "orig", error)
                if not is_transient(error):
                    raise StoreError(f"the database refused: {cause}") from error
                if clock.monotonic() > end:
                    raise StoreUnavailable(
                        f"the database did not answer for {self.patience:g} s ({cause}); run `orchestra doctor`"
                    ) from error
                if clock.monotonic() > quiet_until:
                    logger.warning("the database does not answer; trying for %g s: %s", self.patience, cause)
                    quiet_until = end
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, _PAUSES[1])


class now(sa.sql.functions.FunctionElement[float]):
    """SQL for the present instant: the server's clock on PostgreSQL, this host's on SQLite."""

    type = sa.Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **options: Any) -> str:
    return "orchestra_now()"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: Any, **options: Any) -> str:
    return "CAST(extract(epoch from clock_timestamp()) AS double precision)"


def unwaited(statement: Any) -> Prepared:
    """Prepare a statement that returns rows, whose own commit on PostgreSQL does not wait for the disk.

    The setting is made where a row is returned, so just where one is written, and ends with the transaction.
    """
    forms = {"sqlite": statement, "postgresql": statement.returning(_UNWAITED)}
    return Prepared(forms.__getitem__)


_UNWAITED = sa.func.set_config("synchronous_commit", "off", True).label("unwaited")


def instant(connection: Connection) -> float:
    """The present instant of the database's clock, in seconds since the epoch."""
    if connection.dialect.name == "sqlite":
        return clock.now()
    return float(connection.execute(_SELECT_NOW).scalar_one())


_SELECT_NOW = sa.select(now())


def is_transient(error: Exception) -> bool:
    """Whether the same transaction may succeed when tried again. Takes Core's errors and the drivers' own."""
    # All of this process's connections are in use: one may be given back.
    if isinstance(error, PoolTimeout) or getattr(error, "connection_invalidated", False):
        return True
    cause = getattr(error, "orig", None) or error
    state: str | None = getattr(cause, "sqlstate", None)
    if state:
        return state.startswith(_TRANSIENT_STATES)
    code: int | None = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _SQLITE_BUSY
    # psycopg gives no SQLSTATE where the connection was refused or broke.
    return type(cause).__name__ == "OperationalError"


@contextmanager
def _broken_off_after(connection: Connection, seconds: float) -> Iterator[None]:
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        end = clock.monotonic() + seconds
        driver.set_progress_handler(lambda: clock.monotonic() > end, _LOOKED_AT)
    else:
        driver.execute(f"SET statement_timeout = {math.ceil(seconds * 1000)}")
    try:
        yield
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == "57014" or getattr(error.orig, "sqlite_errorcode", None) == 9:
            raise SearchTooLong(seconds) from error
        raise
    finally:
        if connection.dialect.name == "sqlite":
            driver.set_progress_handler(None, 0)
        elif not driver.closed:
            driver.execute("RESET statement_timeout")


# -- engines -----------------------------------------------------------------------------------------------------


#: SQL that begins a transaction on PostgreSQL, in one round trip.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_BEGIN_RELAXED = f"{_BEGIN}; SET LOCAL synchronous_commit TO off"


def _engine(url: str) -> Engine:
    """An engine whose transactions begin as the execution option `begin` says: durable, relaxed, or None: not at all.

    The drivers are in autocommit mode, and the BEGIN is our own, instead of the one that they would guess.
    """
    name = make_url(url).get_backend_name()
    if name == "sqlite":
        return _sqlite_engine(url)
    if name == "postgresql":
        return _postgresql_engine(url)
    raise ConfigurationError(f"ORCHESTRA_DATABASE_URL={url!r}: only SQLite and PostgreSQL are supported")


def _sqlite_engine(url: str) -> Engine:
    busy_ms = int(min(settings.current().lease_seconds / 4, 5) * 1000)
    # Every use begins and ends its transaction itself, so that there is nothing to reset between two.
    engine = sa.create_engine(
        url, pool_size=5, max_overflow=50, pool_reset_on_return=None, connect_args={"check_same_thread": False}
    )

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        # SQLite's own clock stops at milliseconds: a row made due by this process's clock would not be due yet.
        connection.create_function("orchestra_now", 0, clock.now)
        connection.execute(f"PRAGMA busy_timeout={busy_ms}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        kind = connection.get_execution_options().get("begin", "")
        if kind is None:
            return
        if holding and threading.get_ident() in holding:
            raise DbTransactionError(_SELF_LOCKED)
        level = "FULL" if kind == "durable" else "NORMAL"
        driver: Any = connection.connection.driver_connection
        if connection.info.get("synchronous", "NORMAL") != level:
            driver.execute(f"PRAGMA synchronous={level}")
            connection.info["synchronous"] = level
        driver.execute("BEGIN IMMEDIATE")

    return engine


def _postgresql_engine(url: str) -> Engine:
    target = make_url(url)
    if target.drivername == "postgresql":
        target = target.set(drivername="postgresql+psycopg")
    engine = sa.create_engine(
        target, pool_size=5, max_overflow=50, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 10}
    )
    # A process that is stopped or cut off within a transaction would hold its row locks for ever, and all others up.
    idle_ms = int(max(settings.current().lease_seconds / 3, 1) * 1000)

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        connection.execute(f"SET idle_in_transaction_session_timeout = {idle_ms}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        kind = connection.get_execution_options().get("begin", "")
        if kind is None:
            return
        driver: Any = connection.connection.driver_connection
        driver.execute(_BEGIN_RELAXED if kind == "relaxed" else _BEGIN, prepare=False)

    return engine


# -- schema ------------------------------------------------------------------------------------------------------


def schema_version(database: Database) -> str | None:
    """The revision of the database's schema; None where it is empty."""

    def look(connection: Connection) -> str | None:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return connection.scalar(sa.select(_version_table.c.version_num))

    return database.read(look)


def create_schema(database: Database) -> None:
    """Create all tables in an empty database; does nothing where they are there. Safe to repeat and to race."""

    def create(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            # Two processes that open an empty database at once: the second waits, then finds it done.
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(7022071)"))
        if sa.inspect(connection).has_table("alembic_version") and connection.scalar(sa.select(_version_table)):
            return
        tables.metadata.create_all(connection)
        _version_table.create(connection, checkfirst=True)
        connection.execute(_version_table.insert().values(version_num=SCHEMA_VERSION))

    database.write(create)


def check_schema(database: Database) -> None:
    """Create the schema of an empty database, and refuse one of another version.

    Raises:
        SchemaMismatch: Older or newer than this code; says what to run.
    """
    version = schema_version(database)
    if version is None:
        create_schema(database)
        version = schema_version(database)
    if version == SCHEMA_VERSION:
        return
    older = (version or "") < SCHEMA_VERSION
    raise SchemaMismatch(
        f"the database's schema is {version}, this orchestra works with {SCHEMA_VERSION}: "
        + ("run `orchestra db upgrade`" if older else "install the newer orchestra that made it")
    )


def check_key(database: Database) -> None:
    """Refuse to go on with another signing key than the database was first used with.

    Raises:
        SecretKeyMismatch: Says which setting to mend.
    """
    ours = serializers.key_fingerprint()
    column = tables.installation.c
    query = sa.select(column.value).where(column.key == "key_fingerprint")
    kept = database.read(lambda connection: connection.scalar(query))
    if kept is None:
        database.write(lambda connection: _keep_fingerprint(connection, ours))
        kept = database.read(lambda connection: connection.scalar(query))
    if kept != ours:
        raise SecretKeyMismatch(
            f"this process signs with key {ours}, the database was written with key {kept}: set "
            "ORCHESTRA_SECRET_KEY to the key of the other processes, or share their ORCHESTRA_HOME/secret.key"
        )


def _keep_fingerprint(connection: Connection, fingerprint: str) -> None:
    statement = insert(connection, tables.installation).values(key="key_fingerprint", value=fingerprint)
    connection.execute(statement.on_conflict_do_nothing())


def insert(connection: Connection, table: sa.Table) -> Any:
    """The dialect's INSERT, which knows ON CONFLICT."""
    return insert_for(connection.dialect.name, table)


def insert_for(dialect: str, table: sa.Table) -> Any:
    """As `insert`, by the dialect's name."""
    if dialect == "sqlite":
        return sa.dialects.sqlite.insert(table)
    return sa.dialects.postgresql.insert(table)


# -- the database of this process --------------------------------------------------------------------------------

_lock = threading.RLock()
_current: tuple[int, Database] | None = None


def database() -> Database:
    """The database of this process, by the settings; opened, and its schema checked, at first use.

    Raises:
        DatabaseNeeded: ORCHESTRA_API_URL says that another one is meant, which this process does not know.
        SchemaMismatch: Its schema is of another version.
        SecretKeyMismatch: It was written under another signing key.
        StoreUnavailable: It does not answer.
    """
    global _current
    held = _current
    if held is not None and held[0] == os.getpid():
        return held[1]
    with _lock:
        if _current is None or _current[0] != os.getpid():
            opened = Database(_url())
            try:
                check_schema(opened)
                check_key(opened)
            except BaseException:
                opened.close()
                raise
            _current = (os.getpid(), opened)
        return _current[1]


def _url() -> str:
    if settings.asks_api_only():
        # The home's own database is another one than the server's.
        raise DatabaseNeeded(settings.current().api_url)
    return settings.current().resolved_database_url


def reset() -> None:
    """Close this process's database and forget it, so that the next use reads the settings again."""
    global _current
    with _lock:
        if _current is not None and _current[0] == os.getpid():
            _current[1].close()
        _current = None


def _after_fork() -> None:
    global _current, _lock
    _lock = threading.RLock()
    if _current is not None:
        _current[1].abandon()
        _current = None


os.register_at_fork(after_in_child=_after_fork)
