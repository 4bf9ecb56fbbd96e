"""What the commands of work pools, work queues and deployments show alike: what waits, who has slots, who listens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple
from typing import TYPE_CHECKING

from orchestra.cli import _support
from orchestra.cli._support import backend
from orchestra.errors import WorkPoolNotFound
from orchestra.names import pool_of

if TYPE_CHECKING:
    from orchestra.client.backend import Backend
    from orchestra.store.slot_records import SlotRecord


def show_waiting(pool: str, queue: str | None, limit: int, output: str) -> None:
    """Runs that wait to start in a pool, or in a queue of it, then those that schedules will make, without an id."""
    at = backend()
    found = at.waiting_runs(pool, queue, limit=limit)
    upcoming = at.upcoming_runs(pool, queue, limit=limit)[: limit - len(found)]
    if output == "json":
        planned = [_support.jsonable(each) | {"id": None, "state_type": "SCHEDULED"} for each in upcoming]
        _support.emit_json([*found, *planned])
        return
    rows = [(r.id, r.flow_name, r.name, r.state_name, r.work_queue_name, r.expected_start_time) for r in found]
    rows += [
        ("", r.flow_name, f"of {r.deployment_name}", r.state_name, r.work_queue_name, r.expected_start_time)
        for r in upcoming
    ]
    _support.emit_table(("ID", "FLOW", "NAME", "STATE", "QUEUE", "DUE"), rows)


def show_slots(pool: str, queue: str | None, output: str) -> None:
    """Of each queue of a pool, or of one: workers' slots, runs at work, those that wait, its limit; then which."""
    at = backend()
    names = [each.name for each in at.list_queues(pool)] if queue is None else [at.read_queue(pool, queue).name]
    found = [each for each in at.slots(pool) if each.name in names]
    holders = [each for each in at.slot_holders(pool) if pool_of(each.work_queue_name)[1] in names]
    limit = at.read_pool(pool).concurrency_limit
    if output == "json":
        _support.emit_json([asdict(each) | _of_queue(each.name, holders, limit) for each in found])
        return
    columns = ("QUEUE", "CELERY QUEUE", "SLOTS", "ACTIVE", "WAITING", "LIMIT")
    _support.emit_table(columns, [astuple(each) for each in found])
    if limit is not None:
        _support.say(f"work pool {pool!r} has a concurrency limit of {limit}")
    if holders:
        _support.emit("")
        _support.emit_table(("RUN", "NAME", "DEPLOYMENT", "STATE", "SINCE", "WHERE"), [_row(one) for one in holders])


def _of_queue(name: str, holders: Sequence[SlotRecord], limit: int | None) -> dict[str, object]:
    mine = [one for one in holders if pool_of(one.work_queue_name)[1] == name]
    return {
        "work_pool_concurrency_limit": limit,
        "holders": [one for one in mine if one.has_slot],
        "waiting_for_slot": [one for one in mine if not one.has_slot],
    }


def _row(one: SlotRecord) -> tuple[object, ...]:
    where = one.process or ("parked" if one.has_slot else one.state_message)
    return one.id, one.name, one.deployment_name or "", one.state_name, one.since, where or ""


def say_unheard(at: Backend, *queues: str) -> None:
    """Say of each of these Celery queues that nobody consumes it, where that is so: what goes there waits."""
    heard = at.slots_by_queue() if any(queues) else {}
    for queue in queues:
        if queue and queue not in heard:
            _support.say(f"No worker listens on queue {queue!r}: start one with `{_command(at, queue)}`")


def _command(at: Backend, queue: str) -> str:
    """What starts a worker that consumes a queue."""
    pool, name = pool_of(queue)
    try:
        at.read_pool(pool)
    except WorkPoolNotFound:
        return f"orchestra worker start -q {queue}"
    return f"orchestra worker start --pool {pool}" + ("" if queue == pool else f" -q {name}")
