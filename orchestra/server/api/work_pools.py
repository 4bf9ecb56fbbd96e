"""`/api/work_pools` and `/api/work_queues`: where runs of deployments go, and how they are started there."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field

from orchestra import work_pools as types
from orchestra.accounts import Scope
from orchestra.engine import upcoming
from orchestra.engine import work_pools as acting
from orchestra.engine.upcoming import UpcomingRun
from orchestra.server import announcing
from orchestra.server.acts import perform
from orchestra.server.api.shapes import After, Body, Count, Id, Limit, Name, Page, Positive, Text, Values
from orchestra.server.dependencies import Asker, Db
from orchestra.store import queries, slot_records, work_pools
from orchestra.store.queries import FlowRun
from orchestra.store.slot_records import SlotRecord, Slots
from orchestra.store.work_pools import WorkPool, WorkQueue

router = APIRouter(tags=["work pools"])

_Most = Annotated[int, Query(ge=1, le=1000, description="Most runs given.")]
_Queue = Annotated[Name | None, Query(description="Only those of this queue of the pool.")]


class NewPool(Body):
    """A work pool to be; its default queue is the Celery queue of its name."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "etl", "type": "process"}]})

    name: Name
    type: Name = "process"
    description: Text = ""
    is_paused: bool = False
    concurrency_limit: Positive | None = None
    base_job_template: Values | None = Field(default=None, description="Null: that of its type.")


class PoolChange(Body):
    """What to change of a work pool; what is not named stays."""

    type: Name | None = None
    description: Text | None = None
    is_paused: bool | None = None
    concurrency_limit: Positive | None = Field(default=None, description="Null takes it away.")
    base_job_template: Values | None = None


class NewQueue(Body):
    """A queue of a work pool to be."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "urgent", "priority": 0}]})

    name: Name
    description: Text = ""
    priority: Count = Field(default=1, description="The lowest number is served first.")
    concurrency_limit: Positive | None = None


class QueueChange(Body):
    """What to change of a work queue; what is not named stays."""

    description: Text | None = None
    priority: Count | None = None
    is_paused: bool | None = None
    concurrency_limit: Positive | None = Field(default=None, description="Null takes it away.")


def _changes(given: PoolChange | QueueChange) -> dict[str, Any]:
    """Columns and values; only a limit may be null."""
    named = given.model_dump(exclude_unset=True)
    changes = {name: each for name, each in named.items() if each is not None or name == "concurrency_limit"}
    if "is_paused" in changes:
        changes["paused"] = changes.pop("is_paused")
    return changes


# -- pools -------------------------------------------------------------------------------------------------------


@router.get("/work_pools", response_model=Page[WorkPool])
def list_work_pools(db: Db, limit: Limit = 50, after: After = None) -> queries.Page[WorkPool]:
    """Work pools by name."""
    return work_pools.list_pools(db, limit=limit, after=after)


@router.post("/work_pools", status_code=201)
def create_work_pool(db: Db, who: Asker, new: NewPool) -> WorkPool:
    """Make a work pool, with its default queue."""
    kind = types.type_named(new.type)
    template = kind.base_job_template() if new.base_job_template is None else new.base_job_template
    types.check_template(template)

    def act() -> WorkPool:
        return work_pools.create(
            db,
            new.name,
            new.type,
            description=new.description,
            paused=new.is_paused,
            concurrency_limit=new.concurrency_limit,
            base_job_template=template,
        )

    return perform(who, "create", f"work pool {new.name}", act, needs=Scope.ADMIN)


@router.get("/work_pools/{name}")
def read_work_pool(db: Db, name: Id) -> WorkPool:
    """A work pool."""
    return work_pools.read(db, name)


@router.patch("/work_pools/{name}")
def update_work_pool(db: Db, who: Asker, name: Id, change: PoolChange) -> WorkPool:
    """Change a work pool; runs that are written already stay as they are."""
    changes = _changes(change)
    if "type" in changes:
        types.type_named(changes["type"])
    if "base_job_template" in changes:
        types.check_template(changes["base_job_template"])
    if not changes:
        return work_pools.read(db, name)

    def act() -> WorkPool:
        return acting.change(db, name, announcing.announce, **changes)

    return perform(who, "change", f"work pool {name}", act, needs=Scope.ADMIN)


@router.post("/work_pools/{name}/pause")
def pause_work_pool(db: Db, who: Asker, name: Id) -> WorkPool:
    """Start nothing in a pool until it is resumed; what has begun goes on."""

    def act() -> WorkPool:
        return acting.change(db, name, announcing.announce, paused=True)

    return perform(who, "pause", f"work pool {name}", act)


@router.post("/work_pools/{name}/resume")
def resume_work_pool(db: Db, who: Asker, name: Id) -> WorkPool:
    """Let a paused pool go on."""
    return perform(
        who, "resume", f"work pool {name}", lambda: acting.change(db, name, announcing.announce, paused=False)
    )


@router.delete("/work_pools/{name}", status_code=204)
def delete_work_pool(db: Db, who: Asker, name: Id) -> None:
    """Delete a work pool and its queues; its deployments stay, NOT_READY."""
    perform(who, "delete", f"work pool {name}", lambda: acting.delete(db, name, announcing.announce), needs=Scope.ADMIN)


@router.get("/work_pools/{name}/slots")
def read_work_pool_slots(db: Db, name: Id) -> list[Slots]:
    """Of each queue of a pool, its workers' slots, and how many runs are at work and wait."""
    return slot_records.slots(db, work_pools.list_queues(db, name))


@router.get("/work_pools/{name}/holders")
def list_slot_holders(db: Db, name: Id) -> list[SlotRecord]:
    """The runs at work in a pool, then those that wait for a slot, in their order; 1,000 of each kind at most."""
    return slot_records.holders(db, name, [each.name for each in work_pools.list_queues(db, name)])


@router.get("/work_pools/{name}/waiting")
def list_waiting_runs(db: Db, name: Id, limit: _Most = 20, queue: _Queue = None) -> list[FlowRun]:
    """The runs that wait to start in a pool, or to go on, the first due first."""
    return queries.waiting_runs(db, work_pools.celery_queues(db, name, queue), limit=limit)


@router.get("/work_pools/{name}/upcoming")
def list_upcoming_runs(db: Db, name: Id, limit: _Most = 20, queue: _Queue = None) -> list[UpcomingRun]:
    """The next runs that the schedules of a pool's deployments will make, the first first."""
    return upcoming.of_pool(db, name, limit, queue=queue)


# -- queues ------------------------------------------------------------------------------------------------------


@router.get("/work_queues")
def list_work_queues(
    db: Db, work_pool_name: Annotated[Name | None, Query(description="Only those of this pool.")] = None
) -> list[WorkQueue]:
    """Work queues by pool, in the order in which they are served."""
    return work_pools.list_queues(db, work_pool_name)


@router.get("/work_pools/{pool}/queues")
def list_work_queues_of_pool(db: Db, pool: Id) -> list[WorkQueue]:
    """The queues of a pool, in the order in which they are served."""
    return work_pools.list_queues(db, pool)


@router.post("/work_pools/{pool}/queues", status_code=201)
def create_work_queue(db: Db, who: Asker, pool: Id, new: NewQueue) -> WorkQueue:
    """Make queue `q` of pool `P`: the Celery queue `P.q`."""

    def act() -> WorkQueue:
        given = new.model_dump(exclude={"name"})
        return work_pools.create_queue(db, pool, new.name, **given)

    return perform(who, "create", f"work queue {new.name} of pool {pool}", act, needs=Scope.ADMIN)


@router.get("/work_pools/{pool}/queues/{name}")
def read_work_queue(db: Db, pool: Id, name: Id) -> WorkQueue:
    """A work queue."""
    return work_pools.read_queue(db, pool, name)


@router.patch("/work_pools/{pool}/queues/{name}")
def update_work_queue(db: Db, who: Asker, pool: Id, name: Id, change: QueueChange) -> WorkQueue:
    """Change a work queue."""
    changes = _changes(change)
    if not changes:
        return work_pools.read_queue(db, pool, name)

    def act() -> WorkQueue:
        return acting.change_queue(db, pool, name, announcing.announce, **changes)

    return perform(who, "change", f"work queue {name} of pool {pool}", act, needs=Scope.ADMIN)


@router.post("/work_pools/{pool}/queues/{name}/pause")
def pause_work_queue(db: Db, who: Asker, pool: Id, name: Id) -> WorkQueue:
    """Start nothing of a queue until it is resumed; what has begun goes on."""

    def act() -> WorkQueue:
        return acting.change_queue(db, pool, name, announcing.announce, paused=True)

    return perform(who, "pause", f"work queue {name} of pool {pool}", act)


@router.post("/work_pools/{pool}/queues/{name}/resume")
def resume_work_queue(db: Db, who: Asker, pool: Id, name: Id) -> WorkQueue:
    """Let a paused queue go on."""

    def act() -> WorkQueue:
        return acting.change_queue(db, pool, name, announcing.announce, paused=False)

    return perform(who, "resume", f"work queue {name} of pool {pool}", act)


@router.delete("/work_pools/{pool}/queues/{name}", status_code=204)
def delete_work_queue(db: Db, who: Asker, pool: Id, name: Id) -> None:
    """Delete a work queue; what waits there waits on."""

    def act() -> None:
        acting.delete_queue(db, pool, name, announcing.announce)

    perform(who, "delete", f"work queue {name} of pool {pool}", act, needs=Scope.ADMIN)
