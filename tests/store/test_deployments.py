"""Deployments and work pools on both databases: ids stay, lists are paged, and what is missing is named."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from orchestra import failpoints
from orchestra.errors import (
    AlreadyThere,
    ConfigurationError,
    DeploymentNotFound,
    ScheduleNotFound,
    WorkPoolNotFound,
    WorkQueueNotFound,
)
from orchestra.schedules import Cron, Interval, Schedule
from orchestra.store import deployments, queries, runs, work_pools, workers
from orchestra.store.database import Database
from orchestra.store.deployments import NewDeployment
from orchestra.store.tables import schedules
from orchestra.store.workers import WorkerRow


def new(name: str = "nightly", flow: str = "etl", **fields: object) -> NewDeployment:
    """A deployment to be."""
    return replace(NewDeployment(name, flow, "/srv/etl.py:etl", "default"), **fields)  # type: ignore[arg-type]


def keep(database: Database, *schedules: Schedule, **fields: object) -> str:
    """Write one with these schedules."""
    return deployments.keep(database, new(**fields), schedules)  # type: ignore[arg-type]


def slugs(database: Database, deployment: str) -> list[str | None]:
    """Of its schedules."""
    return [each.slug for each in deployments.read(database, deployment).schedules]


def test_a_second_deploy_changes_the_first_one_and_keeps_its_ids(database: Database) -> None:
    """So do schedules that are the same by rule or by slug."""
    first = keep(database, Cron("0 9 * * *"), Interval(60, slug="often"), parameters={"day": 1})
    before = {each.cron or each.slug: each.id for each in deployments.read(database, first).schedules}

    again = keep(database, Cron("0 9 * * *"), Interval(90, slug="often"), tags=["b", "a"], parameters={"day": 2})

    found = deployments.read(database, "etl/nightly")
    assert again == first == found.id
    assert (found.parameters, found.tags) == ({"day": 2}, ("a", "b"))
    assert {each.cron or each.slug: each.id for each in found.schedules} == before
    assert [each.interval for each in found.schedules if each.slug] == [90.0]


def test_schedules_that_are_no_longer_there_are_deleted_and_none_given_leaves_them(database: Database) -> None:
    """An empty list is another thing than none."""
    keep(database, Cron("0 9 * * *", slug="a"), Cron("0 9 * * *", slug="b"))

    keep(database, Cron("0 9 * * *", slug="b"))
    assert slugs(database, "etl/nightly") == ["b"]
    deployments.keep(database, new(), None)
    assert slugs(database, "etl/nightly") == ["b"]
    keep(database)
    assert slugs(database, "etl/nightly") == []


def test_a_schedule_may_take_the_place_of_all_others(database: Database) -> None:
    """Also of one with its slug."""
    keep(database, Cron("0 9 * * *", slug="a"), Interval(60, slug="b"))

    deployments.add_schedule(database, "etl/nightly", Interval(90, slug="b"), replace=True)

    assert [(each.slug, each.interval) for each in deployments.read(database, "etl/nightly").schedules] == [("b", 90.0)]


def test_schedules_are_not_gone_before_what_replaces_them_is_there(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go with the commit that brings it: whatever comes between leaves them as they were."""
    keep(database, Cron("0 9 * * *", slug="a"), Interval(60, slug="b"))

    monkeypatch.setattr(failpoints, "_TEXT", "amid_deploy=raise")
    monkeypatch.setattr(failpoints, "_POINTS", failpoints.parse("amid_deploy=raise"))
    with pytest.raises(failpoints.FailpointHit):
        deployments.add_schedule(database, "etl/nightly", Interval(90), replace=True)

    assert slugs(database, "etl/nightly") == ["a", "b"]


def test_of_schedules_that_replace_all_at_once_one_stays(database: Database) -> None:
    """Each takes away those that came before it."""
    keep(database, Interval(60))

    with ThreadPoolExecutor(6) as pool:
        rules = [Interval(60 + number) for number in range(12)]
        made = list(pool.map(lambda rule: deployments.add_schedule(database, "etl/nightly", rule, replace=True), rules))

    (left,) = deployments.read(database, "etl/nightly").schedules
    assert left.id in made


def test_two_equal_schedules_stay_two(database: Database) -> None:
    """However often they are deployed."""
    for _ in range(2):
        keep(database, Interval(60), Interval(60))
        assert len(deployments.read(database, "etl/nightly").schedules) == 2


def test_a_pause_outlives_a_deploy_that_says_nothing_of_it(database: Database) -> None:
    """And one that does says the last word."""
    keep(database)
    deployments.set_paused(database, "etl/nightly", True)

    keep(database)
    assert deployments.read(database, "etl/nightly").paused
    keep(database, paused=False)
    assert not deployments.read(database, "etl/nightly").paused


def test_pools_queues_and_deployments_are_ready_while_a_worker_listens(database: Database) -> None:
    """A deployment may come before its pool, and is READY once both are there."""
    keep(database, work_pool_name="later", queue="later")

    def statuses() -> tuple[str, ...]:
        pool, queues = work_pools.read(database, "later"), work_pools.list_queues(database, "later")
        return deployments.read(database, "etl/nightly").status, pool.status, *(queue.status for queue in queues)

    workers.register(database, WorkerRow("w@h", "h", 1, ("later",), 2, "prefork", "1"))
    assert deployments.read(database, "etl/nightly").status == "NOT_READY"
    work_pools.create(database, "later", "process")
    work_pools.create_queue(database, "later", "slow", priority=5)
    assert statuses() == ("READY", "READY", "READY", "NOT_READY")
    work_pools.update(database, "later", paused=True)
    assert statuses() == ("READY", "PAUSED", "PAUSED", "PAUSED")
    work_pools.update(database, "later", paused=False)
    workers.leave(database, "w@h")
    assert statuses() == ("NOT_READY",) * 4


def test_deployments_are_listed_by_flow_and_name_in_pages(database: Database) -> None:
    """A page goes on after the last one of the page before."""
    for flow in ("b/c", "a"):
        for name in ("two", "one"):
            keep(database, name=name, flow=flow)

    pages, after = [], None
    while True:
        page = deployments.list_deployments(database, limit=3, after=after)
        pages.append([each.full_name for each in page.items])
        if (after := page.next) is None:
            break
    assert pages == [["a/one", "a/two", "b/c/one"], ["b/c/two"]]
    assert [each.name for each in deployments.list_deployments(database, flow_names=["a"]).items] == ["one", "two"]


def test_what_is_not_there_is_named(database: Database) -> None:
    """Each with what to do."""
    keep(database, Cron("0 9 * * *", slug="a"))
    for act in (deployments.read, deployments.delete, deployments.clear_schedules):
        with pytest.raises(DeploymentNotFound, match="etl/daily"):
            act(database, "etl/daily")
    with pytest.raises(ScheduleNotFound, match="has no schedule 'b'"):
        deployments.set_active(database, "etl/nightly", "b", True)
    with pytest.raises(AlreadyThere, match="'a'"):
        deployments.add_schedule(database, "etl/nightly", Interval(60, slug="a"))


def test_runs_of_a_deployment_outlive_it(database: Database) -> None:
    """Its schedules do not."""
    deployment_id = keep(database, Cron("0 9 * * *"))
    run = runs.NewRun("etl", "etl:etl", "brave-otter", b"{}", deployment_id=deployment_id)
    runs.create(database, run)
    runs.create(database, runs.NewRun("etl", "etl:etl", "other", b"{}"))

    deployments.delete(database, deployment_id)

    assert [each.id for each in queries.list_flow_runs(database, deployment_id=deployment_id).items] == [run.id]
    assert database.read(lambda c: c.execute(sa.select(schedules)).all()) == []


# -- work pools --------------------------------------------------------------------------------------------------


def queue_names(found: Iterable[work_pools.WorkQueue]) -> list[str]:
    """The Celery queues."""
    return [each.celery_queue for each in found]


def test_a_pool_has_a_default_queue_of_its_own_name(database: Database) -> None:
    """Its other queues are named after it, and listed in the order in which they are served."""
    work_pools.create(database, "etl", "process")
    work_pools.create_queue(database, "etl", "urgent", priority=0)
    work_pools.create_queue(database, "etl", "slow", priority=5)

    assert queue_names(work_pools.list_queues(database, "etl")) == ["etl.urgent", "etl", "etl.slow"]
    work_pools.delete(database, "etl")
    assert work_pools.list_queues(database) == []


def test_a_pool_is_changed_by_name(database: Database) -> None:
    """What is not named stays; a template is kept as it was written."""
    template = {"job_configuration": {"image": "{{ image }}"}, "variables": {"type": "object"}}
    made = work_pools.create(database, "etl", "docker", base_job_template=template, concurrency_limit=3)

    changed = work_pools.update(database, "etl", description="nightly loads", concurrency_limit=None)

    assert (changed.id, changed.type, changed.base_job_template) == (made.id, "docker", template)
    assert (changed.description, changed.concurrency_limit) == ("nightly loads", None)
    with pytest.raises(AlreadyThere, match="etl"):
        work_pools.create(database, "etl", "process")


@pytest.mark.parametrize("name", ["a.b", "a,b", "a b", "", "wake", "q@1", "ä"])
def test_a_name_that_a_celery_queue_cannot_have_is_refused(database: Database, name: str) -> None:
    """Of a pool and of a queue alike."""
    with pytest.raises(ConfigurationError, match="Celery queue"):
        work_pools.create(database, name, "process")


def test_pools_and_queues_that_are_not_there_are_named(database: Database) -> None:
    """Each with what to do."""
    with pytest.raises(WorkPoolNotFound, match="orchestra work-pool create etl"):
        work_pools.read_queue(database, "etl", "slow")
    work_pools.create(database, "etl", "process")
    with pytest.raises(WorkQueueNotFound, match="no queue 'slow'"):
        work_pools.update_queue(database, "etl", "slow", paused=True)
    with pytest.raises(ConfigurationError, match="belongs to its pool"):
        work_pools.delete_queue(database, "etl", "default")
