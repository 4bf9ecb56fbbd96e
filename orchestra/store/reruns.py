"""From which step a person has an ended run retried, and what of its journal is kept then.

The step is run again, and what the body asked for behind it: in its own branch what stands at later positions, in other
branches what was asked for later. A block of a transaction is kept or done anew as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra.errors import IllegalTransition, TaskRunNotFound
from orchestra.store.tables import Kind, steps

#: What a run can be retried from: what else a body asks for belongs to the code between its tasks.
CHOSEN_KINDS = (Kind.TASK.value, Kind.SUBFLOW.value)
_COLUMNS = [steps.c[name] for name in ("run_id", "step_key", "kind", "name", "branch", "position", "transaction_key")]


@dataclass(frozen=True, slots=True)
class Rerun:
    """Where the body of an ended run begins anew."""

    #: The key of the step that is the first to be run again: the chosen one, or the outermost block around it.
    step_key: str
    #: The name of the chosen step, for people.
    name: str
    #: The condition that a step comes before it, and so keeps its result.
    kept: sa.ColumnElement[bool]


def rerun_from(connection: Connection, run: Any, step_id: str) -> Rerun:
    """Where a run begins anew that is retried from a step. Reads all steps of the run, once.

    Args:
        run: The row of the ended run, which the transaction holds.
        step_id: Of the chosen step; one of an earlier attempt stands for the same step of the present one.

    Raises:
        TaskRunNotFound: There is no such step.
        IllegalTransition: It is of another run, or neither a task nor a subflow.
    """
    chosen = connection.execute(sa.select(*_COLUMNS).where(steps.c.id == step_id)).first()
    if chosen is None:
        raise TaskRunNotFound(step_id)
    if chosen.run_id != run.id:
        wanted = f"retried from task run {step_id!r}: that is of flow run {chosen.run_id}"
        raise IllegalTransition(run.id, run.state_name, wanted)
    if chosen.kind not in CHOSEN_KINDS:
        wanted = f"retried from {chosen.name!r}: that is a {chosen.kind}; choose a task or a subflow"
        raise IllegalTransition(run.id, run.state_name, wanted)
    first = _outermost(connection, chosen)
    kept = _before(connection, run, first)
    torn = _torn_blocks(connection, run, kept)
    if torn:
        block = steps.c.transaction_key
        kept = sa.and_(kept, sa.or_(block.is_(None), block.not_in(sorted(torn))))
    return Rerun(first.step_key, chosen.name, kept)


def _outermost(connection: Connection, step: Any) -> Any:
    """The opening of the outermost block around a step, as it was asked for last; the step itself outside of blocks."""
    around = _newest(connection, step.run_id, step.transaction_key or step.step_key)
    return around if around.transaction_key is None else _outermost(connection, around)


def _newest(connection: Connection, run_id: str, step_key: str) -> Any:
    query = sa.select(*_COLUMNS).where(steps.c.run_id == run_id, steps.c.step_key == step_key)
    return connection.execute(query.order_by(steps.c.run_attempt.desc()).limit(1)).one()


def _before(connection: Connection, run: Any, first: Any) -> sa.ColumnElement[bool]:
    """The condition that a step of the present attempt was asked for before another.

    Of a key that several attempts have asked for, the first time counts: retries number what they run again behind all
    that is kept. Each row looks up those of its own key, by the primary key: nothing is sorted, and no set is built.
    """
    of_key = (steps.c.run_id == run.id, steps.c.step_key == first.step_key)
    place = connection.scalar(sa.select(sa.func.min(steps.c.sequence)).where(*of_key))
    old = steps.alias()
    was_before = sa.exists().where(
        old.c.run_id == run.id,
        old.c.run_attempt.in_(range(1, run.run_attempt)),
        old.c.step_key == steps.c.step_key,
        old.c.sequence < place,
    )
    return sa.case(
        (steps.c.branch == first.branch, steps.c.position < first.position),
        else_=sa.or_(steps.c.sequence < place, was_before) if run.run_attempt > 1 else steps.c.sequence < place,
    )


def _torn_blocks(connection: Connection, run: Any, kept: sa.ColumnElement[bool]) -> set[str]:
    """The keys of the blocks, opened in other branches, of which some steps would be kept and others run again."""
    block = steps.c.transaction_key
    found = (
        sa.select(block, sa.case((kept, 1), else_=0).label("is_kept"))
        .where(steps.c.run_id == run.id, steps.c.run_attempt == run.run_attempt, block.is_not(None))
        .distinct()
    )
    sides = [(row.transaction_key, row.is_kept) for row in connection.execute(found)]
    if not sides:
        return set()
    openings = sa.select(steps.c.step_key, block).where(
        steps.c.run_id == run.id, steps.c.kind == Kind.TRANSACTION.value, block.is_not(None)
    )
    parents = {row.step_key: row.transaction_key for row in connection.execute(openings)}
    seen: dict[str, set[int]] = {}
    for key, is_kept in sides:
        seen.setdefault(_root(key, parents), set()).add(is_kept)
    return {key for key, _ in sides if len(seen[_root(key, parents)]) > 1}


def _root(key: str, parents: Mapping[str, str]) -> str:
    while key in parents:
        key = parents[key]
    return key
