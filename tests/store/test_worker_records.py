"""Workers as people see them, on both databases."""

from __future__ import annotations

import pytest

from orchestra.errors import WorkerNotFound
from orchestra.store import claims, runs, tables, work_pools, worker_records, workers
from orchestra.store.database import Database
from orchestra.store.runs import NewRun
from orchestra.store.workers import WorkerRow


def register(database: Database, name: str, *queues: str, pid: int = 1) -> None:
    """A worker with two slots."""
    workers.register(database, WorkerRow(name, "h", pid, queues, 2, "prefork", "1"))


def names(database: Database, **options: object) -> list[str]:
    """The names of those listed."""
    return [each.name for each in worker_records.list_workers(database, **options).items]  # type: ignore[arg-type]


def test_a_worker_is_shown_with_its_pools_and_what_it_is_at_work_on(database: Database) -> None:
    """By the processes that it has; claims of others are not its own."""
    work_pools.create(database, "etl", "process")
    register(database, "a@h", "etl", "etl.urgent", "other")
    workers.beat(database, "a@h", processes=["11:5", "12:5"])
    run_ids = [runs.create(database, NewRun("f", "f:f", name, b"{}", queue="etl")).row["id"] for name in "xyz"]
    for run_id, process in zip(run_ids, ("11:5", "12:5", "12:6"), strict=True):
        assert claims.claim_run(database, run_id, owner=f"h:{process}/1") is not None

    found = worker_records.read(database, "a")

    assert (found.name, found.status, found.work_pools, found.slots, found.running) == ("a@h", "ONLINE", ("etl",), 2, 2)
    assert [each.id for each in found.at_work] == run_ids[:2]


def test_workers_are_listed_by_name_in_pages_and_by_pool(database: Database) -> None:
    """A pool's name is not that of another one that begins alike."""
    for name, queue in (("a@h", "etl"), ("b@h", "etl.urgent"), ("c@h", "etl2"), ("d@h", "etl@v1")):
        register(database, name, queue)

    assert names(database, pool="etl") == ["a@h", "b@h", "d@h"]
    page = worker_records.list_workers(database, limit=3)
    assert (page.next, names(database, after=page.next)) == ("c@h", ["d@h"])


def test_a_silent_worker_is_offline(database: Database) -> None:
    """And not stopping, once it was told of as lost; one that nobody knows, or several may be, is an error."""
    register(database, "a@h", "etl")
    register(database, "a@i", "etl")
    silent = tables.workers.update().values(heartbeat_at=database.now() - 3600)
    database.write(lambda connection: connection.execute(silent))
    assert workers.tell_lost(database) == 2

    found = [(each.status, each.stopping) for each in worker_records.list_workers(database).items]
    assert found == [("OFFLINE", False), ("OFFLINE", False)]
    with pytest.raises(WorkerNotFound, match="a@h or a@i"):
        worker_records.read(database, "a")
    with pytest.raises(WorkerNotFound, match="orchestra worker ls"):
        worker_records.read(database, "b")
