"""Free search: whatever people ask, in order, and not for ever."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from orchestra.errors import SearchTooLong
from orchestra.store import search
from orchestra.store.database import Database
from orchestra.store.search import Selection, Test
from tests.store.test_queries import add_run

#: SQL that counts for minutes.
ENDLESS = sa.text(
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000) SELECT count(*) FROM n"
)


@pytest.mark.parametrize("sort", ["START_TIME_ASC", "START_TIME_DESC", "END_TIME_DESC"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_runs_that_have_not_begun_come_last_whatever_the_page(database: Database, sort: str, size: int) -> None:
    """Each run stands on one page, in the order of the whole list."""
    for number in (2, 1, 3):
        add_run(database, f"run-{number}", at=float(number))
    for number in (1, 2, 3):
        add_run(database, f"new-{number}", start_time=None, end_time=None)

    def names(limit: int | None, offset: int = 0) -> list[str]:
        found = search.find_flow_runs(database, Selection(), sort=sort, limit=limit, offset=offset)
        return [run.name for run in found]

    whole = names(None)
    assert [name for place in range(0, 9, size) for name in names(size, place)] == whole
    begun = ["run-1", "run-2", "run-3"]
    assert whole[:3] == (begun if sort == "START_TIME_ASC" else begun[::-1])


def test_states_are_found_by_their_names_known_or_not(database: Database) -> None:
    """A name of a user's own is one of any type."""
    for name, kind in (("Late", "SCHEDULED"), ("TimedOut", "FAILED"), ("Skipped", "COMPLETED")):
        add_run(database, name, state_name=name, state_type=kind)

    def found(*names: str) -> set[str]:
        wanted = Selection(flow_runs=(Test("state_name", "any", list(names)),))
        return {run.name for run in search.find_flow_runs(database, wanted, sort="CREATED_DESC", limit=9)}

    assert found("Late", "TimedOut") == {"Late", "TimedOut"}
    assert found("Late", "Skipped") == {"Late", "Skipped"}


def test_a_search_that_takes_too_long_is_broken_off(database: Database) -> None:
    """With what to do, and the database answers others as before."""
    with pytest.raises(SearchTooLong, match=r"broken off after 0\.2 s.*Ask for less"):
        database.search(lambda connection: connection.scalar(ENDLESS), seconds=0.2)

    assert database.search(lambda connection: connection.scalar(sa.text("SELECT 1")), seconds=0.2) == 1
    assert database.read(lambda connection: connection.scalar(sa.text("SELECT 1"))) == 1
