"""Artifacts on both databases: versions of a key, the newest of each, pages, and what goes with a run."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra.errors import ArtifactNotFound
from orchestra.store import artifacts, removal
from orchestra.store.artifacts import NewArtifact, Query
from orchestra.store.database import Database
from tests.store.test_queries import add_run


def add(db: Database, key: str | None = None, *, at: float = 1.0, artifact_id: str | None = None, **fields: Any) -> str:
    """Keep an artifact that was made at that instant; gives its id."""
    new = NewArtifact(artifact_id or str(uuid.uuid4()), key, **fields)
    db.write(lambda connection: artifacts.add(connection, new, at))
    return new.id


def delete(db: Database, artifact_id: str) -> None:
    """Delete an artifact."""
    db.write(lambda connection: artifacts.delete(connection, artifact_id))


def latest(db: Database) -> dict[str | None, str]:
    """The newest artifact of each key."""
    return {each.key: each.id for each in artifacts.page_latest(db, limit=100)}


def test_the_newest_version_is_that_of_its_key(database: Database) -> None:
    """Whatever order they are written in: a local run writes behind."""
    newest = add(database, "report", at=3.0)
    add(database, "report", at=2.0)
    other = add(database, "other")
    add(database)

    assert latest(database) == {"report": newest, "other": other}
    assert len(artifacts.page(database, Query(key="report"), limit=9)) == 2


def test_the_version_before_follows_one_that_is_deleted(database: Database) -> None:
    """And the key is gone with its last one."""
    first, second, third = (add(database, "report", at=at) for at in (1.0, 2.0, 3.0))

    delete(database, first)
    assert latest(database) == {"report": third}
    delete(database, third)
    assert latest(database) == {"report": second}
    delete(database, second)
    assert latest(database) == {}
    with pytest.raises(ArtifactNotFound):
        delete(database, second)


def test_a_key_is_deleted_with_all_its_versions(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many transactions that takes."""
    monkeypatch.setattr(artifacts, "_CHUNK", 2)
    for at in range(4):
        add(database, "report", at=float(at))
    kept = add(database, "other")

    assert artifacts.delete_key(database, "report") == 4

    assert latest(database) == {"other": kept}
    with pytest.raises(ArtifactNotFound, match="report"):
        artifacts.delete_key(database, "report")


def test_one_that_is_made_over_is_the_newest_again(database: Database) -> None:
    """With what it shows then: its first making counts no more."""
    mine = add(database, "report", at=1.0, data='"old"')
    add(database, "report", at=2.0)

    add(database, "report", at=3.0, artifact_id=mine, data='"new"')

    found = artifacts.find_latest(database, "report")
    assert found is not None
    assert (found.id, found.data) == (mine, "new")
    assert len(artifacts.page(database, Query(), limit=9)) == 2


@pytest.mark.parametrize("order", ["time", "key"])
def test_every_key_stands_on_one_page(database: Database, order: Any) -> None:
    """Also where many were made at the same instant."""
    for number in range(7):
        add(database, f"key-{number}", at=float(number // 3))

    pages: list[str | None] = []
    after = None
    while found := artifacts.page_latest(database, order=order, limit=3, after=after):
        pages += [each.key for each in found]
        after = found[-1].id

    backwards = [f"key-{number}" for number in (6, 5, 4, 3, 2, 1, 0)]
    assert pages == (backwards if order == "time" else backwards[::-1])


def test_every_artifact_stands_on_one_page(database: Database) -> None:
    """Of all, or of those of a key, a type or a run."""
    made = [add(database, "report" if n % 2 else None, at=float(n // 3), flow_run_id=f"run-{n % 2}") for n in range(7)]

    for query, wanted in ((Query(), made), (Query(flow_run_id="run-1", key="report"), made[1::2])):
        seen: list[str] = []
        after = None
        while found := artifacts.page(database, query, limit=2, after=after, with_data=False):
            seen += [each.id for each in found]
            after = found[-1].id
        assert sorted(seen) == sorted(wanted)
    with pytest.raises(ArtifactNotFound):
        artifacts.page(database, Query(), limit=2, after="gone")


def test_a_run_takes_along_what_only_it_has(database: Database) -> None:
    """A version of a key stays."""
    run_id = add_run(database)
    add(database, flow_run_id=run_id)
    version = add(database, "report", flow_run_id=run_id)
    other = add(database, flow_run_id=add_run(database))

    removal.delete(database, run_id)

    assert {each.id for each in artifacts.page(database, Query(), limit=9)} == {version, other}


def test_the_newest_is_right_whoever_adds_and_deletes_at_once(database: Database) -> None:
    """Four threads on one key."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(8):
                made = add(database, "report", at=float(turn * 4 + number))
                if turn % 2:
                    delete(database, made)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    newest = artifacts.page(database, Query(key="report"), limit=1)[0]
    assert latest(database) == {"report": newest.id}


LISTS = [
    *(Query(**{name: "x"}) for name in ("key", "type", "flow_run_id", "task_run_id")),
    Query(),
    {},
    {"type": "t"},
    {"order": "key"},
]


@pytest.mark.parametrize("wanted", LISTS, ids=str)
def test_no_page_is_sorted_or_scanned(database: Database, wanted: Any) -> None:
    """Each has an index in its order, and begins where the page before has ended."""
    last = add(database, "key")
    seen: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        if isinstance(wanted, Query):
            artifacts.page(database, wanted, limit=50, after=last)
        else:
            artifacts.page_latest(database, **wanted, limit=50, after=last)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    statement, parameters = next(each for each in reversed(seen) if "ORDER BY" in each[0])

    def plan(connection: sa.Connection) -> str:
        if connection.dialect.name == "sqlite":
            return "\n".join(
                str(row[-1]) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            )
        for setting in ("enable_seqscan", "enable_bitmapscan", "enable_sort", "enable_hashjoin", "enable_mergejoin"):
            connection.exec_driver_sql(f"SET LOCAL {setting} = off")
        return "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())

    shown = database.write(plan)
    assert "Index Cond" in shown or "SEARCH" in shown
    assert "Sort" not in shown
    assert "TEMP B-TREE" not in shown
    assert "Seq Scan" not in shown
    assert "SCAN" not in shown
