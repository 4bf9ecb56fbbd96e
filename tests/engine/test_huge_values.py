"""Values of hundreds of megabytes: kept whole and in good time, or refused with their size."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra import flow, settings, task
from orchestra.errors import ValueTooLarge
from orchestra.store.database import Database
from orchestra.store.database import database as opened
from orchestra.store.tables import blobs, flow_runs, steps
from tests.conftest import WorkerFactory, forget
from tests.drive import Driver
from tests.helpers import wait_until

pytestmark = pytest.mark.slow

KIB, MIB = 1024, 1024 * 1024
HUGE = 100 * MIB
#: Of the claims here, in seconds: a write of 100 MB must leave room for three others in it.
LEASE = 6.0
#: What a process may need at most while it returns, keeps and reads `HUGE`; it is copied a few times.
PEAK = 8 * HUGE


# -- flows -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def noise(size: int) -> bytes:
    """Bytes that no database can compress, alike in every process."""
    return hashlib.shake_256(b"orchestra").digest(size)


@task
def payload(size):
    return noise(size)


@task
def size_of(value):
    return len(value)


@flow
def handed_back(size, submitted):
    value = payload.submit(size).result() if submitted else payload(size)
    assert len(value) == size
    return value


@task
def zeros(size):
    return bytes(size)


@flow
def too_large(size, submitted):
    return zeros.submit(size).result() if submitted else zeros(size)


@flow
def too_large_caught(size):
    try:
        zeros(size)
    except ValueTooLarge as error:
        return error.size


@flow
def taking(value):
    return len(value)


@flow
def handing_on(size, way):
    """A value that is large as an argument; says what it heard."""
    value = "x" * size
    try:
        found = {"submit": size_of.submit, "subflow": taking}[way](value)
    except ValueTooLarge as error:
        return str(error)
    return found.result() if way == "submit" else found


@flow
def measuring(size):
    return size_of("x" * size)


@task
def wordy(size):
    raise ValueError("x" * size)


@flow
def failing_at_length(size, submitted):
    wordy.submit(size).result() if submitted else wordy(size)


# -- helpers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def driver(database: Database, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Carries messages on the test's database."""
    monkeypatch.setenv("ORCHESTRA_LOG_TO_CONSOLE", "false")
    settings.reset()
    return Driver(database, slots=1)


@pytest.fixture
def lease(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    """Claims last for `LEASE` seconds."""
    monkeypatch.setenv("ORCHESTRA_LEASE_SECONDS", str(LEASE))
    forget()


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker is set that refuses at once."""
    monkeypatch.setenv("ORCHESTRA_BROKER_URL", "redis://127.0.0.1:1/0")
    settings.reset()


class OtherWriter:
    """Somebody who writes to the same database all the while, and takes the time."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.slowest = 0.0

    def write(self) -> None:
        """One short transaction."""
        begun = time.monotonic()
        with self.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS others (n INTEGER)")
            connection.exec_driver_sql("INSERT INTO others VALUES (1)")
        self.slowest = max(self.slowest, time.monotonic() - begun)


@contextmanager
def others_writing(url: str) -> Iterator[OtherWriter]:
    """Somebody else's connection to the database; on SQLite it waits while the file is locked."""
    engine = sa.create_engine(url, connect_args={"timeout": 60} if url.startswith("sqlite") else {})
    yield OtherWriter(engine)
    engine.dispose()


def peak_of(pid: int) -> int:
    """The most memory that a process ever had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * KIB


def rows(database: Database, table: sa.Table) -> list[Any]:
    """All rows of a table, without what may be large."""
    kept = [column for column in table.c if not isinstance(column.type, sa.LargeBinary)]
    return database.read(lambda connection: list(connection.execute(sa.select(*kept)).all()))


def ended(run_id: str) -> bool:
    """Whether a run has ended; its result is not read."""
    query = sa.select(flow_runs.c.end_time).where(flow_runs.c.id == run_id)
    return opened().read(lambda connection: connection.scalar(query)) is not None


def lapses(run_id: str) -> int:
    """How many claims of a run and of its steps have lapsed."""
    of_run = sa.select(flow_runs.c.lapses).where(flow_runs.c.id == run_id)
    of_steps = sa.select(steps.c.lapses).where(steps.c.run_id == run_id)
    return sum(opened().read(lambda connection: connection.execute(of_run.union_all(of_steps)).scalars().all()))


# -- what is kept ------------------------------------------------------------------------------------------------


@pytest.mark.services
@pytest.mark.usefixtures("lease")
def test_results_of_100_mb_come_back_whole(database_url: str, worker_factory: WorkerFactory) -> None:
    """Of a direct call, of a submitted one and of a run; their claims hold, and memory stays within bounds."""
    worker = worker_factory(__name__, concurrency=1)

    for size, submitted in ((HUGE, False), (HUGE + 1, True)):
        handle = handed_back.delay(size, submitted)
        with others_writing(database_url) as other:
            wait_until(lambda: other.write() or ended(handle.id), "the run to end", 60)  # noqa: B023

        assert handle.result(timeout=1) == noise(size)
        assert lapses(handle.id) == 0
        assert other.slowest < LEASE / 3
    assert max(map(peak_of, worker.slots())) < PEAK
    assert "elsewhere" not in worker.log()


def test_a_direct_call_takes_an_argument_of_any_size(driver: Driver) -> None:
    """It is sent nowhere, and its size alone matters to nobody."""
    assert driver.run(measuring, size=20 * MIB).result() == 20 * MIB


@pytest.mark.parametrize("submitted", [False, True], ids=["inline", "submitted"])
def test_an_exception_with_a_huge_text_is_cut(driver: Driver, submitted: bool) -> None:
    """Its beginning is told, in the states and in the exception."""
    state = driver.run(failing_at_length, size=20 * MIB, submitted=submitted)

    told = [step.state_message for step in rows(driver.database, steps)]
    told += [state.message or "", str(state.result(raise_on_failure=False))]
    assert all("ValueError: xxx" in text for text in told)
    assert [len(text) < MIB for text in told] == [True, True, True]


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("submitted", [False, True], ids=["inline", "submitted"])
def test_a_result_over_256_mib_fails_its_task(driver: Driver, submitted: bool) -> None:
    """The error says whose it is, how large, and what to do; nothing of it is left."""
    state = driver.run(too_large, size=257 * MIB, submitted=submitted)

    assert state.is_failed()
    with pytest.raises(ValueTooLarge, match=r"'zeros.* is 269,48\d,\d{3} bytes.* at most 268,435,456 .*reference"):
        state.result()
    assert [step.state_name for step in rows(driver.database, steps)] == ["Failed"]
    assert rows(driver.database, blobs) == []


def test_a_body_may_go_on_without_a_result_that_is_too_large(driver: Driver) -> None:
    """It is the task that failed; the cap is a setting."""
    settings.override(result_max_bytes=MIB)

    assert driver.run(too_large_caught, size=2 * MIB).result() > 2 * MIB


@pytest.mark.usefixtures("nowhere")
def test_parameters_over_512_kib_are_refused_where_they_are_given(database: Database) -> None:
    """With their size; no row is left."""
    with pytest.raises(ValueTooLarge, match=r"parameters of flow 'taking'.*600,\d{3} bytes.* at most 524,288 "):
        taking.delay("x" * 600_000)

    assert rows(database, flow_runs) == []


@pytest.mark.parametrize("way", ["submit", "subflow"])
def test_arguments_over_512_kib_are_refused_at_the_call(driver: Driver, way: str) -> None:
    """With their size; the body may go on, and neither a step nor a run is left."""
    heard = driver.run(handing_on, size=600_000, way=way).result()

    assert re.search(r"(size_of|taking).*600,\d{3} bytes.* at most 524,288 ", str(heard))
    assert len(rows(driver.database, flow_runs)) == 1
    assert rows(driver.database, steps) == []


@pytest.mark.parametrize("way", ["submit", "subflow"])
def test_arguments_under_512_kib_are_taken(driver: Driver, way: str) -> None:
    """Up to the cap."""
    assert driver.run(handing_on, size=520_000, way=way).result() == 520_000
