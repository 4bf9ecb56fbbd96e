"""State hooks that are owed: noted in the transaction that ends a run or step, struck off when they have run.

A debt is claimed like a run: by the process that ended it, in that very transaction, else by whoever takes its message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock, identifiers, settings
from orchestra.failpoints import failpoint
from orchestra.store import blobs
from orchestra.store.announcements import Announcement, of_hooks
from orchestra.store.claims import Claim, fence, held, may_be_claimed
from orchestra.store.database import Database, insert, now
from orchestra.store.prepared import prepare
from orchestra.store.tables import Phase, flow_runs, owed_hooks, steps


@dataclass(frozen=True, slots=True)
class Debt:
    """Hooks to be owed."""

    run_id: str
    run_attempt: int
    #: Empty: the flow run's own.
    step_key: str
    #: Of the flow or step, for the message.
    name: str
    #: Where a worker has the code.
    queue: str | None
    priority: int | None
    #: The state that the hooks are told of.
    state_type: str
    state_name: str
    state_message: str | None
    #: Who will run them; None: a worker, by a message.
    owner: str | None = None

    def claim(self, asked_at: float) -> Claim:
        """The claim that its owner has on it once it is written.

        Args:
            asked_at: Monotonic instant before the write.
        """
        assert self.owner is not None
        lease = settings.current().lease_seconds
        return Claim("hooks", self.run_id, self.run_attempt, self.step_key, self.owner, 1, lease, asked_at)


@dataclass(frozen=True, slots=True)
class ClaimedHooks:
    """A claim on owed hooks, just made: the row as it then stood, and that of what they belong to."""

    claim: Claim
    row: Mapping[str, Any]
    #: Of the flow run.
    run: Mapping[str, Any]
    #: Of the step, where they are a task's.
    step: Mapping[str, Any] | None = None

    @property
    def over_budget(self) -> bool:
        """Whether they were started too often by processes that died of it."""
        return bool(self.row["lapses"] >= settings.current().crash_budget)


def owe(connection: Connection, debts: Sequence[Debt]) -> list[Announcement]:
    """Note debts within the transaction that writes what they are owed for; what to announce. Safe to repeat.

    A crash after it leaves a claim that lapses, or a message to be repeated: the sweeper sees to both.
    """
    lease = settings.current().lease_seconds
    announcements: list[Announcement] = []
    for debt in debts:
        is_claimed = debt.owner is not None
        values = {
            "run_id": debt.run_id,
            "run_attempt": debt.run_attempt,
            "step_key": debt.step_key,
            "name": debt.name,
            "queue": debt.queue,
            "priority": debt.priority,
            "state_type": debt.state_type,
            "state_name": debt.state_name,
            "state_message": debt.state_message,
            "phase": Phase.CLAIMED if is_claimed else Phase.READY,
            "due_at": now(),
            "announce_at": now() + lease,
            "announced_at": None if is_claimed else now(),
            "owner": debt.owner,
            "lease_seconds": lease,
            "lease_until": now() + lease if is_claimed else None,
            "claim_number": 1 if is_claimed else 0,
        }
        connection.execute(insert(connection, owed_hooks).values(values).on_conflict_do_nothing())
        if not is_claimed:
            announcements.append(of_hooks(debt))
    return announcements


def claim(database: Database, run_id: str, run_attempt: int, step_key: str) -> ClaimedHooks | None:
    """Claim owed hooks; None where none are owed, or another process runs them."""
    owner = identifiers.owner()
    lease = settings.current().lease_seconds
    asked_at = clock.monotonic()
    names = {"b_run": run_id, "b_attempt": run_attempt, "b_key": step_key, "b_owner": owner, "b_lease": lease}

    def work(connection: Connection) -> ClaimedHooks | None:
        row = _CLAIM.mapping(connection, names) or _OWN.mapping(connection, names)
        if row is None:
            return None
        made = Claim("hooks", run_id, run_attempt, step_key, owner, row["claim_number"], lease, asked_at)
        run = connection.execute(sa.select(flow_runs).where(flow_runs.c.id == run_id)).mappings().one()
        # By its id: a retry of the run moves finished steps on to another run attempt.
        this = steps.c.id == identifiers.step_id(run_id, run_attempt, step_key)
        step = connection.execute(sa.select(steps).where(this)).mappings().first() if step_key else None
        return ClaimedHooks(made, row, dict(run), None if step is None else dict(step))

    claimed = database.write(work)
    if claimed is not None:
        failpoint("after_claim_hooks")
    return claimed


def result_of(database: Database, claimed: ClaimedHooks) -> bytes | None:
    """The encoded value or exception of the end that the hooks are told of; None also where a retry has replaced it."""
    row = claimed.step or claimed.run
    if claimed.step is None and (row["run_attempt"], row["phase"]) != (claimed.claim.run_attempt, Phase.DONE):
        return None
    if row["result_blob"] is not None:
        return blobs.fetch(database, row["result_blob"])
    result: bytes | None = row["result"]
    return result


def advance(database: Database, claim: Claim, position: int) -> None:
    """Note how many of the hooks have run. A crash before it runs the last of them again.

    Raises:
        ClaimLost: Another process runs them now.
    """

    def work(connection: Connection) -> None:
        fence(connection, claim, position=position)

    database.write(work)


def strike(database: Database, claim: Claim) -> None:
    """Strike a debt off: its hooks have run. Changes nothing where another process has claimed it, or has done so."""
    database.write(lambda connection: connection.execute(sa.delete(owed_hooks).where(*held(claim))))


def wait_for_code(database: Database, claim: Claim, seconds: float, message: str) -> None:
    """Leave owed hooks to a worker that has their code, to be asked for again after `seconds`; says what they wait for.

    No lapse is counted.
    """
    values = {
        "phase": Phase.READY,
        "due_at": now() + seconds,
        "announce_at": now() + seconds,
        "announced_at": None,
        "waits_for": message,
        "lapses": 0,
    }
    database.write(lambda connection: connection.execute(sa.update(owed_hooks).where(*held(claim)).values(**values)))


_this = (
    owed_hooks.c.run_id == sa.bindparam("b_run"),
    owed_hooks.c.run_attempt == sa.bindparam("b_attempt"),
    owed_hooks.c.step_key == sa.bindparam("b_key"),
)
_lease = sa.bindparam("b_lease", type_=sa.Double)
_CLAIM = prepare(
    sa.update(owed_hooks)
    .where(*_this, may_be_claimed(owed_hooks))
    .values(
        phase=Phase.CLAIMED,
        owner=sa.bindparam("b_owner"),
        claim_number=owed_hooks.c.claim_number + 1,
        lapses=owed_hooks.c.lapses + sa.case((owed_hooks.c.phase == Phase.CLAIMED, 1), else_=0),
        lease_seconds=_lease,
        lease_until=now() + _lease,
        announce_at=now() + _lease,
    )
    .returning(*owed_hooks.c)
)
#: A claim whose COMMIT was answered too late stands under this owner.
_OWN = prepare(sa.select(owed_hooks).where(*_this, owed_hooks.c.owner == sa.bindparam("b_owner")))
