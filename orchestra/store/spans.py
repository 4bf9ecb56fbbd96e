"""Pages of long lists that look at a bounded number of rows, however many there are.

A page goes along an index, the newest rows first. What no index serves (text, tags, a state of one flow) is looked for
among the next `SPAN` rows of the index, and the page says where to go on. So a page of a million rows costs what one of
a thousand does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, RowMapping
from sqlalchemy.ext.compiler import compiles

#: How many rows of one index a page looks through at most, where they stand in the table as they do in the index.
SPAN = 10_000


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a list that one query gives: what an index serves, in the order of the list, and what else must fit."""

    indexed: Sequence[ColumnElement[bool]] = ()
    other: Sequence[ColumnElement[bool]] = ()
    #: Its rows stand far apart in the table, so that each may be a read of the disk; fewer are looked through.
    is_scattered: bool = False

    @property
    def span(self) -> int:
        """How many of its rows a page looks through at most."""
        return SPAN // 4 if self.is_scattered else SPAN


@dataclass(frozen=True, slots=True)
class Found:
    """Rows of a page, the newest first."""

    rows: list[RowMapping]
    #: The row behind which the next page begins, where this one ended because it had looked through enough.
    floor: str | None
    #: How many rows that was, at least; 0: it did not end so.
    looked: int = 0


def newest(
    connection: Connection,
    shown: sa.Select[Any],
    table: sa.Table,
    parts: Iterable[Part],
    *,
    limit: int,
    start: tuple[float, str] | None = None,
) -> Found:
    """The newest rows that fit a part.

    Args:
        connection: To read by.
        shown: Selects rows of the table, with `created_at` and `id`.
        table: What is paged through: it has an index by `created_at` and `id`.
        parts: One query each, merged here: with an IN in their place, the database would sort all rows that fit.
        limit: Most rows given.
        start: When the last row of the page before was created, and its id.
    """
    column = table.c
    place, order = sa.tuple_(column.created_at, column.id), (column.created_at.desc(), column.id.desc())
    behind = [] if start is None else [place < sa.tuple_(*start)]
    found: list[RowMapping] = []
    floors: list[tuple[float, str]] = []
    looked = 0
    for part in parts:
        begin = [*part.indexed, *behind]
        # Of the index alone, so that going so far costs little.
        key = sa.select(column.created_at, column.id).where(*begin).order_by(*order)
        floor = connection.execute(key.offset(part.span).limit(1)).one_or_none() if part.other else None
        if floor is not None:
            begin.append(place >= sa.tuple_(*floor))
            floors.append((floor[0], floor[1]))
            looked += part.span
        query = shown.where(*begin, *part.other).order_by(*order).limit(limit)
        found.extend(connection.execute(query).mappings())
    found.sort(key=lambda row: (row["created_at"], row["id"]), reverse=True)
    highest = max(floors, default=None)
    if highest is not None:
        found = [row for row in found if (row["created_at"], row["id"]) >= highest]
    return Found(found[:limit], None if highest is None else highest[1], looked)


def unindexed(column: ColumnElement[str]) -> ColumnElement[str]:
    """The column, in words that no index serves: the one that bounds the page is to be taken."""
    return column.concat("")


class usual(sa.sql.functions.FunctionElement[bool]):
    """A condition that most rows fit, so that an index by it is no way to find few.

    SQLite, which keeps no statistics, would else take all rows of a state and sort them, where a partial index has just
    these in the order of the list.
    """

    type = sa.Boolean()
    inherit_cache = True


@compiles(usual, "sqlite")
def _usual_sqlite(element: usual, compiler: Any, **options: Any) -> str:
    return f"likely({compiler.process(element.clauses, **options)})"


@compiles(usual, "postgresql")
def _usual_postgresql(element: usual, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))
