"""One transaction for two: the statements of a user's code, and the write that records the end of its step.

It has a connection of its own, from a pool that only such transactions use: what a user sets on it reaches nobody else.
SQLite lets one transaction write at a time, so there it may be open for a third of the lease only: nobody's lease can
be renewed meanwhile.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from orchestra import settings
from orchestra.errors import DbTransactionError, DbTransactionTimeout, StoreUnavailable
from orchestra.failpoints import failpoint
from orchestra.store.database import Database, holding, instant, is_transient
from orchestra.store.wake import noted

T = TypeVar("T")

#: SQLSTATE of a transaction that PostgreSQL ended because it stood still for too long.
_IDLE_TIMEOUT = "25P03"


class Joint:
    """A transaction that stays open while a user's code runs. One thread uses it; any may roll it back."""

    def __init__(self, database: Database) -> None:
        """Begin, on SQLite by taking the write lock, which is waited for as by every write.

        Raises:
            StoreUnavailable: The database does not answer, or is locked all the time.
        """
        self.bound = settings.current().lease_seconds / 3
        #: Written together with the end of the step, and what is done where none of it was committed.
        self.effects: list[Callable[[Connection, float], None]] = []
        self.when_undone: list[Callable[[], object]] = []
        #: Whether it was rolled back because it was open for too long.
        self.expired = False
        self._database = database
        self._ended = False
        self._lock = threading.Lock()
        self._thread = threading.get_ident()
        self._timer: threading.Timer | None = None
        self.connection, self._transaction = database.begin()
        if database.dialect == "sqlite":
            holding[self._thread] = "db_transaction()"
            self._timer = threading.Timer(self.bound, self._expire)
            self._timer.daemon = True
            self._timer.start()

    def write(self, work: Callable[[Connection], T], is_there: Callable[[Connection], bool] | None) -> T:
        """Run `work` at the end of the transaction, and commit it. It is never repeated: the user's part cannot be.

        Args:
            work: Records the end of the step; what it raises rolls back everything.
            is_there: Asked when the answer to COMMIT was lost: whether it was committed all the same. It must lock the
                row by which it knows. None: nobody can know.

        Raises:
            DbTransactionTimeout: It was open for too long, and is rolled back.
            DbTransactionError: The database refused; it is rolled back.
            StoreUnavailable: The connection broke, and nothing was committed.
        """
        try:
            done = self._write(work, is_there)
        except BaseException:
            self._undone()
            raise
        failpoint("after_joint_commit")
        return done

    def _write(self, work: Callable[[Connection], T], is_there: Callable[[Connection], bool] | None) -> T:
        self._seal()
        try:
            done = work(self.connection)
            for effect in self.effects:
                effect(self.connection, instant(self.connection))
            failpoint("before_joint_commit")
            hints = noted(self.connection)
            self._transaction.commit()
        except (DBAPIError, self._database.driver_error) as error:
            self._let_go(discard=True)
            self._judge(error, is_there)
        except BaseException:
            self._let_go()
            raise
        else:
            self._let_go()
            self._database.wake.tell(hints)
        return done

    def roll_back(self, *, in_use: bool = False) -> None:
        """Undo everything; does nothing where it has ended.

        Args:
            in_use: A thread that cannot be stopped may still be using it.
        """
        with self._lock:
            if self._ended and not self.expired:
                return
            self._ended = True
        if in_use:
            self._tear()
        self._let_go(discard=in_use or self.expired, close=not in_use)
        self._undone()

    def timeout(self) -> DbTransactionTimeout:
        """The error of one that was open for too long."""
        return DbTransactionTimeout(self.bound)

    def is_timeout(self, error: BaseException) -> bool:
        """Whether an error of a statement says that this was open, or stood still, for too long."""
        return self.expired or getattr(getattr(error, "orig", error), "sqlstate", None) == _IDLE_TIMEOUT

    def _undone(self) -> None:
        undone, self.when_undone = self.when_undone, []
        for undo in undone:
            undo()

    def _seal(self) -> None:
        """From here on it does not expire."""
        with self._lock:
            expired, self._ended = self.expired, True
        if expired:
            self._let_go(discard=True)
            raise self.timeout()

    def _expire(self) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = self.expired = True
        self._tear()

    def _tear(self) -> None:
        """Roll back under a thread that may be in the midst of a statement, and have all later ones refused.

        Without that SQLite would commit each of them by itself.
        """
        driver: Any = self.connection.connection.driver_connection
        if self._database.dialect != "sqlite":
            driver.cancel()
            driver.close()
            return
        driver.interrupt()
        driver.set_authorizer(_refuse_all_but_rollback)
        while driver.in_transaction:
            driver.interrupt()
            with contextlib.suppress(sqlite3.OperationalError):
                driver.rollback()
        holding.pop(self._thread, None)

    def _let_go(self, *, discard: bool = False, close: bool = True) -> None:
        """Give the connection back, rolling back what was not committed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        try:
            if not discard:
                self._transaction.close()
        except DBAPIError:
            discard = True
        finally:
            holding.pop(self._thread, None)
            if discard and close:
                self.connection.invalidate()
            if close:
                self.connection.close()
            else:
                # Closed by whoever uses it last; the pool must not hand it out again.
                self.connection.detach()

    def _judge(self, error: Exception, is_there: Callable[[Connection], bool] | None) -> None:
        """Return where a transaction that failed was committed after all.

        Raises:
            DbTransactionError: It was not; `DbTransactionTimeout` where it stood still for too long.
            StoreUnavailable: It was not, and would be if it were run again.
        """
        cause = getattr(error, "orig", error)
        if self.is_timeout(error):
            raise self.timeout() from error
        if not is_transient(error):
            raise DbTransactionError(f"the database refused what db_transaction() was to commit: {cause}") from error
        if is_there is None:
            raise StoreUnavailable(
                f"the connection broke while db_transaction() was committed, outside of any flow run: whether it was, "
                f"is not known ({cause})"
            ) from error
        if not self._database.write(is_there):
            raise StoreUnavailable(f"the connection broke before db_transaction() was committed ({cause})") from error


def _refuse_all_but_rollback(action: int, first: str | None, *_: object) -> int:
    """An authorizer of SQLite's, asked as each statement is prepared; those prepared before are prepared again."""
    is_rollback = action == sqlite3.SQLITE_TRANSACTION and first == "ROLLBACK"
    return sqlite3.SQLITE_OK if is_rollback else sqlite3.SQLITE_DENY
