"""What `work-pool` and `work-queue` show alike: waiting runs, and slots."""

from __future__ import annotations

from collections.abc import Sequence

from orchestra.cli import _support
from orchestra.store import queries, workers
from orchestra.store.database import Database
from orchestra.store.queries import FlowRun
from orchestra.store.work_pools import WorkQueue


def show_waiting(found: Sequence[FlowRun], output: str) -> None:
    """Runs that wait to start."""
    if output == "json":
        _support.emit_json(found)
        return
    rows = [(r.id, r.flow_name, r.name, r.state_name, r.work_queue_name, r.expected_start_time) for r in found]
    _support.emit_table(("ID", "FLOW", "NAME", "STATE", "QUEUE", "DUE"), rows)


def show_slots(db: Database, queues: Sequence[WorkQueue], output: str) -> None:
    """Of each queue: its workers' slots, the runs at work, those that wait, and its limit."""
    slots, counts = workers.slots_by_queue(db), queries.runs_by_queue(db, [each.celery_queue for each in queues])
    found = [
        {
            "name": each.name,
            "celery_queue": each.celery_queue,
            "worker_slots": slots.get(each.celery_queue, 0),
            "active": counts.get(each.celery_queue, (0, 0))[0],
            "waiting": counts.get(each.celery_queue, (0, 0))[1],
            "concurrency_limit": each.concurrency_limit,
        }
        for each in queues
    ]
    if output == "json":
        _support.emit_json(found)
        return
    columns = ("QUEUE", "CELERY QUEUE", "SLOTS", "ACTIVE", "WAITING", "LIMIT")
    _support.emit_table(columns, [tuple("" if value is None else value for value in row.values()) for row in found])
