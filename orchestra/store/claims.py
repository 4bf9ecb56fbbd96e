"""Claims: the right to work on a row, for as long as its lease is renewed and no other claim was made.

A row may be claimed when it is READY and due, or CLAIMED with a lease that has lapsed. Each claim counts the row's
claim number up; every later write of the claimant first passes `fence`, which matches while no other claim was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import clock, identifiers, settings
from orchestra.errors import CancelRequested, ClaimLost
from orchestra.failpoints import failpoint
from orchestra.states import StateType
from orchestra.store import events, history
from orchestra.store.database import Database, now, unwaited
from orchestra.store.prepared import Prepared, prepare
from orchestra.store.tables import Phase, flow_runs, owed_hooks, phase_is, steps
from orchestra.store.wake import STEP, note

#: Longest that one statement takes, in seconds, for which its instants still count as one.
_ONE_STATEMENT = 0.1
#: What may be claimed, by the kind of the claim.
_TABLES: dict[str, sa.Table] = {"flow": flow_runs, "step": steps, "hooks": owed_hooks}


@dataclass(slots=True)
class Claim:
    """One claim, as its process holds it. The heartbeat changes `renewed_at`, `lost` and `cancelled`."""

    kind: Literal["flow", "step", "hooks"]
    run_id: str
    run_attempt: int
    step_key: str | None
    owner: str
    number: int
    lease_seconds: float
    #: Monotonic instant of the last renewal that is known to have been committed.
    renewed_at: float
    #: Another process has claimed the row.
    lost: bool = False
    #: The claim of the run inside whose body this run is carried, in the same process.
    around: Claim | None = None
    _cancelled: bool = False

    @property
    def cancelled(self) -> bool:
        """Whether the run is being cancelled; a cancel of a run around it is its own, too."""
        return self._cancelled or (self.around is not None and self.around.cancelled)

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        self._cancelled = value

    @property
    def fresh(self) -> bool:
        """Whether, by this process's monotonic clock, the lease cannot have lapsed yet."""
        return clock.monotonic() - self.renewed_at < self.lease_seconds


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claim just made, and the row as it then stood."""

    claim: Claim
    row: Mapping[str, Any]

    @property
    def at(self) -> float:
        """When it was made, by the database's clock, in seconds since the epoch."""
        row = self.row
        return float(row.get("claimed_at") or row["lease_until"] - row["lease_seconds"])

    @property
    def is_told(self) -> bool:
        """Whether a claimed step is seen to run by its own row, or was told to before a lapse."""
        row = self.row
        # The two instants are of one statement, in which the clock of PostgreSQL goes on.
        first = row["attempt"] == 1 and row["running_at"] is not None and row["running_at"] > self.at - _ONE_STATEMENT
        return first or bool(row["lapses"])

    @property
    def over_budget(self) -> bool:
        """Whether the row was started too often without getting on, so that it must not be started again."""
        return bool(self.row["lapses"] >= settings.current().crash_budget)


def claim_run(database: Database, run_id: str, *, owner: str | None = None) -> Claimed | None:
    """Claim a flow run, if it is due and not held; None where it is not.

    Clears what the run waited for, shows it RUNNING (CANCELLING stays), and sets its deadline at the first start of its
    run attempt. Commits before returning. A lost answer is recognised: `owner` is used for one claim only.
    """
    name = owner or identifiers.owner()
    lease = settings.current().lease_seconds
    asked_at = clock.monotonic()
    parameters = {"b_run": run_id, "b_owner": name, "b_lease": lease}
    row = database.write_alone(lambda connection: _claim(connection, _CLAIM_RUN, _OWN_RUN, parameters))
    if row is None:
        return None
    failpoint("after_claim")
    _tell_lapse("flow-run", row["id"], run_id, row)
    number, attempt = row["claim_number"], row["run_attempt"]
    claim = Claim("flow", run_id, attempt, None, name, number, row["lease_seconds"], asked_at)
    claim.cancelled = row["state_type"] == StateType.CANCELLING
    return Claimed(claim, row)


def lent(database: Database, run_id: str, owner: str) -> Claimed | None:
    """The claim on a flow run that another process has made, and under which this one may work; None: it is over.

    Who made it and who works under it both renew it. Only who made it lets it lapse.
    """
    query = _OWN_RUN.where(phase_is(flow_runs, Phase.CLAIMED))
    names = {"b_run": run_id, "b_owner": owner}
    found = database.read(lambda connection: connection.execute(query, names).mappings().first())
    if found is None:
        return None
    row = dict(found)
    # When it was renewed is not known here: it is renewed before anything is done under it.
    claim = Claim(
        "flow", run_id, row["run_attempt"], None, owner, row["claim_number"], row["lease_seconds"], float("-inf")
    )
    claim.cancelled = row["state_type"] == StateType.CANCELLING
    return Claimed(claim, row)


def was_taken_over(database: Database, claim: Claim) -> bool:
    """Whether another claim was made on the flow run since this one."""
    query = sa.select(flow_runs.c.claim_number).where(flow_runs.c.id == claim.run_id)
    return database.read(lambda connection: connection.scalar(query)) != claim.number


def claim_step(
    database: Database, run_id: str, run_attempt: int, step_key: str, *, owner: str | None = None
) -> Claimed | None:
    """Claim a step that is due; None where it is not, or its run is held. As `claim_run` otherwise."""
    name = owner or identifiers.owner()
    lease = settings.current().lease_seconds
    asked_at = clock.monotonic()
    parameters = {"b_run": run_id, "b_attempt": run_attempt, "b_key": step_key, "b_owner": name, "b_lease": lease}
    row = database.write_alone(lambda connection: _claim(connection, _CLAIM_STEP, _OWN_STEP, parameters))
    if row is None:
        return None
    failpoint("after_claim")
    _tell_lapse("task-run", row["id"], run_id, row)
    claim = Claim("step", run_id, run_attempt, step_key, name, row["claim_number"], row["lease_seconds"], asked_at)
    claim.cancelled = row["state_type"] == StateType.CANCELLING
    return Claimed(claim, row)


def renew(database: Database, claims: Sequence[Claim]) -> None:
    """Renew claims, and note on each whether it was lost or its run is being cancelled.

    Each in a transaction of its own: one that held several rows would wait in a circle with parks and cancels.
    """
    for claim in claims:
        asked_at = clock.monotonic()
        found = database.write_alone(lambda c, claim=claim: _RENEW[claim.kind].first(c, fence_names(claim)))  # type: ignore[misc]
        if found is None:
            claim.lost = True
            continue
        claim.renewed_at = asked_at
        claim.cancelled |= found.state_type == StateType.CANCELLING


def ensure(database: Database, claim: Claim) -> None:
    """Make sure that the claim holds, before its owner acts on it; asks the database only if the lease may have lapsed.

    Raises:
        ClaimLost: Another claim was made.
    """
    if not claim.lost and not claim.fresh:
        renew(database, [claim])
    if claim.lost:
        raise ClaimLost(f"the claim {claim.number} on {name_of(claim)} was taken over")


def check(connection: Connection, claim: Claim) -> None:
    """Make sure, within a transaction, that the claim holds until its commit; unlike the fence it changes nothing.

    Raises:
        ClaimLost: Another claim was made, or the row has ended; the transaction must not go on.
    """
    query = sa.select(_table(claim).c.claim_number).where(*held(claim)).with_for_update()
    if connection.scalar(query) is None:
        raise ClaimLost(f"the claim {claim.number} on {name_of(claim)} was taken over")


def fence(connection: Connection, claim: Claim, *, going_on: bool = False, **values: Any) -> float:
    """Pass the fence: renew the claim within this transaction, and count its lapses from zero again.

    The first statement of every write a claimant makes. It also learns here whether the run is being cancelled.

    Args:
        going_on: The write lets the run go on (a park, a dispatch), which a run being cancelled must not.
        values: More columns of the row to write.

    Returns:
        The present instant of the database's clock, in seconds since the epoch.

    Raises:
        ClaimLost: Another claim was made, or the row has ended; the transaction must not go on.
        CancelRequested: It would go on, and is being cancelled; the transaction must not go on.
    """
    if values:
        statement = FENCE_STATEMENTS[claim.kind].values(**values)
        found = connection.execute(statement, fence_names(claim)).first()
    else:
        found = _FENCES[claim.kind].first(connection, fence_names(claim))
    if found is None:
        raise ClaimLost(f"the claim {claim.number} on {name_of(claim)} was taken over")
    if found.state_type == StateType.CANCELLING:
        # The heartbeat may have learned it since the body last looked: what is new is refused all the same.
        claim.cancelled = True
        if going_on:
            raise CancelRequested(f"{name_of(claim)} is being cancelled")
    note(connection, STEP, claim.run_id)
    return float(found.moment)


def is_released(connection: Connection, claim: Claim, *phases: Phase) -> bool:
    """Whether the claim's own last transaction was committed: the row is in one of `phases`, claimed by nobody since.

    For a write whose answer was lost: when it is tried again, its fence does not match, though all is well.
    """
    table = _table(claim)
    ours = (*_row(claim), table.c.owner == claim.owner, table.c.claim_number == claim.number)
    return connection.scalar(sa.select(table.c.phase).where(*ours)) in phases


def give_back(
    database: Database,
    claim: Claim,
    *,
    due_in: float = 0.0,
    message: str | None = None,
    unstarted: bool = False,
    begun: bool = True,
) -> bool:
    """Make the row READY again, orderly: counts no lapse.

    Args:
        due_in: Seconds after which it may be claimed again.
        message: Why, for people; kept as the state's message.
        unstarted: Nothing of a flow run was done: the next claim starts it, and its deadline counts from there.
        begun: The body of a step may have been called; else its first try is not seen to have begun.

    Returns:
        Whether the claim still held.
    """
    values = _returned(_table(claim)) | {"due_at": now() + due_in, "announce_at": now() + due_in}
    if message is not None:
        values["state_message"] = message
    if unstarted:
        values |= {"start_time": None, "deadline_at": None}
    if claim.kind == "step" and not begun:
        values |= NOT_BEGUN
    return database.write(lambda connection: _release(connection, claim, values))


def _release(connection: Connection, claim: Claim, values: Mapping[str, Any], *which: sa.ColumnElement[bool]) -> bool:
    """Give a claimed row back, and tell of it; false where the claim no longer holds."""
    statement = sa.update(_table(claim)).where(*held(claim), *which).values(**values)
    if connection.execute(statement).rowcount != 1:
        return False
    if claim.kind == "flow":
        history.record_run(connection, *_row(claim))
    elif claim.kind == "step":
        history.record_steps(connection, claim.run_id, *_row(claim), once=True)
    return True


#: Of a step that is given back before its body was called: it was not seen to run, if this was its first try.
NOT_BEGUN: dict[str, Any] = {"running_at": sa.case((steps.c.attempt > 1, steps.c.running_at), else_=None)}


def _returned(table: sa.Table) -> dict[str, Any]:
    """A row that was claimed, and may be again; it no longer shows as running, but what it was told stays."""
    running = table.c.state_type == StateType.RUNNING.value
    return {
        "phase": Phase.READY,
        "due_at": now(),
        "announce_at": now(),
        "announced_at": None,
        "state_type": sa.case((running, StateType.SCHEDULED.value), else_=table.c.state_type),
        "state_name": sa.case((running, "Scheduled"), else_=table.c.state_name),
    }


def let_lapse(database: Database, given_up: Sequence[Claim]) -> None:
    """Let claims lapse now that their own process has given up in the midst of the work; each counts a lapse.

    One that was released or taken over meanwhile is left alone. Safe to repeat; a crash before leaves the leases to
    lapse by themselves.
    """

    def work(connection: Connection) -> None:
        for claim in given_up:
            connection.execute(sa.update(_table(claim)).where(*held(claim)).values(**_LAPSED))

    database.write(work)


#: A claimed row whose lease is over.
_LAPSED: dict[str, Any] = {"lease_until": now() - 0.001, "announce_at": now()}


def expire_dead(database: Database, host: str, is_alive: Callable[[str], bool], *, orderly: bool = False) -> int:
    """Let the leases of dead processes of this host lapse at once; returns how many.

    A crash between leaves the leases to lapse by themselves.

    Args:
        host: As in the owners' names.
        is_alive: Tells of an owner's name whether its process runs.
        orderly: Their worker was told to stop: give the rows back, which counts no lapse. Runs that were called in
            their process (runner "local") lapse all the same: no other process goes on with them.
    """

    def work(connection: Connection) -> int:
        dead = [claim for claim in _claims_of(connection, host) if not is_alive(claim.owner)]
        for claim in dead:
            if not (orderly and _give_back_to_workers(connection, claim)):
                connection.execute(sa.update(_table(claim)).where(*held(claim)).values(**_LAPSED))
        return len(dead)

    dead = database.read(lambda c: [claim for claim in _claims_of(c, host) if not is_alive(claim.owner)])
    return database.write(work) if dead else 0


def _give_back_to_workers(connection: Connection, claim: Claim) -> bool:
    """Make a row READY again, if workers carry it out."""
    on_workers = flow_runs.c.runner != "local" if claim.kind == "flow" else sa.true()
    return _release(connection, claim, _returned(_table(claim)), on_workers)


def about_to_lapse(database: Database, host: str) -> list[Claim]:
    """The claims of this host's processes with less than half of their lease left."""
    return database.read(lambda connection: _claims_of(connection, host, nearly=True))


def _claims_of(connection: Connection, host: str, *, nearly: bool = False) -> list[Claim]:
    found: list[Claim] = []
    for kind, table in _TABLES.items():
        column = table.c
        key = sa.null() if kind == "flow" else column.step_key
        run_id = column.id if kind == "flow" else column.run_id
        query = sa.select(
            run_id.label("run_id"),
            column.run_attempt,
            key.label("step_key"),
            column.owner,
            column.claim_number,
            column.lease_seconds,
        ).where(phase_is(table, Phase.CLAIMED), column.owner.startswith(f"{host}:", autoescape=True))
        if nearly:
            query = query.where(column.lease_until < now() + column.lease_seconds / 2, column.lease_until > now())
        else:
            query = query.where(column.lease_until > now())
        found.extend(
            Claim(kind, row.run_id, row.run_attempt, row.step_key, row.owner, row.claim_number, row.lease_seconds, 0.0)  # type: ignore[arg-type]  # the loop's literals
            for row in connection.execute(query)
        )
    return found


def _claim(connection: Connection, claim: Prepared, own: Any, parameters: dict[str, Any]) -> Mapping[str, Any] | None:
    row: Mapping[str, Any] | None = claim.mapping(connection, parameters)
    if row is None:
        # Only a claim of ours whose COMMIT was answered too late stands under this owner.
        kept = connection.execute(own, parameters).mappings().first()
        row = None if kept is None else dict(kept)
    return row


def _tell_lapse(noun: str, id: str, run_id: str, row: Mapping[str, Any]) -> None:
    """Tell that the lease of the claim before has lapsed: its process died, or was cut off."""
    if row["lapses"]:
        told = {"lapses": row["lapses"], "claim_number": row["claim_number"]}
        events.record_behind(events.act(noun, "taken-over", id, row["name"], run_id=run_id, **told))


def _table(claim: Claim) -> sa.Table:
    return _TABLES[claim.kind]


def _row(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    if claim.kind == "flow":
        return (flow_runs.c.id == claim.run_id,)
    column = _table(claim).c
    return column.run_id == claim.run_id, column.run_attempt == claim.run_attempt, column.step_key == claim.step_key


def held(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    """The condition that picks the claimed row, while the claim holds."""
    table = _table(claim)
    ours = (*_row(claim), table.c.owner == claim.owner, table.c.claim_number == claim.number)
    return *ours, phase_is(table, Phase.CLAIMED)


def name_of(claim: Claim) -> str:
    """What is claimed, for people."""
    run = f"flow run {claim.run_id}"
    named = f"step {claim.step_key!r} of {run}" if claim.step_key else run
    return f"the hooks of {named}" if claim.kind == "hooks" else named


def may_be_claimed(table: sa.Table) -> sa.ColumnElement[bool]:
    """The condition that a row is due and nobody holds a claim on it that still counts."""
    column = table.c
    due = sa.and_(phase_is(table, Phase.READY), column.due_at <= now())
    lapsed = sa.and_(phase_is(table, Phase.CLAIMED), column.lease_until < now())
    return sa.or_(due, lapsed)


def _running_at() -> sa.ColumnElement[float | None]:
    """When a step is first seen to run: with this claim, unless it is being cancelled, or has been tried before."""
    column = steps.c
    first = sa.and_(column.running_at.is_(None), column.attempt == 1)
    return sa.case((sa.and_(first, column.state_type != StateType.CANCELLING.value), now()), else_=column.running_at)


def _claim_values(table: sa.Table) -> dict[str, Any]:
    column = table.c
    lease = sa.func.coalesce(column.lease_seconds, sa.bindparam("b_lease", type_=sa.Double))
    cancelling = column.state_type == StateType.CANCELLING
    return {
        "phase": Phase.CLAIMED,
        "owner": sa.bindparam("b_owner"),
        "claim_number": column.claim_number + 1,
        "lapses": column.lapses + sa.case((column.phase == Phase.CLAIMED, 1), else_=0),
        "lease_seconds": lease,
        "lease_until": now() + lease,
        "announce_at": now() + lease,
        "start_time": sa.func.coalesce(column.start_time, now()),
        "state_type": sa.case((cancelling, column.state_type), else_=StateType.RUNNING.value),
        "state_name": sa.case((cancelling, column.state_name), else_="Running"),
        "state_message": None,
    }


_CLAIM_RUN = unwaited(
    sa.update(flow_runs)
    .where(flow_runs.c.id == sa.bindparam("b_run"), flow_runs.c.held.is_(None), may_be_claimed(flow_runs))
    .values(
        **_claim_values(flow_runs),
        wait_needed=None,
        wait_open=None,
        wait_count=None,
        wait_claim=None,
        deadline_at=sa.func.coalesce(flow_runs.c.deadline_at, now() + flow_runs.c.timeout_seconds),
    )
    .returning(*flow_runs.c, now().label("claimed_at"))
)
_OWN_RUN = sa.select(flow_runs, now().label("claimed_at")).where(
    flow_runs.c.id == sa.bindparam("b_run"), flow_runs.c.owner == sa.bindparam("b_owner")
)
_CLAIM_STEP = unwaited(
    sa.update(steps)
    .where(
        steps.c.run_id == sa.bindparam("b_run"),
        steps.c.run_attempt == sa.bindparam("b_attempt"),
        steps.c.step_key == sa.bindparam("b_key"),
        may_be_claimed(steps),
        # Looked up by the primary key, in the same statement. A mark on the steps themselves would have to be set by
        # everything that makes a step READY meanwhile: ends, joins, retries.
        ~sa.exists().where(flow_runs.c.id == sa.bindparam("b_run"), flow_runs.c.held.is_not(None)),
    )
    .values(**_claim_values(steps), worker=sa.bindparam("b_owner"), running_at=_running_at())
    .returning(*steps.c)
)
_OWN_STEP = sa.select(steps).where(
    steps.c.run_id == sa.bindparam("b_run"),
    steps.c.run_attempt == sa.bindparam("b_attempt"),
    steps.c.step_key == sa.bindparam("b_key"),
    steps.c.owner == sa.bindparam("b_owner"),
)


def fence_names(claim: Claim) -> dict[str, Any]:
    """The values of the parameters in `FENCE_STATEMENTS`."""
    return {
        "b_run": claim.run_id,
        "b_attempt": claim.run_attempt,
        "b_key": claim.step_key,
        "b_owner": claim.owner,
        "b_number": claim.number,
        "b_lease": claim.lease_seconds,
    }


def _renewal_of(table: sa.Table, *row: sa.ColumnElement[bool]) -> sa.Update:
    ours = (table.c.owner == sa.bindparam("b_owner"), table.c.claim_number == sa.bindparam("b_number"))
    lease = sa.bindparam("b_lease", type_=sa.Double)
    return (
        sa.update(table)
        .where(*row, *ours, phase_is(table, Phase.CLAIMED))
        .values(lease_until=now() + lease)
        .returning(table.c.state_type)
    )


_RENEWALS: dict[str, sa.Update] = {
    "flow": _renewal_of(flow_runs, flow_runs.c.id == sa.bindparam("b_run")),
    "step": _renewal_of(
        steps,
        steps.c.run_id == sa.bindparam("b_run"),
        steps.c.run_attempt == sa.bindparam("b_attempt"),
        steps.c.step_key == sa.bindparam("b_key"),
    ),
    "hooks": _renewal_of(
        owed_hooks,
        owed_hooks.c.run_id == sa.bindparam("b_run"),
        owed_hooks.c.run_attempt == sa.bindparam("b_attempt"),
        owed_hooks.c.step_key == sa.bindparam("b_key"),
    ),
}
_RENEW = {kind: unwaited(statement) for kind, statement in _RENEWALS.items()}
#: The fence of each kind of claim, for statements that pass it and write more of the same row.
FENCE_STATEMENTS: dict[str, sa.Update] = {
    kind: statement.values(lapses=0).returning(now().label("moment")) for kind, statement in _RENEWALS.items()
}
_FENCES = {kind: prepare(statement) for kind, statement in FENCE_STATEMENTS.items()}
