"""Limits in this process: in flows, in tasks, in plain functions and coroutines."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra import flow, task
from orchestra.concurrency import asyncio as limits_async
from orchestra.concurrency.sync import concurrency, rate_limit
from orchestra.engine import slots as engine_slots
from orchestra.errors import (
    AcquireConcurrencySlotTimeoutError,
    ConcurrencySlotAcquisitionError,
    ConcurrencySlotLost,
    DefinitionError,
)
from orchestra.store import limits, slots, tables
from orchestra.store.behind import behind
from orchestra.store.database import Database
from tests.helpers import wait_until
from tests.store.test_slots import rows, taken

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def limit(database: Database) -> Iterator[None]:
    """A limit of 1 named `db`, one for the tag, and a rate limit."""
    limits.create(database, "db", 1)
    limits.create(database, "tag:db", 1)
    limits.create(database, "api", 2, slot_decay_per_second=5.0)
    engine_slots.forget()
    yield
    engine_slots.forget()


class Meter:
    """Counts how many are in at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def pass_through(self, seconds: float = 0.01) -> None:
        """Be in for a moment."""
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(seconds)
        with self._lock:
            self.now -= 1


def in_threads(count: int, work: Any) -> None:
    """Do `work` in so many threads at once."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# -- outside of any run ------------------------------------------------------------------------------------------


def test_threads_of_a_script_take_turns(database: Database) -> None:
    """No flow and no task is needed."""
    meter = Meter()

    def work() -> None:
        with concurrency("db"):
            meter.pass_through()

    in_threads(5, work)
    assert meter.most == 1
    assert rows(database) == []


def test_coroutines_take_turns(database: Database) -> None:
    """The loop goes on meanwhile."""
    meter, turns = Meter(), 0

    async def work() -> None:
        async with limits_async.concurrency("db"):
            await asyncio.to_thread(meter.pass_through)

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    async def main() -> None:
        counting = asyncio.create_task(count())
        await asyncio.gather(*(work() for _ in range(5)))
        counting.cancel()

    asyncio.run(main())
    assert meter.most == 1
    assert turns > 10
    assert rows(database) == []


def test_a_coroutine_that_is_cancelled_while_it_waits_leaves_the_line(database: Database) -> None:
    """And one that is cancelled in its block gives back what it has."""

    async def hold() -> None:
        async with limits_async.concurrency("db"):
            await asyncio.sleep(60)

    async def main() -> None:
        first = asyncio.create_task(hold())
        await asyncio.to_thread(wait_until, lambda: taken(database) == 1, "the first to be in", 5)
        second = asyncio.create_task(hold())
        await asyncio.to_thread(wait_until, lambda: len(rows(database)) == 2, "the second to wait", 5)
        for each in (second, first):
            each.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        await asyncio.to_thread(wait_until, lambda: rows(database) == [], "both to be gone", 5)

    asyncio.run(main())


def test_a_wait_is_over_when_its_time_is(database: Database) -> None:
    """With Prefect's error, which is a TimeoutError; 0 and `max_retries=0` do not wait."""
    with concurrency("db"):
        for arguments in ({"timeout_seconds": 0.05}, {"timeout_seconds": 0}, {"max_retries": 0}):
            with (
                pytest.raises(AcquireConcurrencySlotTimeoutError, match="orchestra gcl inspect"),
                concurrency("db", **arguments),  # type: ignore[arg-type]
            ):
                raise AssertionError
        assert issubclass(AcquireConcurrencySlotTimeoutError, TimeoutError)
        assert len(rows(database)) == 1


def test_what_cannot_be_had_is_an_error(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """A missing limit limits nothing, with a warning that says what to do."""
    with concurrency("nothing"):
        pass
    assert "orchestra gcl create nothing --limit N" in caplog.text
    for names, arguments, error in (
        ("nothing", {"strict": True}, ConcurrencySlotAcquisitionError),
        ("db", {"occupy": 2}, ConcurrencySlotAcquisitionError),
        ("db", {"occupy": 0}, DefinitionError),
        ([""], {}, DefinitionError),
        (None, {}, DefinitionError),
        ("db", {"lease_duration": 0}, DefinitionError),
    ):
        with pytest.raises(error), concurrency(names, **arguments):  # type: ignore[arg-type]
            raise AssertionError
    with concurrency([]):
        assert rows(database) == []
    assert rows(database) == []


def test_a_coroutine_that_waits_the_plain_way_is_warned(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """It holds its loop up, and so whoever has the slot there."""

    async def main() -> None:
        async with limits_async.concurrency("db"):
            with pytest.raises(TimeoutError), concurrency("db", timeout_seconds=0.1):
                raise AssertionError

    asyncio.run(main())

    assert "orchestra.concurrency.asyncio" in caplog.text


def test_an_error_in_a_block_gives_its_slots_back(database: Database) -> None:
    """It is raised as it is."""
    with pytest.raises(KeyError), concurrency(["db"]):
        raise KeyError
    assert rows(database) == []


def test_a_lost_lease_is_an_error_where_one_wants_it(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """At the end of the block; else it is a warning."""

    def lose() -> None:
        lapsed = sa.update(tables.slots).values(lease_until=0.0)
        database.write(lambda connection: connection.execute(lapsed).rowcount)
        wait_until(lambda: "was over before" in caplog.text, "the loss to be noticed", 5)

    with concurrency("db", lease_duration=0.3):
        lose()
    caplog.clear()
    strict = concurrency("db", lease_duration=0.3, raise_on_lease_renewal_failure=True)
    with pytest.raises(ConcurrencySlotLost, match=r"lease of 0\.3 s"), strict:
        lose()


def test_a_lease_is_renewed_while_its_block_goes_on(database: Database) -> None:
    """However long that takes."""
    with concurrency("db", lease_duration=0.4, raise_on_lease_renewal_failure=True):
        end = time.monotonic() + 1
        wait_until(lambda: time.monotonic() > end, "more than two leases to pass", 5)
        assert taken(database) == 1
        assert not slots.acquire(database, slots.of_process("x", lease_seconds=9), ["db"], wait=False).granted


# -- in runs -----------------------------------------------------------------------------------------------------


def test_tasks_of_a_flow_share_a_limit(database: Database) -> None:
    """By a block in their bodies, or in the flow's."""
    meter = Meter()

    @task
    def work(number: int) -> int:
        with concurrency("db"):
            meter.pass_through()
        return number

    @flow
    def all_of_it() -> list[int]:
        with concurrency(["db"]):
            meter.pass_through()
        return work.map(range(5)).result()  # type: ignore[no-any-return]

    assert all_of_it() == list(range(5))
    assert meter.most == 1
    assert rows(database) == []


def test_async_flows_and_tasks_share_a_limit(database: Database) -> None:
    """As plain ones do."""
    meter = Meter()

    @task
    async def work(number: int) -> int:
        async with limits_async.concurrency("db"):
            await asyncio.to_thread(meter.pass_through)
        return number

    @flow
    async def all_of_it() -> list[int]:
        async with limits_async.concurrency("db"):
            pass
        return await asyncio.gather(*(work(number) for number in range(4)))

    assert asyncio.run(all_of_it()) == list(range(4))
    assert meter.most == 1
    assert rows(database) == []


def test_tasks_with_a_tag_share_its_limit(database: Database) -> None:
    """Their own tags, and those in force; those who waited show it in their history."""
    meter = Meter()

    @task(tags=["db"])
    def work(number: int) -> int:
        meter.pass_through(0.03)
        return number

    @flow
    def all_of_it() -> list[int]:
        return work.map(range(4)).result()  # type: ignore[no-any-return]

    assert all_of_it() == list(range(4))
    assert meter.most == 1
    assert rows(database) == []
    behind().flush()
    names = database.read(lambda connection: connection.scalars(sa.select(tables.states.c.name)).all())
    assert "AwaitingConcurrencySlot" in names


def test_async_tasks_with_a_tag_share_its_limit(database: Database) -> None:
    """The loop goes on while one waits."""
    inside: list[int] = []

    @task(tags=["db"])
    async def work(number: int) -> int:
        inside.append(1)
        most = len(inside)
        await asyncio.sleep(0.01)
        inside.pop()
        return most

    @flow
    async def all_of_it() -> list[int]:
        return await asyncio.gather(*(work(number) for number in range(4)))

    assert asyncio.run(all_of_it()) == [1] * 4
    assert rows(database) == []


def test_a_retry_of_a_tagged_task_frees_its_slot_meanwhile(database: Database) -> None:
    """Another one may have it until the next try."""
    seen: list[int] = []

    @task(tags=["db"], retries=1, retry_delay_seconds=0.2)
    def flaky() -> int:
        if not seen:
            threading.Timer(0.1, lambda: seen.append(taken(database, "tag:db"))).start()
            raise ValueError("not yet")
        return 1

    @flow
    def all_of_it() -> int:
        wait: int = flaky()
        return wait

    assert all_of_it() == 1
    assert seen == [0]
    assert rows(database) == []


def test_a_task_without_tags_asks_nobody(database: Database) -> None:
    """It costs no query."""
    asked: list[str] = []

    @task
    def plain() -> int:
        return 1

    sa.event.listen(sa.Engine, "before_cursor_execute", lambda *args: asked.append(args[2]))

    @flow
    def all_of_it() -> int:
        plain()
        asked.clear()
        for _ in range(10):
            plain()
        found = [each for each in asked if "concurrency_limits" in each or "slots" in each]
        return len(found)

    assert all_of_it() == 0


# -- rates -------------------------------------------------------------------------------------------------------


def test_a_rate_limit_lets_through_so_many_a_second(database: Database) -> None:
    """Two at once, then five a second."""
    begin = time.monotonic()
    for _ in range(5):
        rate_limit("api")
    assert time.monotonic() - begin > 0.55

    async def main() -> None:
        await limits_async.rate_limit("api")

    asyncio.run(main())
    assert time.monotonic() - begin > 0.75


def test_a_rate_limit_that_would_take_too_long_takes_nothing(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused at once."""
    rate_limit("api", occupy=2)
    for _ in range(3):
        with pytest.raises(AcquireConcurrencySlotTimeoutError, match="free in"):
            rate_limit("api", occupy=2, timeout_seconds=0.1)
    rate_limit("api", timeout_seconds=1)
    with pytest.raises(ConcurrencySlotAcquisitionError, match="no rate limit"):
        rate_limit("db")
    with pytest.raises(ConcurrencySlotAcquisitionError, match="no concurrency limit"):
        rate_limit("nothing", strict=True)
    rate_limit("nothing")
    assert "orchestra gcl create nothing --limit N" in caplog.text
