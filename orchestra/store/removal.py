"""Delete ended runs, with all that belongs to them: one that a person names, and those that are old.

What is old goes in small transactions, with a pause after each: readers and writers pass between them. A crash leaves
what was not reached to the next time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock
from orchestra.errors import FlowRunNotFound, IllegalTransition
from orchestra.failpoints import failpoint
from orchestra.store import artifacts, blobs, cache, events
from orchestra.store.database import Database
from orchestra.store.tables import (
    Phase,
    flow_runs,
    logs,
    owed_hooks,
    pass_ons,
    phase_is,
    steps,
    transactions,
)
from orchestra.store.tables import events as event_rows
from orchestra.transaction_rules import Durable

#: How many runs are looked at in one go, and how many rows of other tables.
_RUNS, _ROWS = 50, 500
#: Of runs with more steps than this together, fewer are deleted in one transaction.
_STEPS = 2000
#: How long others have the database for themselves after each transaction, in seconds.
_PAUSE = 0.02

Pause = Callable[[float], object]


def delete(database: Database, run_id: str) -> None:
    """Delete a run with all that belongs to it, its child runs, and large results that no other run has.

    Its artifacts that have a key stay, as versions of their keys.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It has not ended; cancel it first.
    """
    found: list[str] = []
    large: set[str] = set()
    event_id = events.new_id()

    def work(connection: Connection) -> None:
        row = connection.execute(sa.select(flow_runs).where(flow_runs.c.id == run_id).with_for_update()).first()
        if row is None:
            if found:  # the answer to the try before was lost: it is done
                return
            raise FlowRunNotFound(run_id)
        found.append(row.id)
        if row.phase != Phase.DONE:
            raise IllegalTransition(run_id, row.state_type, "deleted before it has ended; cancel it first")
        events.record(connection, events.act("flow-run", "deleted", row.id, row.name, id=event_id, run_id=row.id))
        large.update(_remove(connection, _families(connection, [run_id])[run_id]))

    database.write(work)
    failpoint("before_removal")
    blobs.remove_dropped(database, large)


def prune(database: Database, keep: Mapping[str, float], pause: Pause = time.sleep) -> dict[str, int]:
    """Delete what is older than it is to be kept. Safe to repeat, and to run beside workers.

    Of runs, those that ended so long ago, with their children; one stays as long as it owes something: hooks, an
    outcome to a canvas, a rollback that failed. Of log lines, those of runs that have ended. Of artifacts, versions of
    a key before its newest one, and those that belong to no run. Of cache entries, those that have expired.

    Args:
        keep: For how long, in seconds, by what: "runs", "logs", "events", "artifacts"; infinite: for ever.
        pause: Lets others have the database, for so many seconds.

    Returns:
        How much was deleted, by what; nothing is left out.
    """
    prunes = {"runs": _prune_runs, "logs": _prune_logs, "events": _prune_events, "artifacts": _prune_artifacts}
    before = {what: clock.now() - seconds for what, seconds in keep.items() if math.isfinite(seconds)}
    rows = {what: sum(prunes[what](database, instant, pause)) for what, instant in before.items()}
    rows["cache entries"] = cache.clear(database, cache.Query(expired_only=True))
    return {what: number for what, number in rows.items() if number}


def _prune_runs(database: Database, before: float, pause: Pause) -> Iterator[int]:
    column = flow_runs.c
    # By the index on the creation, as a run ends after that: what is too young ends the search.
    query = (
        sa.select(column.id, column.created_at)
        .where(column.created_at < before, column.parent_run_id.is_(None), *_is_over(before))
        .order_by(column.created_at, column.id)
        .limit(_RUNS)
    )
    last: tuple[float, str] | None = None
    while True:
        beyond = [] if last is None else [sa.tuple_(column.created_at, column.id) > sa.tuple_(*map(sa.literal, last))]
        page = _rows(database, query.where(*beyond))
        if not page:
            return
        last = (page[-1].created_at, page[-1].id)
        for some in _batches(database, [row.id for row in page]):
            yield _delete_old(database, some, before)
            pause(_PAUSE)


def _is_over(before: float) -> list[sa.ColumnElement[bool]]:
    """The conditions that a run ended before a time and owes nothing."""
    column = flow_runs.c
    owing = (
        sa.select(owed_hooks.c.run_id).where(owed_hooks.c.run_id == column.id),
        sa.select(pass_ons.c.run_id).where(pass_ons.c.run_id == column.id, pass_ons.c.passed_at.is_(None)),
        sa.select(transactions.c.run_id).where(
            transactions.c.run_id == column.id,
            transactions.c.state.not_in([Durable.COMMITTED.value, Durable.ROLLED_BACK.value]),
        ),
    )
    return [phase_is(flow_runs, Phase.DONE), column.end_time < before, *(~sa.exists(each) for each in owing)]


def _batches(database: Database, run_ids: Sequence[str]) -> Iterator[list[str]]:
    """The runs in groups that one transaction may delete: a large run by itself."""
    counted = sa.select(steps.c.run_id, sa.func.count()).where(steps.c.run_id.in_(run_ids)).group_by(steps.c.run_id)
    sizes: dict[str, int] = {run_id: size for run_id, size in _rows(database, counted)}
    batch: list[str] = []
    total = 0
    for run_id in run_ids:
        size = sizes.get(run_id, 0)
        if batch and total + size > _STEPS:
            yield batch
            batch, total = [], 0
        batch.append(run_id)
        total += size
    if batch:
        yield batch


def _delete_old(database: Database, run_ids: Sequence[str], before: float) -> int:
    """Delete those of these root runs that are still over, with their children; gives how many in all."""
    large: set[str] = set()
    locked = sa.select(flow_runs.c.id).where(flow_runs.c.id.in_(run_ids), *_is_over(before))

    def work(connection: Connection) -> int:
        large.clear()
        roots = list(connection.scalars(locked.order_by(flow_runs.c.id).with_for_update()))
        families = _families(connection, roots)
        everybody = [run_id for family in families.values() for run_id in family]
        over = set(
            connection.scalars(sa.select(flow_runs.c.id).where(flow_runs.c.id.in_(everybody), *_is_over(before)))
        )
        doomed = [run_id for family in families.values() if over.issuperset(family) for run_id in family]
        large.update(_remove(connection, doomed))
        return len(doomed)

    deleted = database.write(work)
    blobs.remove_dropped(database, large)
    return deleted


def _families(connection: Connection, roots: Iterable[str]) -> dict[str, list[str]]:
    """Each of these runs with all that it started, by level."""
    families = {root: [root] for root in roots}
    level = {root: root for root in families}
    while level:
        children = sa.select(flow_runs.c.id, flow_runs.c.parent_run_id).where(flow_runs.c.parent_run_id.in_(level))
        below = {row.id: level[row.parent_run_id] for row in connection.execute(children)}
        for run_id, root in below.items():
            families[root].append(run_id)
        level = below
    return families


def _remove(connection: Connection, run_ids: Sequence[str]) -> set[str]:
    """Delete runs, and of their large results those that nobody else has; gives the names of all of these."""
    if not run_ids:
        return set()
    queries = [
        sa.select(table.c.result_blob).where(column.in_(run_ids), table.c.result_blob.is_not(None))
        for table, column in ((flow_runs, flow_runs.c.id), (steps, steps.c.run_id))
    ]
    large = {name for query in queries for name in connection.scalars(query)}
    artifacts.delete_of_runs(connection, run_ids)
    connection.execute(sa.delete(flow_runs).where(flow_runs.c.id.in_(run_ids)))
    blobs.drop_unused(connection, large)
    return large


def _prune_logs(database: Database, before: float, pause: Pause) -> Iterator[int]:
    """Line by line as they were written, which is nearly by time: the first page that is too young is the last."""
    column, last = logs.c, 0
    while True:
        query = sa.select(column.id, column.run_id, column.timestamp).where(column.id > last)
        page = _rows(database, query.order_by(column.id).limit(_ROWS))
        old = [row for row in page if row.timestamp < before]
        if not old:
            return
        last = page[-1].id
        # A body that goes on is replayed, and writes again what is not there.
        ended = sa.select(flow_runs.c.id).where(
            flow_runs.c.id.in_({row.run_id for row in old}), phase_is(flow_runs, Phase.DONE)
        )
        over = {row.id for row in _rows(database, ended)}
        yield _delete(database, logs, column.id, [row.id for row in old if row.run_id in over])
        pause(_PAUSE)


def _prune_events(database: Database, before: float, pause: Pause) -> Iterator[int]:
    column = event_rows.c
    old = sa.select(column.id).where(column.received < before).order_by(column.received, column.id).limit(_ROWS)
    statement = sa.delete(event_rows).where(column.id.in_(old.scalar_subquery()))
    while deleted := database.write(lambda connection: connection.execute(statement).rowcount):
        yield deleted
        pause(_PAUSE)


def _prune_artifacts(database: Database, before: float, pause: Pause) -> Iterator[int]:
    deleted, last = artifacts.delete_old(database, before)
    while last is not None:
        yield deleted
        pause(_PAUSE)
        deleted, last = artifacts.delete_old(database, before, last)


def _rows(database: Database, query: sa.Select[Any]) -> Sequence[Any]:
    return database.read(lambda connection: connection.execute(query).all())


def _delete(database: Database, table: sa.Table, key: sa.Column[Any], keys: Sequence[Any]) -> int:
    if not keys:
        return 0
    statement = sa.delete(table).where(key.in_(keys))
    return int(database.write(lambda connection: connection.execute(statement).rowcount))
