"""Log lines of runs: kept through the writer behind, read for people, counted for replay."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock, settings
from orchestra.serializers import clean_text
from orchestra.store import tables
from orchestra.store.behind import behind
from orchestra.store.database import Database
from orchestra.store.prepared import prepare
from orchestra.store.spans import unindexed

logs = tables.logs
#: No line has an id as high as that.
_LAST = 2**63 - 1

#: Ends a line that was cut.
TRUNCATED = "… [truncated]"
#: Of how many runs at most a process counts the lines it kept.
_COUNTED_RUNS = 1000
#: For how long a tail looks again for lines that were written late by other processes, in seconds.
_LATE = 10.0


@dataclass(frozen=True, slots=True)
class LogLine:
    """One log line as it is stored; `timestamp` is seconds since the epoch, `level` a number of `logging`."""

    id: int
    run_id: str
    step_id: str | None
    logger: str
    level: int
    message: str
    timestamp: float

    @property
    def level_name(self) -> str:
        """The level in words: INFO, WARNING, …"""
        return logging.getLevelName(self.level)

    def record(self) -> dict[str, Any]:
        """The line with Prefect's field names, and an aware time: as the client, the API and `-o json` give it."""
        return {
            "id": self.id,
            "flow_run_id": self.run_id,
            "task_run_id": self.step_id,
            "name": self.logger,
            "level": self.level,
            "timestamp": clock.to_datetime(self.timestamp),
            "message": self.message,
        }


# -- writing -----------------------------------------------------------------------------------------------------


def keep(
    run_id: str,
    message: str,
    *,
    level: int,
    logger: str,
    timestamp: float,
    step_id: str | None = None,
    line: tuple[str, int] | None = None,
) -> bool:
    """Hand a log line to this process's writer; returns at once.

    Text that a database cannot hold is escaped, a line over `log_line_max_bytes` is cut. Of one run this process keeps
    `log_run_max_lines` lines and says so in one more.

    Args:
        run_id: The flow run.
        message: The text, traceback included.
        level: A number of `logging`.
        logger: Name of the logger.
        timestamp: When, in seconds since the epoch.
        step_id: The task run, for a task's line.
        line: Branch and ordinal, for a flow body's line; a line that is there already is not written again.

    Returns:
        False where the line is not kept.
    """
    most = settings.current().log_run_max_lines
    count = _kept.count(run_id)
    branch, ordinal = line or (None, None)
    if count > most or (ordinal or 0) >= most:
        return _kept.is_first_refusal(run_id) and _add(run_id, None, _full_message(most), logging.WARNING, timestamp)
    return _add(run_id, step_id, fit(message), level, timestamp, logger, branch, ordinal)


def fit(message: str) -> str:
    """The message as it can be stored: escaped where a database cannot hold it, and cut with a mark where too long."""
    most = settings.current().log_line_max_bytes
    text = clean_text(message[: most + 1])
    if len(text) * 4 <= most:
        return text
    data = text.encode()
    if len(data) <= most:
        return text
    return data[: max(0, most - len(TRUNCATED.encode()))].decode(errors="ignore") + TRUNCATED


def _full_message(most: int) -> str:
    return f"… this process keeps no more lines of this run: {most:,} are kept (ORCHESTRA_LOG_RUN_MAX_LINES)"


def _add(
    run_id: str,
    step_id: str | None,
    message: str,
    level: int,
    timestamp: float,
    logger: str = "orchestra.logs",
    branch: str | None = None,
    ordinal: int | None = None,
) -> bool:
    return behind().add(
        logs,
        {
            "run_id": run_id,
            "step_id": step_id,
            "logger": clean_text(logger[:255]),
            "level": level,
            "message": message,
            "timestamp": timestamp,
            "branch": branch,
            "ordinal": ordinal,
        },
    )


class _Kept:
    """How many lines this process has kept, of the runs it last saw. A race loses a count at most."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, int] = OrderedDict()
        self._refused: OrderedDict[str, None] = OrderedDict()

    def count(self, run_id: str) -> int:
        number = self._counts.get(run_id, 0) + 1
        self._counts[run_id] = number
        _forget_oldest(self._counts)
        return number

    def is_first_refusal(self, run_id: str) -> bool:
        if run_id in self._refused:
            return False
        self._refused[run_id] = None
        _forget_oldest(self._refused)
        return True


def _forget_oldest(runs: OrderedDict[str, Any]) -> None:
    while len(runs) > _COUNTED_RUNS:
        runs.popitem(last=False)


_kept = _Kept()


# -- reading -----------------------------------------------------------------------------------------------------


def read(
    db: Database,
    run_id: str,
    *,
    step_id: str | None = None,
    level: int | None = None,
    after_id: int = 0,
    limit: int = 200,
    tail: int | None = None,
) -> list[LogLine]:
    """Lines of a flow run, its tasks' included, in the order they were written.

    Lines of one process keep their order; those of another may have been written up to a second later than they
    were logged, so sort by `timestamp` to see several interleaved.

    Args:
        db: The database.
        run_id: The flow run.
        step_id: Only lines of this task run.
        level: Only lines of at least this level (a number of `logging`).
        after_id: Only lines behind this one: the last id of the page before.
        limit: Most lines of a page.
        tail: The last so many lines instead of a page.

    Raises:
        StoreUnavailable: No answer.
    """
    query = _query(run_id, step_id, level, after_id)
    if tail is None:
        return _lines(db, query.order_by(*place(step_id)).limit(limit))
    return _lines(db, query.order_by(*(each.desc() for each in place(step_id))).limit(tail))[::-1]


def written_lines(connection: Connection, run_id: str) -> dict[str, int]:
    """Of each branch of the run's body, how many lines a replay skips: one more than the highest ordinal written."""
    return {row.branch: row.lines for row in _WRITTEN_LINES.all(connection, {"b_run": run_id})}


_WRITTEN_LINES = prepare(
    sa.select(logs.c.branch, (sa.func.max(logs.c.ordinal) + 1).label("lines"))
    .where(logs.c.run_id == sa.bindparam("b_run"), logs.c.branch.is_not(None))
    .group_by(logs.c.branch)
)


class Tail:
    """Follows a run's lines: each `poll` gives those not given yet, once each.

    Processes commit their lines out of the order of their ids, so a page behind the last id would miss some; a tail
    looks at the last seconds again.
    """

    def __init__(self, db: Database, run_id: str, *, step_id: str | None = None, level: int | None = None) -> None:
        """Follow from the run's first line on; the arguments are those of `read`."""
        order = place(step_id)
        self._follow(lambda after_id: _lines(db, _query(run_id, step_id, level, after_id).order_by(*order)))

    @classmethod
    def of(cls, read: Callable[[int], list[LogLine]]) -> Tail:
        """One over what `read` gives of all lines behind an id."""
        tail = cls.__new__(cls)
        tail._follow(read)
        return tail

    def _follow(self, read: Callable[[int], list[LogLine]]) -> None:
        self._read = read
        self._floor = 0
        #: When each line above the floor was first seen, on the monotonic clock.
        self._seen: dict[int, float] = {}

    def poll(self) -> list[LogLine]:
        """The new lines, ordered by time.

        Raises:
            StoreUnavailable: No answer.
        """
        now = clock.monotonic()
        found = self._read(self._floor)
        new = [line for line in found if line.id not in self._seen]
        self._seen.update((line.id, now) for line in new)
        self._raise_floor(now)
        return sorted(new, key=lambda line: line.timestamp)

    def _raise_floor(self, now: float) -> None:
        settled = [id for id, seen in self._seen.items() if now - seen > _LATE]
        if settled:
            self._floor = max(settled)
            self._seen = {id: seen for id, seen in self._seen.items() if id > self._floor}


def place(step_id: str | None) -> tuple[sa.ColumnElement[Any], ...]:
    """Where a line stands among those of its run, or of one task run; lists of lines are ordered by the whole of it."""
    return (logs.c.run_id if step_id is None else logs.c.step_id), logs.c.id


def after(run_id: str, id: int, step_id: str | None) -> tuple[sa.ColumnElement[bool], ...]:
    """The lines of a run behind one of them; only those of one task run, if one is given."""
    return *_lines_of(run_id, step_id), logs.c.id > id


def before(run_id: str, id: int | None, step_id: str | None) -> tuple[sa.ColumnElement[bool], ...]:
    """The lines of a run before one of them, or all; only those of one task run, if one is given."""
    return *_lines_of(run_id, step_id), logs.c.id < (_LAST if id is None else id)


def _lines_of(run_id: str, step_id: str | None) -> list[sa.ColumnElement[bool]]:
    """The run or task run is told by two bounds, and so it is in the order of `place`.

    With an equation in their place the order is that of ids alone, by which PostgreSQL may go through the lines of all
    runs; with one bound it takes what is asked for to be half of the table, and reads all of it.
    """
    of, _ = place(step_id)
    whose = step_id or run_id
    bounds = [of >= whose, of <= whose]
    # Of a task run that is one of another run there are no lines.
    return bounds if step_id is None else [*bounds, unindexed(logs.c.run_id) == run_id]


def _query(run_id: str, step_id: str | None, level: int | None, after_id: int) -> sa.Select[Any]:
    column = logs.c
    query = sa.select(
        column.id, column.run_id, column.step_id, column.logger, column.level, column.message, column.timestamp
    ).where(*after(run_id, after_id, step_id))
    if level is not None:
        query = query.where(column.level >= level)
    return query


def _lines(db: Database, query: sa.Select[Any]) -> list[LogLine]:
    return db.read(lambda connection: [LogLine(*row) for row in connection.execute(query)])
