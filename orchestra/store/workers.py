"""Workers: who lives, on which queues, with how many slots; and what was claimed of each queue last."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import settings
from orchestra.store import events
from orchestra.store.database import Database, insert, now
from orchestra.store.tables import Phase, flow_runs, phase_is, queue_marks, steps, workers

#: How many flow runs, and how many steps, are announced soon when a worker comes.
_HASTENED = 1000
#: For how long one that died is still shown, in seconds.
KEPT = 3 * 86_400.0


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker as it registers."""

    #: Celery's node name, `celery@host`.
    name: str
    host: str
    pid: int
    queues: tuple[str, ...]
    slots: int
    pool: str
    version: str


@dataclass(frozen=True, slots=True)
class LiveWorker(WorkerRow):
    """A worker that lives, and since when. Instants are seconds since the epoch."""

    started_at: float
    heartbeat_at: float
    stopping: bool


def register(database: Database, worker: WorkerRow) -> None:
    """Write a worker down, in place of an earlier one of its name; what waited long on its queues is announced soon.

    A crash between the two leaves the waiting rows to be announced when they would have been.
    """
    values: dict[str, Any] = {
        "host": worker.host,
        "pid": worker.pid,
        "queues": json.dumps(sorted(worker.queues)),
        "slots": worker.slots,
        "pool": worker.pool,
        "version": worker.version,
        "started_at": now(),
        "heartbeat_at": now(),
        "stopping": False,
        "processes": "[]",
    }

    told = events.act("worker", "online", worker.name, worker.name, queues=sorted(worker.queues), slots=worker.slots)

    def work(connection: Connection) -> None:
        statement = insert(connection, workers).values(name=worker.name, **values)
        connection.execute(statement.on_conflict_do_update(index_elements=[workers.c.name], set_=values))
        events.record(connection, told)

    database.write(work)
    database.write(lambda connection: _hasten(connection, worker.queues))


def _hasten(connection: Connection, queues: Sequence[str]) -> None:
    """Let rows that waited for somebody to consume these queues be repeated a lease after their last message.

    Not all of a long queue: once some are claimed, the rest are known to be waiting behind them, or to be lost.
    """
    lease = settings.current().lease_seconds
    for table in (flow_runs, steps):
        column = table.c
        # Past the jitter of a first repetition.
        grown = column.announce_at > column.announced_at + 1.3 * lease
        query = (
            sa.select(column.id)
            .where(phase_is(table, Phase.READY), column.announce_at > now(), column.queue.in_(queues), grown)
            .order_by(column.announce_at)
            .limit(_HASTENED)
            # What somebody is writing is not waited for: it goes on as it is.
            .with_for_update(skip_locked=True)
        )
        ids = list(connection.scalars(query))
        connection.execute(sa.update(table).where(column.id.in_(ids)).values(announce_at=column.announced_at + lease))


def beat(database: Database, name: str, *, stopping: bool = False, processes: Iterable[str] = ()) -> bool:
    """Note that a worker lives; false where it is not registered (any more).

    Args:
        stopping: It takes no more work.
        processes: `pid:start` of itself and of its children.
    """
    values = {"heartbeat_at": now(), "stopping": stopping, "processes": json.dumps(sorted(processes))}
    statement = sa.update(workers).where(workers.c.name == name).values(values)
    return database.write(lambda connection: connection.execute(statement).rowcount == 1)


def consume(database: Database, name: str, queues: Sequence[str]) -> None:
    """Note that a worker consumes these queues now; what waited long on them is announced soon. Safe to repeat."""
    statement = sa.update(workers).where(workers.c.name == name).values(queues=json.dumps(sorted(queues)))
    database.write(lambda connection: connection.execute(statement))
    database.write(lambda connection: _hasten(connection, queues))


def leave(database: Database, name: str, *, died: bool = False) -> None:
    """Forget a worker that ended, of itself or because it died."""
    statement = sa.delete(workers).where(workers.c.name == name)
    told = events.act("worker", "offline", name, name, died=died)

    def work(connection: Connection) -> None:
        if connection.execute(statement).rowcount:
            events.record(connection, told)

    database.write(work)


def tell_lost(database: Database) -> int:
    """Tell once of workers that have given no heartbeat for two leases: their hosts are lost, or cut off; how many.

    They are taken to be stopping, until they give one again. Safe to repeat.
    """
    silent = workers.c.heartbeat_at < now() - 2 * settings.current().lease_seconds
    lost = sa.and_(silent, ~workers.c.stopping)
    statement = sa.update(workers).where(lost).values(stopping=True).returning(workers.c.name)

    def work(connection: Connection) -> int:
        names = list(connection.scalars(statement))
        events.record(connection, *(events.act("worker", "lost", name, name) for name in names))
        return len(names)

    is_any = sa.select(workers.c.name).where(lost).limit(1)
    return database.write(work) if database.read(lambda connection: connection.scalar(is_any)) else 0


def forget_old(database: Database) -> int:
    """Delete the rows of workers that have not been heard of for long; returns how many. Safe to repeat."""
    statement = sa.delete(workers).where(workers.c.heartbeat_at < now() - KEPT)
    return database.write(lambda connection: connection.execute(statement).rowcount)


def live(database: Database) -> list[LiveWorker]:
    """The workers that gave a heartbeat within the last lease, by name."""
    return database.read(_select_live)


def live_queues(connection: Connection) -> frozenset[str]:
    """The queues that live workers consume, but for those that are stopping."""
    return frozenset(queue for worker in _select_live(connection) if not worker.stopping for queue in worker.queues)


def slots_by_queue(database: Database) -> dict[str, int]:
    """How many slots live workers have for each queue."""
    return slots_of(live(database))


def slots_of(those: Iterable[LiveWorker]) -> dict[str, int]:
    """How many slots these workers have for each queue; those that are stopping have none."""
    found: dict[str, int] = {}
    for worker in those:
        if worker.stopping:
            continue
        for queue in worker.queues:
            found[queue] = found.get(queue, 0) + worker.slots
    return found


def mark_claimed(database: Database, queue: str, announced_at: float) -> None:
    """Note that a message of `queue` which was announced at `announced_at` (seconds since the epoch) was claimed."""

    def work(connection: Connection) -> None:
        statement = insert(connection, queue_marks).values(queue=queue, announced_at=announced_at, claimed_at=now())
        later = sa.case((queue_marks.c.announced_at > announced_at, queue_marks.c.announced_at), else_=announced_at)
        changed = {"announced_at": later, "claimed_at": now()}
        connection.execute(statement.on_conflict_do_update(index_elements=[queue_marks.c.queue], set_=changed))

    database.write(work)


def _select_live(connection: Connection) -> list[LiveWorker]:
    alive = workers.c.heartbeat_at > now() - settings.current().lease_seconds
    return [_live(row) for row in connection.execute(sa.select(workers).where(alive).order_by(workers.c.name))]


def _live(row: Any) -> LiveWorker:
    return LiveWorker(
        name=row.name,
        host=row.host,
        pid=row.pid,
        queues=tuple(json.loads(row.queues)),
        slots=row.slots,
        pool=row.pool,
        version=row.version,
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
        stopping=row.stopping,
    )
