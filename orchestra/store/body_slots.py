"""Slots that the body of a flow on a worker takes for a block: a step of its journal, and another one at its end.

The run has them until the block or the run ends, parked or not; a replay takes nothing twice and gives nothing back
twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra.failpoints import failpoint
from orchestra.questions import Slots
from orchestra.store import slots
from orchestra.store.announcements import Announcement, step_is
from orchestra.store.claims import Claim, fence
from orchestra.store.database import Database
from orchestra.store.journal import Ending, NewStep, keep_large, write
from orchestra.store.settle import cancelled, complete_open, ending_values
from orchestra.store.slots import ACQUIRED, Asked
from orchestra.store.tables import steps

Window = Callable[[str], int]


def ask(
    database: Database,
    claim: Claim,
    wanted: Slots,
    key: str,
    new: Sequence[NewStep],
    *,
    refusal: Ending,
    window: Window,
) -> Asked:
    """Write the step of a claimed run that takes slots: it has ended where they are free, else it waits in line.

    One transaction: a crash before leaves nothing, one after a step that a replay finds.

    Args:
        key: Of the step.
        new: This step, and all others that are not yet written.
        refusal: How it ends where they are not free, and nobody is to wait.

    Raises:
        ConcurrencySlotAcquisitionError: They can never be had; nothing was written.
        ClaimLost: Another claim was made; nothing was written.
        CancelRequested: The run is being cancelled; nothing was written.
    """
    names, holder = sorted(set(wanted.names)), slots.of_run(claim, key)
    holder, waits = replace(holder, label=wanted.label), wanted.timeout > 0

    def work(connection: Connection) -> Asked:
        asked = slots.take(connection, holder, names, wanted.occupy, wait=waits, strict=wanted.strict)
        moment = fence(connection, claim, going_on=True)
        ending = replace(ACQUIRED, end_time=moment) if asked.granted else None if waits else refusal
        ours = [replace(step, ending=ending) if step.key == key else step for step in new]
        return replace(asked, announcements=write(connection, claim, ours, window=window, moment=moment))

    keep_large(database, new)
    failpoint("before_acquire")
    asked = database.write(work)
    failpoint("after_acquire")
    if asked.granted or not waits:
        return asked
    return replace(asked, announcements=asked.announcements + slots.serve(database, names))


def leave(database: Database, claim: Claim, key: str, new: Sequence[NewStep], *, window: Window) -> list[Announcement]:
    """Give the slots of a step back and write that, in one transaction; then hand them on. Returns what to announce.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """

    def work(connection: Connection) -> tuple[list[Announcement], list[str]]:
        moment = fence(connection, claim)
        announcements = write(connection, claim, new, window=window, moment=moment)
        return announcements, slots.drop(connection, slots.of_run(claim, key))

    keep_large(database, new)
    failpoint("before_release")
    announcements, names = database.write(work)
    failpoint("after_release")
    return announcements + slots.serve(database, names)


def give_up(
    database: Database, claim: Claim, wanted: Slots, key: str, new: Sequence[NewStep], *, window: Window
) -> list[Announcement]:
    """End a wait for slots that its body has given up; what it was given meanwhile is handed on.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
    """
    this = step_is(claim.run_id, claim.run_attempt, key)

    def work(connection: Connection) -> tuple[list[Announcement], list[str]]:
        # Before the run's row: whoever gives it slots just now takes these, then that.
        slots.lock(connection, wanted.names)
        moment = fence(connection, claim)
        announcements = write(connection, claim, new, window=window, moment=moment)
        announcements += complete_open(connection, claim.run_id, claim.run_attempt, [key], cancelled())
        names = slots.drop(connection, slots.of_run(claim, key))
        if names:
            connection.execute(sa.update(steps).where(*this).values(**ending_values(connection, cancelled())))
        return announcements, names

    keep_large(database, new)
    announcements, names = database.write(work)
    return announcements + slots.serve(database, names)
