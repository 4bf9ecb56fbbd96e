"""Prepared statements: Core statements compiled once and run on the driver's own cursor, inside Core's transactions.

For the statements of every step and message: what Core adds around such a small one costs several times the statement.
"""

from __future__ import annotations

import enum
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import sqlalchemy.dialects.postgresql.psycopg
import sqlalchemy.dialects.sqlite.pysqlite
from sqlalchemy.engine import Connection

#: Named parameters in both, so that one mapping serves either driver.
_DIALECTS = {
    "sqlite": sa.dialects.sqlite.pysqlite.dialect(paramstyle="named"),
    "postgresql": sa.dialects.postgresql.psycopg.dialect(),  # type: ignore[no-untyped-call]
}


@dataclass(frozen=True, slots=True)
class _Compiled:
    sql: str
    row: Callable[..., Any]
    names: tuple[str, ...]
    #: The values that the statement itself holds.
    constants: dict[str, Any]
    #: Places of columns that SQLite gives as 0 and 1.
    booleans: tuple[int, ...]


class Prepared:
    """One statement. Its parameters are `bindparam`s, given as a mapping that may hold more than it needs."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        """Prepare what `make` gives for a dialect's name; it is asked once for each."""
        self._make = make
        self._compiled: dict[str, _Compiled] = {}

    def all(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Any]:
        """The rows, with columns as attributes."""
        compiled = self._for(connection)
        rows = self._run(connection, compiled, parameters).fetchall()
        if compiled.booleans:
            rows = [_with_booleans(row, compiled.booleans) for row in rows]
        return [compiled.row(*row) for row in rows]

    def first(self, connection: Connection, parameters: Mapping[str, Any]) -> Any:
        """The first row, or None."""
        return next(iter(self.all(connection, parameters)), None)

    def mapping(self, connection: Connection, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
        """The first row by column name, or None."""
        row = self.first(connection, parameters)
        return None if row is None else dict(zip(self._for(connection).names, row, strict=True))

    def count(self, connection: Connection, parameters: Mapping[str, Any]) -> int:
        """Run it; gives how many rows it changed."""
        return int(self._run(connection, self._for(connection), parameters).rowcount)

    def many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run it once for each mapping."""
        compiled = self._for(connection)
        if len(rows) == 1:
            self._run(connection, compiled, rows[0])
            return
        cursor = _driver(connection).cursor()
        cursor.executemany(compiled.sql, [{**compiled.constants, **row} for row in rows])

    def _run(self, connection: Connection, compiled: _Compiled, parameters: Mapping[str, Any]) -> Any:
        return _driver(connection).execute(compiled.sql, {**compiled.constants, **parameters})

    def _for(self, connection: Connection) -> _Compiled:
        name = connection.dialect.name
        if name not in self._compiled:
            self._compiled[name] = _compile(self._make(name), name)
        return self._compiled[name]


def prepare(statement: Any) -> Prepared:
    """Prepare a statement that is the same for both dialects."""
    return Prepared(lambda dialect: statement)


def _compile(statement: Any, dialect: str) -> _Compiled:
    compiled = statement.compile(dialect=_DIALECTS[dialect])
    columns = list(getattr(statement, "exported_columns", ()))
    names = tuple(str(column.key) for column in columns)
    booleans = tuple(place for place, column in enumerate(columns) if isinstance(column.type, sa.Boolean))
    row: Callable[..., Any] = namedtuple("Row", names) if names else tuple
    constants = {name: _plain(bind.value) for name, bind in compiled.binds.items() if not bind.required}
    return _Compiled(str(compiled), row, names, constants, booleans if dialect == "sqlite" else ())


def _plain(value: Any) -> Any:
    """An enum's value: the drivers each have their own idea of enums."""
    return value.value if isinstance(value, enum.Enum) else value


def _with_booleans(row: Sequence[Any], places: Sequence[int]) -> list[Any]:
    values = list(row)
    for place in places:
        if values[place] is not None:
            values[place] = bool(values[place])
    return values


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection
