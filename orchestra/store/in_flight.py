"""How many submitted tasks of a run may be in flight at once: `max_workers` of its flow's task runner.

Such tasks are one wave, named after the run attempt, in the order in which they become READY. A row of `joins` with the
wave's name holds in `remaining` how many of them may have been started by now: at first as many as may be in flight,
one more with each that ends. The row of index i is announced once i is below that. A task that waits to be tried again
keeps its place.

That row is the lock of all this. It is taken before rows of steps are, by whoever submits and by whoever ends a step.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import settings
from orchestra.store.announcements import STEP_COLUMNS, Announcement, of_steps
from orchestra.store.database import insert, now
from orchestra.store.prepared import prepare
from orchestra.store.tables import Phase, joins, phase_is, steps

_PREFIX = "limit:"


def wave_of(run_attempt: int) -> str:
    """The wave of a run attempt's bounded tasks."""
    return f"{_PREFIX}{run_attempt}"


def is_bounded(wave: str | None) -> bool:
    """Whether a step's wave is one of bounded tasks."""
    return wave is not None and wave.startswith(_PREFIX)


def lock(connection: Connection, run_id: str, run_attempt: int, *, most: int | None = None) -> int | None:
    """Take the lock; how many may have been started by now. None where the run attempt has no bounded tasks.

    Args:
        most: How many may be in flight; where there is no such row yet, it is made.
    """
    wave = wave_of(run_attempt)
    if most is not None:
        row = {"run_id": run_id, "run_attempt": run_attempt, "join_id": wave, "parent_id": None, "remaining": most}
        connection.execute(insert(connection, joins).values(row).on_conflict_do_nothing())
    query = sa.select(joins.c.remaining).where(*_counter(run_id, run_attempt, wave))
    return connection.scalar(query.with_for_update())


def lock_ending(connection: Connection, run_id: str, run_attempt: int, step_key: str) -> None:
    """Before a bounded step ends: take the lock, then its row and the one that it will let start, in order of asking.

    A park of the run takes the rows of its steps in that order, too.
    """
    started = lock(connection, run_id, run_attempt)
    following = sa.and_(steps.c.wave == wave_of(run_attempt), steps.c.wave_index == started)
    ours = (steps.c.run_id == run_id, steps.c.run_attempt == run_attempt)
    rows = sa.select(steps.c.step_key).where(*ours, sa.or_(steps.c.step_key == step_key, following))
    connection.execute(rows.order_by(steps.c.sequence).with_for_update()).all()


def place(connection: Connection, run_id: str, run_attempt: int, *, most: int) -> tuple[int, int]:
    """Where new rows of the wave stand: the index of the first of them, and how many indexes may have been started."""
    started = lock(connection, run_id, run_attempt, most=most)
    assert started is not None
    last = _LAST.first(connection, {"b_run": run_id, "b_wave": wave_of(run_attempt)})
    return (0 if last is None else last.wave_index + 1), started


def advance(connection: Connection, run_id: str, run_attempt: int, ended: int) -> list[Announcement]:
    """Let as many bounded tasks start as have just ended; returns what to announce."""
    wave = wave_of(run_attempt)
    counted = sa.update(joins).where(*_counter(run_id, run_attempt, wave)).values(remaining=joins.c.remaining + ended)
    started = connection.scalar(counted.returning(joins.c.remaining))
    if started is None:
        return []
    return _announce(connection, run_id, run_attempt, started - ended, started)


def restart(connection: Connection, run_id: str, run_attempt: int, first: int, most: int) -> list[Announcement]:
    """Where none is in flight and some could be: the counter was wrong. Start the oldest that were not, and mend it.

    Args:
        first: The index of the oldest that was not started.
        most: How many may be in flight.
    """
    started = lock(connection, run_id, run_attempt)
    if started is None:
        return []
    right = max(started, first + most)
    counter = sa.update(joins).where(*_counter(run_id, run_attempt, wave_of(run_attempt)))
    connection.execute(counter.values(remaining=right))
    return _announce(connection, run_id, run_attempt, first, right)


def _announce(connection: Connection, run_id: str, run_attempt: int, first: int, end: int) -> list[Announcement]:
    statement = (
        sa.update(steps)
        .where(
            steps.c.run_id == run_id,
            steps.c.run_attempt == run_attempt,
            steps.c.wave == wave_of(run_attempt),
            steps.c.wave_index >= first,
            steps.c.wave_index < end,
            phase_is(steps, Phase.READY),
            steps.c.announce_at.is_(None),
        )
        .values(announce_at=now() + settings.current().lease_seconds, announced_at=now())
        .returning(*STEP_COLUMNS)
    )
    return of_steps(connection.execute(statement))


def _counter(run_id: str, run_attempt: int, wave: str) -> tuple[Any, ...]:
    return joins.c.run_id == run_id, joins.c.run_attempt == run_attempt, joins.c.join_id == wave


_LAST = prepare(
    sa.select(steps.c.wave_index)
    .where(
        steps.c.run_id == sa.bindparam("b_run"),
        steps.c.wave == sa.bindparam("b_wave"),
        steps.c.wave_index.is_not(None),
    )
    .order_by(steps.c.wave_index.desc())
    .limit(1)
)
