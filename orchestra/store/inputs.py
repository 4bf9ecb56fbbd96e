"""Messages to flow runs, and the steps that wait for them: each message is taken once, the oldest first.

All of it happens under the lock of the receiving run's row: a message that is sent while a step is written that waits
for it is seen by one of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra.errors import FlowRunNotFound, IllegalTransition
from orchestra.failpoints import failpoint
from orchestra.questions import Message, Receive
from orchestra.states import StateType
from orchestra.store.announcements import Announcement, step_is
from orchestra.store.claims import Claim, fence
from orchestra.store.database import Database, insert, now
from orchestra.store.journal import Ending, NewStep, keep_large, write
from orchestra.store.settle import cancelled, complete_open, ending_values
from orchestra.store.tables import Kind, Phase, flow_run_inputs, flow_runs, phase_is_not, steps

#: Nobody has taken it.
_FREE = flow_run_inputs.c.taken_by.is_(None)


def send(database: Database, message: Message) -> list[Announcement]:
    """Write a message, and give it to the step that waits for it, if there is one; returns what to announce.

    A second sending under the same key or token changes nothing. A crash before leaves nothing, one after a message
    that its run gets: the run is READY then, and the sweeper announces it.

    Raises:
        FlowRunNotFound: There is no such run.
        IllegalTransition: It has ended, so that nobody would receive it.
    """

    def work(connection: Connection) -> list[Announcement]:
        row = _lock_run(connection, message.receiver)
        if _is_sent(connection, message):
            # Whoever sent it then may not have announced it: the sweeper does.
            return []
        if row.phase == Phase.DONE:
            raise IllegalTransition(message.receiver, row.state_name, "sent input: it has ended")
        values = {
            "run_id": message.receiver,
            "key_prefix": message.prefix,
            "key": message.key,
            "content": message.content,
            "token": message.token,
            "created_at": now(),
        }
        connection.execute(flow_run_inputs.insert().values(**values))
        return _deliver(connection, message.receiver, row.run_attempt)

    failpoint("before_send")
    announcements = database.write(work)
    failpoint("after_send")
    return announcements


def ask(
    database: Database, claim: Claim, new: Sequence[NewStep], *, window: Callable[[str], int]
) -> list[Announcement]:
    """Write steps of a claimed run that wait for messages, and give them those that are there.

    A crash before leaves nothing, one after a step that has its message, or that the next message finds.

    Args:
        new: These steps, and all others that are not yet written.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
        CancelRequested: The run is being cancelled; nothing was written.
    """

    def work(connection: Connection) -> list[Announcement]:
        moment = fence(connection, claim, going_on=True)
        announcements = write(connection, claim, new, window=window, moment=moment)
        return announcements + _deliver(connection, claim.run_id, claim.run_attempt)

    keep_large(database, new)
    failpoint("before_receive")
    announcements = database.write(work)
    failpoint("after_receive")
    return announcements


def give_up(
    database: Database, claim: Claim, key: str, new: Sequence[NewStep], *, window: Callable[[str], int]
) -> list[Announcement]:
    """End a wait that its body has given up. A message that it was given meanwhile is there for the next.

    Args:
        new: Steps not yet written, among them what says that it was given up.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """
    this = step_is(claim.run_id, claim.run_attempt, key)
    given = sa.update(flow_run_inputs).where(flow_run_inputs.c.taken_by == _taker(claim.run_id, claim.run_attempt, key))

    def work(connection: Connection) -> list[Announcement]:
        moment = fence(connection, claim)
        announcements = write(connection, claim, new, window=window, moment=moment)
        announcements += complete_open(connection, claim.run_id, claim.run_attempt, [key], cancelled())
        if connection.execute(given.values(taken_by=None)).rowcount:
            connection.execute(sa.update(steps).where(*this).values(**ending_values(connection, cancelled())))
        return announcements + _deliver(connection, claim.run_id, claim.run_attempt)

    keep_large(database, new)
    return database.write(work)


def take(database: Database, run_id: str, wanted: Receive, taker: str) -> bytes | None:
    """The content of the oldest message to a run that is wanted, taken by `taker`; None where there is none.

    The same taker gets the same message again: a name is used for one message only.

    Raises:
        FlowRunNotFound: There is no such run.
    """

    def look(connection: Connection) -> tuple[bytes | None, bool]:
        if connection.scalar(sa.select(flow_runs.c.id).where(flow_runs.c.id == run_id)) is None:
            raise FlowRunNotFound(run_id)
        mine = _taken(connection, taker)
        return mine, mine is None and connection.execute(_inbox(run_id, wanted)).first() is not None

    def work(connection: Connection) -> bytes | None:
        _lock_run(connection, run_id)
        mine = _taken(connection, taker)
        return _take(connection, run_id, wanted, taker) if mine is None else mine

    # Looked for outside of the write lock: whoever polls nearly always finds nothing.
    mine, is_there = database.read(look)
    return database.write(work) if is_there else mine


def note(connection: Connection, run_id: str, token: str) -> bool:
    """Note that the step of that token resumes a run; false where it was noted before."""
    values = {
        "run_id": run_id,
        "key_prefix": "resume",
        "key": token,
        "content": b"",
        "token": token,
        "taken_by": token,
        "created_at": now(),
    }
    noted = insert(connection, flow_run_inputs).values(values).on_conflict_do_nothing()
    return connection.execute(noted).rowcount == 1


def is_noted(database: Database, token: str) -> bool:
    """Whether the step of that token has resumed the run that it resumes."""
    query = sa.select(flow_run_inputs.c.id).where(flow_run_inputs.c.token == token)
    return database.read(lambda connection: connection.scalar(query)) is not None


def _taken(connection: Connection, taker: str) -> bytes | None:
    """The content of the message that is taken under this name."""
    query = sa.select(flow_run_inputs.c.content).where(flow_run_inputs.c.taken_by == taker)
    content: bytes | None = connection.scalar(query)
    return content


def _inbox(run_id: str, wanted: Receive) -> sa.Select[Any]:
    """The oldest message to a run that is wanted and not taken."""
    query = sa.select(flow_run_inputs.c.id, flow_run_inputs.c.content).where(flow_run_inputs.c.run_id == run_id, _FREE)
    if wanted.prefixes is not None:
        query = query.where(flow_run_inputs.c.key_prefix.in_(wanted.prefixes))
    if wanted.exclude:
        query = query.where(flow_run_inputs.c.key.not_in(wanted.exclude))
    return query.order_by(flow_run_inputs.c.id).limit(1)


def _lock_run(connection: Connection, run_id: str) -> Any:
    columns = (flow_runs.c.phase, flow_runs.c.run_attempt, flow_runs.c.state_name)
    row = connection.execute(sa.select(*columns).where(flow_runs.c.id == run_id).with_for_update()).first()
    if row is None:
        raise FlowRunNotFound(run_id)
    return row


def _is_sent(connection: Connection, message: Message) -> bool:
    same = [flow_run_inputs.c.key == message.key]
    if message.token is not None:
        same.append(flow_run_inputs.c.token == message.token)
    return connection.scalar(sa.select(flow_run_inputs.c.id).where(sa.or_(*same)).limit(1)) is not None


def _deliver(connection: Connection, run_id: str, run_attempt: int) -> list[Announcement]:
    """Give the steps of a run that wait, in the order of asking, the messages that they want; its row is locked."""
    waiting = (
        sa.select(steps.c.step_key, steps.c.inputs)
        .where(
            steps.c.run_id == run_id,
            steps.c.run_attempt == run_attempt,
            steps.c.kind == Kind.INPUT.value,
            phase_is_not(steps, Phase.DONE),
        )
        .order_by(steps.c.sequence)
        .with_for_update()
    )
    announcements: list[Announcement] = []
    for step in connection.execute(waiting).all():
        taker = _taker(run_id, run_attempt, step.step_key)
        content = _take(connection, run_id, Receive.decoded(step.inputs), taker)
        if content is not None:
            ending = Ending(StateType.COMPLETED, "Completed", result=content)
            announcements += complete_open(connection, run_id, run_attempt, [step.step_key], ending)
    return announcements


def _take(connection: Connection, run_id: str, wanted: Receive, taker: str) -> bytes | None:
    found = connection.execute(_inbox(run_id, wanted)).first()
    if found is None:
        return None
    taken = sa.update(flow_run_inputs).where(flow_run_inputs.c.id == found.id).values(taken_by=taker)
    connection.execute(taken)
    content: bytes = found.content
    return content


def _taker(run_id: str, run_attempt: int, step_key: str) -> str:
    """The name under which a step takes its message."""
    return f"{run_id}/{run_attempt}/{step_key}"
