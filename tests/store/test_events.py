"""Events in the database: what is listed of them, in which order, by which filters, and how they are followed."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from orchestra.engine import firing
from orchestra.errors import ConfigurationError
from orchestra.schedules import Cron
from orchestra.store import (
    behind,
    claims,
    deployments,
    events,
    history,
    interventions,
    limits,
    local_runs,
    removal,
    runs,
    tables,
    ticks,
    work_pools,
    workers,
)
from orchestra.store.database import Database
from orchestra.store.deployments import NewDeployment
from orchestra.store.events import EventFilter, EventRecord
from orchestra.store.runs import NewRun
from orchestra.store.workers import WorkerRow
from tests.store.rows import add_run


def emit(database: Database, name: str, resource: str = "order.1", **options: Any) -> str:
    """Write an event; returns its id."""
    row = events.new(name, {events.ID: resource}, **options)
    database.write(lambda connection: events.record(connection, row))
    return str(row["id"])


def end_task(database: Database, run_id: str, state: str, at: float, name: str = "load-0") -> str:
    """Write the row of a task run that has ended; returns its id."""
    step_id = str(uuid.uuid4())
    row = {
        "run_id": run_id, "run_attempt": 1, "step_key": f"/{step_id}", "id": step_id, "branch": "", "position": 0,
        "sequence": 0, "kind": "task", "name": name, "recorded_attempt": 1, "phase": "DONE",
        "state_type": "FAILED" if state == "Failed" else "COMPLETED", "state_name": state, "created_at": at,
        "end_time": at,
    }  # fmt: skip
    database.write(lambda connection: connection.execute(tables.steps.insert().values(row)))
    return step_id


def enter(database: Database, run_id: str, type: str, name: str) -> None:
    """Write a state of a flow run."""
    database.write(lambda connection: history.record(connection, run_id, type, name))


def listed(database: Database, *, limit: int = 50, **wanted: Any) -> list[str]:
    """The names of the events that fit, the oldest first."""
    found, _ = events.page(database, EventFilter(**wanted), limit=limit, newest=False)
    return [event.event for event in found]


def test_a_run_tells_its_story_in_events(database: Database) -> None:
    """Creation, states, task runs and what was emitted stand in one list, by time."""
    run_id = add_run(database)
    enter(database, run_id, "RUNNING", "Running")
    end_task(database, run_id, "Completed", time.time())
    emit(database, "order.shipped", run_id=run_id)
    enter(database, run_id, "COMPLETED", "Completed")

    assert listed(database, flow_run_id=run_id) == [
        "orchestra.flow-run.created",
        "orchestra.flow-run.Running",
        "orchestra.task-run.Completed",
        "order.shipped",
        "orchestra.flow-run.Completed",
    ]


def test_an_event_says_whose_it_is(database: Database) -> None:
    """The resource is the run, its flow is related, and the state is told."""
    run_id = add_run(database)
    step_id = end_task(database, run_id, "Failed", time.time())

    (event,) = events.page(database, EventFilter(events=("orchestra.task-run.*",)))[0]

    assert event.resource["orchestra.resource.id"] == f"orchestra.task-run.{step_id}"
    assert event.resource["orchestra.resource.name"] == "load-0"
    assert [each["orchestra.resource.id"] for each in event.related] == [
        f"orchestra.flow-run.{run_id}",
        "orchestra.flow.etl",
    ]
    assert event.payload["validated_state"] == {"type": "FAILED", "name": "Failed", "message": None}


def test_pages_follow_each_other_without_gap_or_double(database: Database) -> None:
    """Also where many events are of the same instant, in several tables."""
    run_id, at = add_run(database), time.time()
    for number in range(7):
        emit(database, f"order.{number}", occurred=at)
        end_task(database, run_id, "Completed", at, f"load-{number}")
    for newest in (True, False):
        every, _ = events.page(database, limit=100, newest=newest)
        assert len(every) == 15
        found: list[EventRecord] = []
        cursor = None
        for _ in range(8):
            page, cursor = events.page(database, limit=2, after=cursor, newest=newest)
            found += page
        assert cursor is None
        assert [event.id for event in found] == [event.id for event in every]


def test_events_are_filtered_by_name_resource_and_time(database: Database) -> None:
    """Whole or by the beginning; several of a kind: any of them."""
    run_id, begin = add_run(database), time.time()
    enter(database, run_id, "FAILED", "Failed")
    enter(database, run_id, "COMPLETED", "Completed")
    end_task(database, run_id, "Failed", time.time())
    emit(database, "order.created", "order.1")
    emit(database, "order.created", "order.22")
    emit(database, "Order.created", "shop.main.7")

    assert listed(database, events=("orchestra.flow-run.Failed",)) == ["orchestra.flow-run.Failed"]
    assert len(listed(database, events=("orchestra.flow-run.*",))) == 3
    assert listed(database, events=("orchestra.task-run.Fa*", "Order.*")) == [
        "orchestra.task-run.Failed",
        "Order.created",
    ]
    assert len(listed(database, events=("order.*",))) == 2
    assert len(listed(database, resources=("order.2*",))) == 1
    assert len(listed(database, resources=("shop.*", "order.1"))) == 2
    assert len(listed(database, resources=(f"orchestra.flow-run.{run_id}",))) == 3
    assert len(listed(database, resources=("orchestra.*",))) == 4
    assert listed(database, until=begin) == ["orchestra.flow-run.created"]
    assert len(listed(database, since=begin)) == 6
    assert listed(database, events=("none",)) == []


def test_a_task_run_is_found_by_its_resource(database: Database) -> None:
    """Its end, and what it went through before."""
    run_id = add_run(database)
    step_id = end_task(database, run_id, "Completed", time.time())
    retried = history.row(run_id, "SCHEDULED", "AwaitingRetry", None, step_id)
    database.write(lambda connection: connection.execute(tables.states.insert().values(retried)))

    found = listed(database, resources=(f"orchestra.task-run.{step_id}",))

    assert sorted(found) == ["orchestra.task-run.AwaitingRetry", "orchestra.task-run.Completed"]
    (waited,) = events.page(database, EventFilter(events=("orchestra.task-run.AwaitingRetry",)))[0]
    assert waited.resource["orchestra.resource.name"] == "load-0"


def test_an_event_is_written_once(database: Database) -> None:
    """A transaction that is repeated, because its answer was lost, does not double it."""
    row = events.act("deployment", "paused", "d-1", "nightly")
    for _ in range(2):
        database.write(lambda connection: events.record(connection, row))

    assert listed(database) == ["orchestra.deployment.paused"]


def test_a_tail_gives_each_event_once(database: Database) -> None:
    """Also one that is written late, and one that happened long ago."""
    emit(database, "before")
    tail = events.Tail(database)
    run_id = add_run(database)
    ended_at = time.time()
    emit(database, "order.old", occurred=time.time() - 86_400)
    first = [event.event for event in tail.poll()]
    end_task(database, run_id, "Completed", ended_at)
    emit(database, "order.new")

    assert first == ["orchestra.flow-run.created", "order.old"]
    assert [event.event for event in tail.poll()] == ["orchestra.task-run.Completed", "order.new"]
    assert tail.poll() == []


def test_a_tail_catches_up_with_many(database: Database) -> None:
    """It begins where it is told, and reads on page by page."""
    rows = [events.new(f"order.{number}", {events.ID: "order.1"}) for number in range(2500)]
    database.write(lambda connection: events.record(connection, *rows))
    tail = events.Tail(database, EventFilter(resources=("order.1",)), since=time.time() - 60)

    assert len(tail.poll()) == 2500
    assert tail.poll() == []


def test_what_is_no_cursor_is_refused(database: Database) -> None:
    """With where to take one from."""
    with pytest.raises(ConfigurationError, match="is no cursor"):
        events.page(database, after="yesterday")


@pytest.mark.parametrize(
    "wanted",
    [
        EventFilter(),
        EventFilter(events=("orchestra.flow-run.Failed",)),
        EventFilter(events=("orchestra.task-run.*",)),
        EventFilter(events=("orchestra.task-run.Running",)),
        EventFilter(events=("orchestra.flow-run.Scheduled",), flow_run_id="r"),
        EventFilter(events=("order.created",)),
        EventFilter(resources=("order.1",)),
        EventFilter(resources=("order.*",)),
        EventFilter(flow_run_id="r"),
        EventFilter(since=1.0, until=2.0),
    ],
    ids=str,
)
def test_no_list_of_events_scans_a_table(database: Database, wanted: EventFilter) -> None:
    """Each is answered from indexes, in their order, newest and oldest first."""
    emit(database, "order.created")
    plans: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "LIMIT" in statement and not statement.startswith("EXPLAIN"):
            driver = connection.connection.driver_connection
            if database.dialect == "postgresql":
                # Of this connection, which need not be that of the query before.
                driver.execute("SET enable_seqscan TO off")
            plan = driver.execute(
                f"EXPLAIN {'QUERY PLAN ' if database.dialect == 'sqlite' else ''}{statement}", parameters
            )
            plans.append("\n".join(str(row) for row in plan.fetchall()))

    sa.event.listen(sa.Engine, "before_cursor_execute", explain)
    try:
        for newest in (True, False):
            events.page(database, wanted, newest=newest, after="5.0/8/x")
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", explain)

    assert plans
    for plan in plans:
        assert "Seq Scan" not in plan, plan
        assert not [line for line in plan.splitlines() if "SCAN" in line and "INDEX" not in line and "(" not in line]


def told(database: Database, **wanted: Any) -> list[tuple[str, str]]:
    """What was done, and to what, the oldest first."""
    found, _ = events.page(database, EventFilter(**wanted), newest=False)
    return [(event.event.removeprefix("orchestra."), event.resource["orchestra.resource.name"]) for event in found]


def test_what_is_done_to_pools_queues_and_limits_is_told(database: Database) -> None:
    """Made, changed, paused, deleted: each in the transaction that does it."""
    work_pools.create(database, "gpu", "process")
    work_pools.create_queue(database, "gpu", "urgent")
    work_pools.update_queue(database, "gpu", "urgent", priority=2)
    work_pools.update(database, "gpu", paused=True)
    work_pools.update(database, "gpu", paused=False)
    work_pools.delete_queue(database, "gpu", "urgent")
    limits.create(database, "database", 3)
    limits.update(database, "database", {"slot_limit": 5})
    limits.delete(database, "database")
    work_pools.delete(database, "gpu")

    assert told(database) == [
        ("work-pool.created", "gpu"),
        ("work-queue.created", "gpu/urgent"),
        ("work-queue.updated", "gpu/urgent"),
        ("work-pool.paused", "gpu"),
        ("work-pool.resumed", "gpu"),
        ("work-queue.deleted", "gpu/urgent"),
        ("concurrency-limit.created", "database"),
        ("concurrency-limit.updated", "database"),
        ("concurrency-limit.deleted", "database"),
        ("work-pool.deleted", "gpu"),
    ]


def test_what_is_done_to_deployments_is_told(database: Database) -> None:
    """A deployment that is written again was updated; its schedules are told of by themselves."""
    new = NewDeployment(name="nightly", flow_name="etl", entrypoint="flows:etl", queue="etl")
    deployments.keep(database, new)
    deployments.keep(database, new)
    deployments.set_paused(database, "etl/nightly", True)
    deployments.set_paused(database, "etl/nightly", False)
    deployments.add_schedule(database, "etl/nightly", Cron("0 3 * * *", slug="night"))
    deployments.set_active(database, "etl/nightly", "night", False)
    deployments.delete_schedule(database, "etl/nightly", "night")
    deployments.delete(database, "etl/nightly")

    assert told(database) == [
        ("deployment.created", "etl/nightly"),
        ("deployment.updated", "etl/nightly"),
        ("deployment.paused", "etl/nightly"),
        ("deployment.resumed", "etl/nightly"),
        ("schedule.created", "night"),
        ("schedule.paused", "night"),
        ("schedule.deleted", "night"),
        ("deployment.deleted", "etl/nightly"),
    ]


def test_a_schedule_tells_what_it_fires_and_what_it_skips(database: Database) -> None:
    """After an outage of some hours only the last time is made up for: the others were skipped."""
    deployments.keep(database, NewDeployment(name="hourly", flow_name="etl", entrypoint="flows:etl", queue="etl"))
    deployments.add_schedule(database, "etl/hourly", Cron("0 * * * *", slug="hour"))
    away = {"fired_at": time.time() - 4 * 3600, "next_at": time.time() - 3 * 3600}
    database.write(lambda connection: connection.execute(tables.schedules.update().values(away)))

    firing.fire_due(database, lambda entrypoint: ("etl", None))

    assert sorted(told(database, events=("orchestra.schedule.fired", "orchestra.schedule.skipped"))) == [
        ("schedule.fired", "hour"),
        ("schedule.skipped", "hour"),
    ]


def test_what_people_ask_of_a_run_is_told(database: Database) -> None:
    """Beside the states that follow from it, which are in its history as well."""
    run_id = runs.create(database, NewRun("etl", "flows:etl", "brave-otter", b"", queue="etl")).row["id"]
    interventions.hold(database, run_id)
    interventions.resume(database, run_id)
    interventions.cancel(database, run_id)
    interventions.retry(database, run_id)

    assert [name for name, _ in told(database, flow_run_id=run_id)] == [
        "flow-run.created",
        "flow-run.Pending",
        "flow-run.Paused",
        "flow-run.pause-requested",
        "flow-run.resume-requested",
        "flow-run.Scheduled",
        "flow-run.cancel-requested",
        "flow-run.Cancelled",
        "flow-run.retry-requested",
        "flow-run.AwaitingRetry",
    ]


def test_a_deleted_run_leaves_the_event_of_its_deletion(database: Database) -> None:
    """Its states go with it."""
    run_id = runs.create(database, NewRun("etl", "flows:etl", "brave-otter", b"", queue="etl")).row["id"]
    interventions.cancel(database, run_id)
    removal.delete(database, run_id)

    assert [name for name, _ in told(database)] == ["flow-run.cancel-requested", "flow-run.deleted"]


def test_workers_come_go_and_are_lost(database: Database) -> None:
    """One that gives no heartbeat any more is struck off, once."""
    for name in ("celery@one", "celery@two"):
        workers.register(database, WorkerRow(name, "host", 1, ("etl",), 2, "prefork", "1"))
    workers.leave(database, "celery@one")
    silent = tables.workers.update().values(heartbeat_at=time.time() - 3600)
    database.write(lambda connection: connection.execute(silent))
    assert workers.tell_lost(database) == 1
    assert workers.tell_lost(database) == 0

    assert told(database) == [
        ("worker.online", "celery@one"),
        ("worker.online", "celery@two"),
        ("worker.offline", "celery@one"),
        ("worker.lost", "celery@two"),
    ]


def test_what_becomes_of_runs_that_nobody_carries_out_is_told(database: Database) -> None:
    """One whose process is dead has crashed, one that no worker takes up in time is late."""
    run_id = add_run(database)
    lapsed = {"owner": "host:1:1/0", "lease_until": time.time() - 100, "lease_seconds": 30.0}
    database.write(lambda connection: connection.execute(tables.flow_runs.update().values(lapsed)))
    local_runs.mark_dead(database, lambda owner: True)
    new = NewRun("etl", "flows:etl", "calm-otter", b"", queue="etl", deployment_id="d-1")
    runs.create(database, replace(new, due_at=time.time() - 100))
    ticks.mark_late(database)

    assert ("flow-run.Crashed", "brave-otter") in told(database, flow_run_id=run_id)
    assert ("flow-run.Late", "calm-otter") in told(database)


def test_a_run_that_is_taken_over_is_told(database: Database) -> None:
    """Its worker died: the lease lapsed, and another one claims it."""
    run_id = runs.create(database, NewRun("etl", "flows:etl", "brave-otter", b"", queue="etl")).row["id"]
    claims.claim_run(database, run_id)
    lapsed = tables.flow_runs.update().values(lease_until=time.time() - 1)
    database.write(lambda connection: connection.execute(lapsed))
    claims.claim_run(database, run_id)
    behind.flush()

    assert ("flow-run.taken-over", "brave-otter") in told(database, flow_run_id=run_id)
