"""Writing behind: rows that are merely nice to see are queued here and written by one thread, in batches.

`add` never waits for the database. While that is away the rows wait in memory, up to a bound; beyond it they are
dropped, and counted in a visible log line. A row that the database refuses never costs its neighbours.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock
from orchestra.errors import ConfigurationError, SchemaMismatch, StoreUnavailable
from orchestra.store import database, tables
from orchestra.store.database import Database
from orchestra.store.wake import EVENT, RUN, STEP, Hint, note

logger = logging.getLogger("orchestra.store")

#: Longest time a row waits for company, in seconds.
INTERVAL = 0.25
#: Most rows of one transaction.
BATCH_ROWS = 500
#: Bounds of the queue: rows, and characters in them.
MAX_ROWS = 60_000
MAX_SIZE = 64 * 1024 * 1024
#: Pause before a database that is away is tried again, in seconds.
RETRY_PAUSE = 1.0
#: For how long a process that ends waits for its last rows, in seconds.
EXIT_PATIENCE = 5.0
#: For how long a fork waits for a write under way, in seconds.
_FORK_PATIENCE = 0.2

Row = dict[str, Any]


@dataclass(slots=True, eq=False)
class _Item:
    table: sa.Table
    row: Row
    size: int
    #: Says how many lines were dropped, so it is not itself counted when it is refused.
    is_mark: bool = False
    #: What follows from the row, in the same transaction.
    then: Callable[[Connection], object] | None = None


class _GivenUp(Exception):
    """The writer was closed while the database was away."""


class WriteBehind:
    """Rows on their way to the database, in the order they were added. Safe to use from any thread and after a fork.

    A row whose unique key is there already is skipped. Each row is written once, also when the answer to a COMMIT is
    lost. What is still queued when the process is killed is lost.
    """

    def __init__(
        self,
        db: Database | Callable[[], Database],
        *,
        interval: float = INTERVAL,
        pause: float = RETRY_PAUSE,
        max_rows: int = MAX_ROWS,
        max_size: int = MAX_SIZE,
    ) -> None:
        """Prepare; the thread starts with the first row.

        Args:
            db: The database, or what opens it; called in the writing thread.
            interval: Longest time a row waits for company, in seconds.
            pause: Between two tries of a database that is away, in seconds.
            max_rows: Most rows that wait in memory.
            max_size: Most characters and bytes that they hold together.
        """
        self._open = db if callable(db) else lambda: db
        self._interval, self._pause = interval, pause
        self._max_rows, self._max_size = max_rows, max_size
        self._begin()
        _instances.add(self)

    def add(
        self, table: sa.Table, row: Row, *, keep: bool = False, then: Callable[[Connection], object] | None = None
    ) -> bool:
        """Queue a row; returns at once.

        Args:
            table: Where it goes.
            row: Its values by column name, plain and final: text must have passed `clean_text`.
            keep: Queue it however full the queue is.
            then: What follows from the row, done in its transaction after the rows that are written together.

        Returns:
            False where it was dropped, because the queue is full.
        """
        item = _Item(table, row, _size(row), then=then)
        with self._changed:
            if not keep and self._is_full(item):
                self._drop(item)
                return False
            self._mark_dropped()
            self._append(item)
            self._wake()
        return True

    def expect(self, table: sa.Table, key: str, row: Row) -> None:
        """Queue a row that may be withdrawn until the next batch is written; returns at once, without any lock.

        For what is soon told by another row, and needs one of its own only where that takes longer than a batch.

        Args:
            table: Where it goes.
            key: By which it is withdrawn.
            row: As for `add`.
        """
        self._expected[key] = _Item(table, row, 0)
        if self._idle:
            with self._changed:
                self._wake()

    def withdraw(self, key: str) -> bool:
        """Take an expected row back; false where it was written, or is just being."""
        return self._expected.pop(key, None) is not None

    def flush(self, timeout: float | None = EXIT_PATIENCE) -> bool:
        """Wait until all rows added so far are written or refused.

        Args:
            timeout: Longest wait, in seconds; None: no bound.

        Returns:
            False where time was over first; the rows stay queued.
        """
        written = threading.Event()
        with self._changed:
            self._mark_dropped()
            if not self._has_rows and not self._writing:
                return True
            # Travels behind the rows added so far.
            self._queue.append(written)
            self._hurry = True
            if not self._start():
                return self._drain()
            self._changed.notify_all()
        return written.wait(timeout)

    def close(self, timeout: float = EXIT_PATIENCE) -> None:
        """Flush for at most `timeout` seconds, then end the thread; rows added later are dropped."""
        self.flush(timeout)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._stopping.set()

    @property
    def dropped(self) -> int:
        """Rows dropped or refused so far."""
        return self._dropped_total

    # -- the queue -----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        # An RLock: a signal handler may log while its thread is in here. So no counter may be relied on to be exact,
        # only what a single call changes: the queue itself.
        self._changed = threading.Condition(threading.RLock())
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._queue: deque[_Item | threading.Event] = deque()
        #: Rows that may be withdrawn. Each is taken by one `pop`, by the writer or by who withdraws it.
        self._expected: dict[str, _Item] = {}
        self._size = 0
        self._dropped_total = 0
        self._refused = 0
        self._dropped: Counter[tuple[str, str | None]] = Counter()
        self._idle = True
        self._writing = self._hurry = self._closed = self._complained = False

    @property
    def _has_rows(self) -> bool:
        return bool(self._queue or self._expected)

    def _is_full(self, item: _Item) -> bool:
        return self._closed or len(self._queue) >= self._max_rows or self._size + item.size > self._max_size

    def _append(self, item: _Item) -> None:
        self._queue.append(item)
        self._size += item.size

    def _wake(self) -> None:
        if self._idle:
            self._idle = False
            self._start()
            self._changed.notify_all()
        elif len(self._queue) == BATCH_ROWS:
            self._changed.notify_all()

    def _drop(self, item: _Item) -> None:
        if item.is_mark:
            return
        self._dropped_total += 1
        if item.table is tables.logs:
            self._dropped[item.row["run_id"], item.row.get("step_id")] += 1

    def _mark_dropped(self) -> None:
        if self._dropped and not self._closed:
            dropped, self._dropped = self._dropped, Counter()
            for (run_id, step_id), count in dropped.items():
                self._append(_Item(tables.logs, _dropped_line(run_id, step_id, count), 0, is_mark=True))

    def _start(self) -> bool:
        # Not alive also where a timeout struck inside of start().
        if self._thread is not None and self._thread.is_alive():
            return True
        self._thread = threading.Thread(target=self._run, name="orchestra-write-behind", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            # The interpreter shuts down and starts no threads any more.
            self._thread = None
            return False
        _flush_at_end_of_forked_process()
        return True

    def _drain(self) -> bool:
        # Writes in the caller's thread, at the end of the interpreter: one try.
        self._stopping.set()
        try:
            while self._has_rows:
                self._deliver(self._take())
        except _GivenUp:
            return False
        return True

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (batch := self._take()) or not self._closed:
                self._deliver(batch)
        except _GivenUp:
            logger.warning("%d rows were not written: the database is away and this process ends", len(self._queue))

    def _take(self) -> list[_Item | threading.Event]:
        """The next batch, once it is full, its time has come or someone waits for it; empty: closed, or withdrawn."""
        with self._changed:
            self._idle = not self._has_rows
            self._changed.wait_for(lambda: self._has_rows or self._closed)
            self._changed.wait_for(self._is_due, self._interval)
            self._mark_dropped()
            batch = self._take_expected()
            batch += [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_ROWS))]
            self._writing = bool(batch)
            if self._queue:
                self._size -= sum(item.size for item in batch if isinstance(item, _Item))
            else:
                self._size, self._hurry = 0, False
            return batch

    def _take_expected(self) -> list[_Item | threading.Event]:
        # One by one: any of them may be withdrawn meanwhile.
        found = (self._expected.pop(key, None) for key in list(self._expected))
        return [item for item in found if item is not None]

    def _is_due(self) -> bool:
        return len(self._queue) >= BATCH_ROWS or self._hurry or self._closed

    def _deliver(self, batch: Sequence[_Item | threading.Event]) -> None:
        self._write([item for item in batch if isinstance(item, _Item)])
        with self._changed:
            self._writing = False
        for waiting in batch:
            if isinstance(waiting, threading.Event):
                waiting.set()

    def _write(self, items: Sequence[_Item]) -> None:
        """Write the items in order; where they are refused, halve them until the bad ones are alone."""
        if not items:
            return
        refusal = self._insert(items)
        if refusal is None:
            return
        if len(items) == 1:
            self._refuse(items[0], refusal)
            return
        middle = len(items) // 2
        self._write(items[:middle])
        self._write(items[middle:])

    def _refuse(self, item: _Item, refusal: Exception) -> None:
        with self._changed:
            self._drop(item)
        self._refused += 1
        # The 1st, 2nd, 4th, 8th, … time, so that a flood of them stays readable.
        if self._refused & (self._refused - 1) == 0:
            logger.warning("%s: refusal %d, the row is not kept: %s", item.table.name, self._refused, refusal)

    def _insert(self, items: Sequence[_Item]) -> Exception | None:
        """Insert in one transaction, waiting for a database that is away; gives why it refused.

        Raises:
            _GivenUp: Closed meanwhile.
        """
        work = _Insertion(items)
        while True:
            try:
                with _gate:
                    self._open().write(work)
            except (StoreUnavailable, ConfigurationError, SchemaMismatch, OSError) as error:
                self._complain(error)
            except Exception as error:
                return error
            else:
                self._complained = False
                return None
            if self._stopping.wait(self._pause):
                raise _GivenUp

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            logger.warning("logs and states wait in memory, the database cannot be written to: %s", error)


class _Insertion:
    """Inserts a batch in one transaction; when repeated, recognises what an earlier try has committed."""

    def __init__(self, items: Sequence[_Item]) -> None:
        self._items = items
        self._tried = False

    def __call__(self, connection: Connection) -> None:
        # A crash, or a lost answer, between the COMMIT and its return: the batch is there as a whole, or not at all.
        if self._tried and _is_there(connection, self._items[0]):
            return
        self._tried = True
        for _, same in groupby(self._items, key=_shape):
            group = list(same)
            statement = database.insert(connection, group[0].table).on_conflict_do_nothing()
            connection.execute(statement, [item.row for item in group])
        for item in self._items:
            note(connection, *_hint(item))
            if item.then is not None:
                item.then(connection)


def _hint(item: _Item) -> Hint:
    """What there is to be seen where the row is written."""
    if item.table is tables.events:
        return EVENT, ""
    row = item.row
    run_id = row.get("run_id") or row.get("flow_run_id") or ""
    return (RUN if item.table is tables.states and row["step_id"] is None else STEP), run_id


def _shape(item: _Item) -> tuple[str, tuple[str, ...]]:
    return item.table.name, tuple(item.row)


def _is_there(connection: Connection, item: _Item) -> bool:
    columns = [item.table.c[name].is_not_distinct_from(value) for name, value in item.row.items()]
    return connection.scalar(sa.select(sa.literal(1)).where(*columns).limit(1)) is not None


def _size(row: Row) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str | bytes))


def _dropped_line(run_id: str, step_id: str | None, count: int) -> Row:
    return {
        "run_id": run_id,
        "step_id": step_id,
        "logger": "orchestra.logs",
        "level": logging.WARNING,
        "message": f"… {count:,} {'line' if count == 1 else 'lines'} dropped here: the database did not take them",
        "timestamp": clock.now(),
        "branch": None,
        "ordinal": None,
    }


# -- the writer of this process ----------------------------------------------------------------------------------

_instances: weakref.WeakSet[WriteBehind] = weakref.WeakSet()
_lock = threading.Lock()
#: Held while a batch is written: a fork inside an SQLite write would leave the child's connections locked.
_gate = threading.Lock()
_forking = threading.local()
_current: WriteBehind | None = None


def behind() -> WriteBehind:
    """The writer of this process, over its database; flushed when the process ends."""
    global _current
    held = _current
    if held is not None:
        return held
    with _lock:
        if _current is None:
            _current = WriteBehind(database.database)
        return _current


def flush(timeout: float = EXIT_PATIENCE) -> bool:
    """Flush this process's writer, if it has one; false where `timeout` seconds were not enough."""
    held = _current
    return held is None or held.flush(timeout)


def reset() -> None:
    """Close this process's writer and forget it, so that the next use begins anew (tests)."""
    global _current
    with _lock:
        held, _current = _current, None
    if held is not None:
        held.close()


def _flush_at_end_of_forked_process() -> None:
    # Children of multiprocessing end by os._exit, past atexit; their own finalizers do run.
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        sys.modules["multiprocessing.util"].Finalize(None, flush, exitpriority=10)


def _before_fork() -> None:
    _forking.holds_gate = _gate.acquire(timeout=_FORK_PATIENCE)


def _after_fork_in_parent() -> None:
    if _forking.holds_gate:
        _gate.release()


def _after_fork_in_child() -> None:
    global _lock, _gate
    _lock, _gate = threading.Lock(), threading.Lock()
    # The parent writes what was queued; its thread and locks are not here.
    for writer in list(_instances):
        writer._begin()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(flush)
