"""`emit_event`: once from a flow on a worker, whatever dies, and without waiting elsewhere."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestra import clock, flow, tags, task
from orchestra.errors import InvalidEvent, NotThereYet
from orchestra.events import Event, Resource, emit_event, get_events_client, get_events_subscriber, read_events
from orchestra.store import behind
from orchestra.store.database import Database
from tests.drive import Driver, Killed
from tests.engine import event_flows

pytestmark = pytest.mark.slow

ORDER = {"orchestra.resource.id": "order.1"}


@pytest.fixture(autouse=True)
def seen() -> Iterator[list[str]]:
    """The ids that bodies saw."""
    event_flows.seen.clear()
    yield event_flows.seen
    event_flows.seen.clear()


def emitted() -> list[str]:
    """The names of the events of orders, the oldest first."""
    behind.flush()
    return [event.event for event in read_events(events=["order.*"])][::-1]


def test_a_flow_on_a_worker_emits_once(driver: Driver, seen: list[str]) -> None:
    """However often its body is run: a replay gives the same event."""
    state = driver.run(event_flows.ship, order=1)

    assert state.result() == {"parts": 2}
    assert sorted(emitted()) == ["order.packed", "order.received", "order.shipped"]
    assert len(seen) > 1
    assert len(set(seen)) == 1


@pytest.mark.parametrize("after_commit", [False, True])
@pytest.mark.parametrize("write", range(1, 6))
def test_a_worker_that_dies_repeats_no_event_of_a_flow(driver: Driver, write: int, after_commit: bool) -> None:
    """An event is there together with its step, or neither is."""
    run_id = driver.submit(event_flows.ship, order=1)
    driver.workers_database.kill_at(write, after_commit=after_commit)
    with pytest.raises(Killed):
        driver.settle()
    driver.lapse()
    driver.elapse(40)
    driver.finish(run_id)

    names = emitted()
    assert (names.count("order.received"), names.count("order.shipped")) == (1, 1)
    (shipped,) = read_events(events=["order.shipped"])
    (received,) = read_events(events=["order.received"])
    assert len(read_events(events=["orchestra.flow-run.Completed"])) == 1
    assert shipped.follows == received.id


def test_the_end_of_a_task_run_tells_where_and_when_it_began(driver: Driver) -> None:
    """Of what is called directly and what is submitted; it is as its events tell it."""
    asked = clock.now()
    driver.run(event_flows.ship, order=1)
    behind.flush()

    ends = read_events(events=["orchestra.task-run.Completed"])
    assert len(ends) == len(read_events(events=["orchestra.task-run.Running"]))
    for end in ends:
        began = datetime.fromisoformat(end.payload["start_time"])
        assert asked <= began.timestamp() <= end.occurred.timestamp()
        assert end.payload["worker"]


def test_a_flow_reads_the_same_events_in_a_replay(driver: Driver, seen: list[str]) -> None:
    """Though there are more by then."""
    emit_event("order.created", ORDER)
    behind.flush()

    assert driver.run(event_flows.audit).result() == ["order.1"]
    assert len(seen) > 1
    assert set(seen) == {"1"}


def test_an_event_says_in_which_run_it_was_emitted(sqlite_database: Database) -> None:
    """The task run, flow run, flow and tags are related, each in its role."""

    @task
    def pack() -> None:
        emit_event("order.packed", ORDER, related=[{"prefect.resource.id": "shop.1", "prefect.resource.role": "shop"}])

    @flow
    def work() -> None:
        pack()

    with tags("eu"):
        work()
    behind.flush()

    (event,) = read_events(events=["order.packed"])
    assert [each.role for each in event.related] == ["shop", "task-run", "flow-run", "flow", "tag"]
    assert event.resource_in_role["flow"].name == "work"
    run_id = event.resource_in_role["flow-run"].id.removeprefix("orchestra.flow-run.")
    assert event in read_events(flow_run_id=run_id).events


def test_an_event_comes_back_as_it_was_emitted(sqlite_database: Database) -> None:
    """Prefect's labels are read as orchestra's."""
    at = datetime(2026, 11, 22, 9, tzinfo=UTC)
    event = emit_event(
        "order.created",
        {"prefect.resource.id": "order.7", "prefect.resource.name": "grüße", "colour": "red"},
        occurred=at,
        payload={"size": 3, "at": at, "not": float("nan")},
    )
    behind.flush()

    assert read_events(resources=["order.7"]).events == [event]
    assert event.resource.id == event.resource["prefect.resource.id"] == "order.7"
    assert event.resource["colour"] == "red"
    assert event.payload == {"size": 3, "at": "2026-11-22T09:00:00Z", "not": None}


def test_an_event_with_an_id_that_was_used_is_not_written_again(sqlite_database: Database) -> None:
    """So that a program may repeat itself."""
    used = uuid.uuid4()
    for _ in range(2):
        emit_event("order.created", ORDER, id=used)

    assert emitted() == ["order.created"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"resource": {"name": "x"}}, "resource: a resource needs a label 'orchestra.resource.id'"),
        ({"resource": "order.1"}, "resource"),
        ({"event": ""}, "event: String should have at least 1 character"),
        ({"event": "x" * 256}, "event: String should have at most 255 characters"),
        ({"occurred": datetime.fromisoformat("2026-11-22")}, "occurred: give it a zone"),
        ({"related": [ORDER]}, "related.0: a related resource needs a label 'orchestra.resource.role'"),
        ({"payload": {"x": "y" * 600_000}}, "payload: it is 600,008 bytes as JSON, the most are 524,288"),
        ({"id": "seven"}, "id: "),
    ],
)
def test_what_cannot_be_an_event_is_refused(sqlite_database: Database, wrong: dict[str, Any], told: str) -> None:
    """With the part that is wrong, and what it needs."""
    with pytest.raises(InvalidEvent, match="cannot be emitted") as refused:
        emit_event(**{"event": "order.created", "resource": ORDER, **wrong})
    assert told in str(refused.value)


def test_events_are_followed_as_they_come(sqlite_database: Database) -> None:
    """By a subscriber, whatever process has written them."""

    async def follow() -> Event:
        async with get_events_subscriber() as coming, get_events_client() as client:
            await client.emit(Event(occurred=datetime.now(UTC), event="order.created", resource=Resource(ORDER)))
            async for event in coming:
                return event
        raise AssertionError

    assert asyncio.run(follow()).event == "order.created"


def test_triggers_come_with_automations() -> None:
    """Until then they say so."""
    with pytest.raises(NotThereYet, match="automations"):
        from orchestra.events import EventTrigger  # noqa: F401


def test_a_local_run_tells_its_story_in_order(sqlite_database: Database) -> None:
    """As a run on a worker does."""

    @task
    def pack() -> None:
        emit_event("order.packed", ORDER)

    @flow
    def work() -> None:
        pack()

    work()
    behind.flush()

    assert [event.event for event in read_events()][::-1] == [
        "orchestra.flow-run.created",
        "orchestra.flow-run.Running",
        "orchestra.task-run.Running",
        "order.packed",
        "orchestra.task-run.Completed",
        "orchestra.flow-run.Completed",
    ]
