"""The journal: writing the steps of a flow run under its fence, and reading them back for replay.

Every write carries all steps not yet written, so that a crash leaves no hole. Rows are keyed by run, run attempt and
step key; writing a row that is there already changes nothing, so that a write may be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from orchestra import graph, identifiers, serializers, settings, states
from orchestra.errors import TaskRunNotFound, UpstreamFailed
from orchestra.failpoints import failpoint
from orchestra.graph import Edge, Node, Outcome
from orchestra.states import StateType
from orchestra.store import blobs, cache, in_flight
from orchestra.store.announcements import Announcement, of_steps, step_is
from orchestra.store.cache import Keeping
from orchestra.store.claims import FENCE_STATEMENTS, Claim, fence, fence_names
from orchestra.store.database import Database, insert, insert_for
from orchestra.store.joint import Joint
from orchestra.store.owed import Debt, owe
from orchestra.store.prepared import Prepared, prepare
from orchestra.store.tables import Kind, Phase, edges, encode_tags, flow_runs, joins, phase_is, phase_is_not, steps
from orchestra.store.wake import STEP, note

T = TypeVar("T")

#: What is written together with a step: given the connection, and the instant of the database's clock.
Effect = Callable[[Connection, float], None]

#: Results up to this size are read together with the journal; larger ones when they are used.
EAGER_RESULT_BYTES = 64 * 1024
#: Keys named in one statement; SQLite allows 32,766 parameters.
_CHUNK = 1000


@dataclass(slots=True)
class Ending:
    """How a step ended."""

    state_type: str
    state_name: str
    message: str | None = None
    #: The encoded value or exception.
    result: bytes | None = None
    start_time: float | None = None
    end_time: float | None = None
    attempt: int = 1
    #: Where it is large, and was kept ahead: the name of its blob.
    blob: str | None = None


@dataclass(slots=True)
class NewStep:
    """A step that the journal has not, as its segment hands it over."""

    key: str
    branch: str
    position: int
    sequence: int
    kind: Kind
    name: str
    path: str | None = None
    #: Encoded options that differ from those of what stands at `path`.
    options: bytes | None = None
    inputs: bytes | None = None
    fingerprint: str | None = None
    edges: tuple[Edge, ...] = ()
    queue: str | None = None
    priority: int | None = None
    lease_seconds: float | None = None
    #: Only a worker that has the flow in this version may run it.
    version: str | None = None
    attempt: int = 1
    inline: bool = False
    #: Seconds until it is due: a sleep, a pause's timeout, a retry.
    delay: float = 0.0
    child_run_id: str | None = None
    #: How many tasks like this one the run may have in flight; None: no limit (`in_flight`).
    most_in_flight: int | None = None
    tags: tuple[str, ...] = ()
    #: None: still to be done.
    ending: Ending | None = None
    #: The hooks that its ending calls for.
    debt: Debt | None = None
    #: What of its ending is kept for later calls.
    cached: Keeping | None = None
    #: The innermost transaction in whose block it was asked for.
    transaction: str | None = None
    #: Written together with it.
    effects: tuple[Effect, ...] = ()
    #: When it was first seen to run, in seconds since the epoch; None: it was not yet, or its history tells it.
    running_at: float | None = None


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step as the journal holds it."""

    key: str
    branch: str
    position: int
    sequence: int
    kind: str
    name: str
    phase: str
    recorded_attempt: int
    attempt: int
    fingerprint: str | None
    state_type: str
    state_name: str
    state_message: str | None
    #: None also where it is over `EAGER_RESULT_BYTES`: then `large` is true.
    result: bytes | None
    large: bool
    due_at: float | None
    child_run_id: str | None

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.phase == Phase.DONE


def load(database: Database, run_id: str, run_attempt: int) -> list[StepRecord]:
    """The journal of a run attempt, in the order of asking."""
    names = {"b_run": run_id, "b_attempt": run_attempt}
    return database.read(lambda connection: [_record(row) for row in _LOAD.all(connection, names)])


def is_empty(database: Database, run_id: str, run_attempt: int) -> bool:
    """Whether a run attempt has no step yet."""
    any_step = sa.select(steps.c.step_key).where(steps.c.run_id == run_id, steps.c.run_attempt == run_attempt).limit(1)
    return database.read(lambda connection: connection.scalar(any_step)) is None


def load_done(database: Database, run_id: str, run_attempt: int, since: float) -> list[StepRecord]:
    """The steps of a run attempt that ended at or after `since` (seconds since the epoch)."""
    query = sa.select(*_RECORD_COLUMNS).where(
        steps.c.run_id == run_id,
        steps.c.run_attempt == run_attempt,
        phase_is(steps, Phase.DONE),
        steps.c.end_time >= since,
    )
    return database.read(lambda connection: [_record(row) for row in connection.execute(query)])


def open_keys(database: Database, run_id: str, run_attempt: int) -> set[str]:
    """The keys of the steps of a run attempt that have not ended."""
    still_open = (steps.c.run_id == run_id, steps.c.run_attempt == run_attempt, phase_is_not(steps, Phase.DONE))
    return database.read(lambda c: set(c.scalars(sa.select(steps.c.step_key).where(*still_open))))


def load_steps(database: Database, run_id: str, run_attempt: int, keys: Sequence[str]) -> list[StepRecord]:
    """Some steps of a run attempt, in no order."""

    def work(connection: Connection) -> list[StepRecord]:
        if len(keys) == 1:
            names = {"b_run": run_id, "b_attempt": run_attempt, "b_key": keys[0]}
            return [_record(row) for row in _LOAD_ONE.all(connection, names)]
        found: list[StepRecord] = []
        for part in chunks(keys, _CHUNK):
            query = sa.select(*_RECORD_COLUMNS).where(
                steps.c.run_id == run_id, steps.c.run_attempt == run_attempt, steps.c.step_key.in_(part)
            )
            found.extend(_record(row) for row in connection.execute(query))
        return found

    return database.read(work)


def step_row(database: Database, step_id: str) -> Mapping[str, Any]:
    """Key and state of a step, by its id.

    Raises:
        TaskRunNotFound: There is none with this id.
    """
    names = ("run_id", "run_attempt", "step_key", "state_type", "state_name", "state_message")
    query = sa.select(*(steps.c[name] for name in names)).where(steps.c.id == step_id)
    row = database.read(lambda connection: connection.execute(query).mappings().one_or_none())
    if row is None:
        raise TaskRunNotFound(step_id)
    return dict(row)


def result_of(database: Database, run_id: str, run_attempt: int, step_key: str) -> bytes | None:
    """The encoded result of a step, also a large one.

    Raises:
        ResultCorrupt: It is damaged.
        MissingResult: It is no longer there.
    """

    query = sa.select(steps.c.result, steps.c.result_blob).where(*step_is(run_id, run_attempt, step_key))
    row = database.read(lambda connection: connection.execute(query).one())
    if row.result_blob:
        return blobs.fetch(database, row.result_blob)
    result: bytes | None = row.result
    return result


def inputs_of(database: Database, run_id: str, run_attempt: int, keys: Sequence[str]) -> dict[str, StepRecord]:
    """The upstreams a step takes values from, by key; large results are read too."""
    found = {}
    for record in load_steps(database, run_id, run_attempt, keys):
        if record.large:
            data = result_of(database, run_id, run_attempt, record.key)
            found[record.key] = _with_result(record, data)
        else:
            found[record.key] = record
    return found


def latest(database: Database, run_id: str, step_key: str) -> StepRecord | None:
    """A step as it stands in its run's present attempt, with its result; None where it is not there (yet)."""
    attempt = database.read(
        lambda connection: connection.scalar(sa.select(flow_runs.c.run_attempt).where(flow_runs.c.id == run_id))
    )
    return None if attempt is None else inputs_of(database, run_id, attempt, [step_key]).get(step_key)


def record(
    database: Database,
    claim: Claim,
    new: Sequence[NewStep],
    *,
    window: Callable[[str], int],
    dispatched: bool = False,
    joint: Joint | None = None,
) -> list[Announcement]:
    """Write steps of a flow run under its claim, in one transaction: ended ones and ones that are to be done.

    Args:
        claim: On the flow run.
        new: In the order of asking.
        window: Of a queue, how many rows of a wave are announced ahead.
        dispatched: Ends the streak of parks: something new was submitted.
        joint: The transaction of the body of the last step, which this ends.

    Returns:
        What to announce, once this has returned. A crash before that costs a sweep: the rows say they are announced.

    Raises:
        ClaimLost: Another claim was made; nothing was written.
        CancelRequested: Something was submitted, and the run is being cancelled; nothing was written.
    """
    if not new:
        return []
    values: dict[str, Any] = {"streak_at": None, "streak_parks": 0} if dispatched else {}

    def work(connection: Connection) -> list[Announcement]:
        moment = fence(connection, claim, going_on=dispatched, **values)
        return write(connection, claim, new, window=window, moment=moment)

    def is_there(connection: Connection) -> bool:
        # Behind a COMMIT that is still under way.
        connection.execute(sa.select(flow_runs.c.id).where(flow_runs.c.id == claim.run_id).with_for_update())
        ours = (*step_is(claim.run_id, claim.run_attempt, new[-1].key), steps.c.claim_number == claim.number)
        return connection.execute(sa.select(steps.c.id).where(*ours)).first() is not None

    if joint is None:
        keep_large(database, new)
    failpoint("before_dispatch" if dispatched else "before_record")
    if joint is not None:
        announcements = joint.write(work, is_there)
    elif not dispatched and _is_lone_ending(database, claim, new) and _record_alone(database, claim, new[0]):
        announcements = []
    else:
        # Also what was only dispatched waits for the disk: this process goes on as if it were written.
        announcements = database.write(work)
    failpoint("after_dispatch" if dispatched else "after_record")
    return announcements


def _is_lone_ending(database: Database, claim: Claim, new: Sequence[NewStep]) -> bool:
    """Whether this is the result of one inline call in the first attempt of a run on PostgreSQL, as most writes are."""
    first, *others = new
    return (
        database.dialect == "postgresql"
        and not others
        and claim.run_attempt == 1
        and first.ending is not None
        and first.ending.blob is None
        and first.debt is None
        and first.cached is None
        and not first.effects
    )


def _record_alone(database: Database, claim: Claim, step: NewStep) -> bool:
    """Pass the fence and write an ended step by one statement, which takes one round trip instead of four.

    Returns:
        False where nothing was written: the fence did not match, or the row is there, as the answer to an earlier try
        of this was lost. The ordinary way tells these apart.
    """
    row = _row(step, claim, 0.0, graph.plan([], {}), {}) | fence_names(claim)
    row["end_time"] = step.ending.end_time if step.ending is not None else None

    def work(connection: Connection) -> Any:
        found = _RECORD_ALONE.first(connection, row)
        if found is not None:
            note(connection, STEP, claim.run_id)
        return found

    found = database.write_alone(work)
    if found is None:
        return False
    claim.cancelled |= found.state_type == StateType.CANCELLING
    return True


def keep_large(database: Database, new: Iterable[NewStep | Ending]) -> None:
    """Keep large results ahead of the transaction that writes their rows, so that it is short."""
    for each in new:
        ending = each.ending if isinstance(each, NewStep) else each
        if ending is not None and ending.result is not None and blobs.is_large(ending.result):
            ending.blob = ending.blob or blobs.keep(database, ending.result)


def write(
    connection: Connection, claim: Claim, new: Sequence[NewStep], *, window: Callable[[str], int], moment: float
) -> list[Announcement]:
    """Insert steps within a transaction that has passed the fence; returns what to announce after its commit.

    Args:
        moment: The instant of the database's clock, as the fence gave it.
    """
    if not new:
        return []
    run_id, run_attempt = claim.run_id, claim.run_attempt
    submitted = [step for step in new if step.ending is None and step.kind is Kind.TASK]
    if (most := next((step.most_in_flight for step in submitted if step.most_in_flight), None)) is not None:
        in_flight.lock(connection, run_id, run_attempt, most=most)
    plan = _plan(connection, run_id, run_attempt, submitted)
    if plan.joins and _is_written(connection, run_id, run_attempt, plan.joins[0].id):
        # The answer to an earlier COMMIT of this was lost; a second set of joins would count twice.
        return []
    failed = _failing(connection, run_id, run_attempt, plan)
    rows = [_row(step, claim, moment, plan, failed) for step in new]
    announced = _make_waves(rows, plan.ready, window, moment) + _bound(connection, rows, plan.ready, moment)
    _keep_large_results(connection, rows)
    if run_attempt > 1:
        _set_aside(connection, claim, [step.key for step in new])
    _INSERT.many(connection, rows)
    _insert_joins(connection, run_id, run_attempt, plan)
    if debts := [step.debt for step in new if step.debt is not None]:
        owe(connection, debts)
    _keep_for_later(connection, new)
    for step in new:
        for effect in step.effects:
            effect(connection, moment)
    return of_steps(announced)


def _keep_for_later(connection: Connection, new: Sequence[NewStep]) -> None:
    """Cache results, in an order in which any two transactions that keep the same take their entries."""
    cached = [(step.cached, step.ending) for step in new if step.cached is not None and step.ending is not None]
    for keeping, ending in sorted(cached, key=lambda pair: pair[0].entry.key if pair[0].entry else ""):
        cache.settle(connection, keeping, ending.result, ending.blob)


def _is_written(connection: Connection, run_id: str, run_attempt: int, key: str) -> bool:
    # One that a retry has moved here from an earlier attempt is not it: its inputs have changed, it is set aside.
    ours = (*step_is(run_id, run_attempt, key), steps.c.recorded_attempt == run_attempt)
    return connection.execute(sa.select(steps.c.step_key).where(*ours)).first() is not None


def _plan(connection: Connection, run_id: str, run_attempt: int, submitted: Sequence[NewStep]) -> graph.Plan:
    nodes = [Node(step.key, step.edges) for step in submitted]
    new = {node.key for node in nodes}
    earlier = list(dict.fromkeys(edge.upstream for node in nodes for edge in node.edges if edge.upstream not in new))
    outcomes = _lock_outcomes(connection, run_id, run_attempt, earlier)
    # A step asked in this segment and not yet written cannot be an upstream of a dispatch without being in it.
    return graph.plan(nodes, outcomes)


def _lock_outcomes(connection: Connection, run_id: str, run_attempt: int, keys: Sequence[str]) -> dict[str, Outcome]:
    """How upstreams stand, locked in the order of asking: one that ends later will see the join that counts it."""
    found: dict[str, Outcome] = {}
    for part in chunks(keys, _CHUNK):
        query = (
            sa.select(steps.c.step_key, steps.c.phase, steps.c.state_type)
            .where(steps.c.run_id == run_id, steps.c.run_attempt == run_attempt, steps.c.step_key.in_(part))
            .order_by(steps.c.sequence)
            .with_for_update()
        )
        found.update({row.step_key: outcome(row.phase, row.state_type) for row in connection.execute(query)})
    return found


def outcome(phase: str, state_type: str) -> Outcome:
    """A step's outcome as its dependents see it."""
    if phase != Phase.DONE:
        return Outcome.OPEN
    return Outcome.SUCCEEDED if state_type == StateType.COMPLETED else Outcome.FAILED


def _row(step: NewStep, claim: Claim, moment: float, plan: graph.Plan, failed: Mapping[str, Ending]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run_id": claim.run_id,
        "run_attempt": claim.run_attempt,
        "step_key": step.key,
        "id": identifiers.step_id(claim.run_id, claim.run_attempt, step.key),
        "branch": step.branch,
        "position": step.position,
        "sequence": step.sequence,
        "kind": step.kind.value,
        "name": step.name,
        "path": step.path,
        "options": step.options,
        "recorded_attempt": claim.run_attempt,
        "attempt": step.attempt,
        "inline": step.inline,
        "inputs": step.inputs,
        "inputs_fingerprint": step.fingerprint,
        "queue": step.queue,
        "priority": step.priority,
        "lease_seconds": step.lease_seconds,
        "version": step.version,
        "child_run_id": step.child_run_id,
        "tags": encode_tags(step.tags) if step.tags else None,
        "transaction_key": step.transaction,
        "claim_number": claim.number if step.ending is not None else 0,
        "created_at": moment,
        "join_id": None,
        "wave": None if step.most_in_flight is None else in_flight.wave_of(claim.run_attempt),
        "wave_index": None,
        "wave_window": step.most_in_flight,
        "due_at": None,
        "announce_at": None,
        "announced_at": None,
        "worker": claim.owner if step.inline else None,
        "pending_at": None,
        "running_at": step.running_at,
    }
    row.update(_progress(step, moment, plan, failed))
    return row


def _progress(step: NewStep, moment: float, plan: graph.Plan, failed: Mapping[str, Ending]) -> dict[str, Any]:
    """Phase, state and times of a new row."""
    ending = failed.get(step.key, step.ending)
    if ending is not None:
        return {
            "phase": Phase.DONE.value,
            "state_type": str(ending.state_type),
            "state_name": ending.state_name,
            "state_message": ending.message,
            "result": ending.result,
            "result_blob": ending.blob,
            "start_time": ending.start_time,
            "end_time": ending.end_time or moment,
        }
    open_row = {"state_message": None, "result": None, "result_blob": None, "start_time": None, "end_time": None}
    if step.key in plan.waiting:
        join_id = plan.waiting[step.key]
        return open_row | {
            "phase": Phase.WAITING.value,
            "state_type": "PENDING",
            "state_name": "Pending",
            "pending_at": moment,
            "join_id": join_id,
        }
    if step.kind is Kind.SUBFLOW:
        return open_row | {"phase": Phase.WAITING.value, "state_type": "RUNNING", "state_name": "Running"}
    due_at = moment + step.delay
    scheduled = step.delay > 0
    names = {
        Kind.SLEEP: ("RUNNING", "Sleeping"),
        Kind.PAUSE: ("PAUSED", "Paused"),
        Kind.INPUT: ("RUNNING", "Receiving"),
        Kind.SLOT: ("SCHEDULED", "AwaitingConcurrencySlot"),
    }
    retrying = ("SCHEDULED", "AwaitingRetry") if step.attempt > 1 else ("SCHEDULED", "Scheduled")
    state_type, state_name = names.get(step.kind, retrying if scheduled else ("PENDING", "Pending"))
    return open_row | {
        "phase": Phase.READY.value,
        "state_type": state_type,
        "state_name": state_name,
        "pending_at": moment if state_name == "Pending" else None,
        "due_at": due_at,
        "announce_at": due_at if scheduled else None,
    }


def upstream_failures(
    connection: Connection, run_id: str, run_attempt: int, culprits: Collection[str]
) -> dict[str, Ending]:
    """How steps end that are not run because of `culprits`, by the keys of those, which did not succeed.

    One that was not run either passes on how it ended: at the end of every chain stands the one that failed.
    """
    columns = steps.c
    query = sa.select(columns.step_key, columns.state_name, columns.state_message, columns.result)
    found: dict[str, Ending] = {}
    for part in chunks(sorted(culprits), _CHUNK):
        these = (columns.run_id == run_id, columns.run_attempt == run_attempt, columns.step_key.in_(part))
        for row in connection.execute(query.where(*these)):
            if row.state_name == "UpstreamFailed" and row.result is not None:
                found[row.step_key] = Ending(StateType.FAILED, "UpstreamFailed", row.state_message, row.result)
            else:
                found[row.step_key] = _upstream_failed(
                    row.step_key, states.reason_of(row.state_name, row.state_message)
                )
    return found


def _upstream_failed(culprit: str, reason: str) -> Ending:
    error = UpstreamFailed(culprit, reason)
    return Ending(StateType.FAILED, "UpstreamFailed", str(error), serializers.encode_exception(error)[0])


def _failing(connection: Connection, run_id: str, run_attempt: int, plan: graph.Plan) -> dict[str, Ending]:
    """The endings of new steps that are not run, as one they depend on has failed, before them or among them."""
    if not plan.failed:
        return {}
    earlier = {culprit for culprit in plan.failed.values() if culprit not in plan.failed}
    endings = upstream_failures(connection, run_id, run_attempt, earlier)
    for key, culprit in plan.failed.items():
        endings[key] = endings[culprit]
    return {key: endings[key] for key in plan.failed}


def _make_waves(
    rows: Sequence[dict[str, Any]], ready: Sequence[str], window: Callable[[str], int], moment: float
) -> list[Any]:
    """Number the rows that become READY together, queue by queue, and mark the window of each wave announced."""
    keys = set(ready)
    waves: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["step_key"] in keys and row["announce_at"] is None and row["wave"] is None:
            waves.setdefault(row["queue"] or "", []).append(row)
    announced: list[Any] = []
    for queue, wave in waves.items():
        ahead = window(queue)
        for index, row in enumerate(wave):
            if len(wave) > ahead:
                row.update(wave=wave[0]["step_key"], wave_index=index, wave_window=ahead)
            if index < ahead:
                _announce_now(row, moment)
                announced.append(_AsRow(row))
    return announced


def _bound(connection: Connection, rows: Sequence[dict[str, Any]], ready: Sequence[str], moment: float) -> list[Any]:
    """Number the READY rows of which only some may be in flight; returns those that may start now."""
    keys = set(ready)
    bounded = [row for row in rows if in_flight.is_bounded(row["wave"]) and row["step_key"] in keys]
    if not bounded:
        return []
    run_id, run_attempt, most, key = (bounded[0][x] for x in ("run_id", "run_attempt", "wave_window", "step_key"))
    if _is_written(connection, run_id, run_attempt, key):
        # The answer to an earlier COMMIT of this was lost: they have their numbers. What was announced is so again.
        return []
    first, started = in_flight.place(connection, run_id, run_attempt, most=most)
    for index, row in enumerate(bounded, first):
        row["wave_index"] = index
        if index < started:
            _announce_now(row, moment)
    return [_AsRow(row) for row in bounded if row["announce_at"] is not None]


def _announce_now(row: dict[str, Any], moment: float) -> None:
    row.update(announce_at=moment + settings.current().lease_seconds, announced_at=moment)


class _AsRow:
    """A dictionary read by attribute, as a database row is."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        return self._values[name]


def _keep_large_results(connection: Connection, rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        row["result"], row["result_blob"] = blobs.place(connection, row["result"], row["result_blob"])


def _set_aside(connection: Connection, claim: Claim, keys: Sequence[str]) -> None:
    """Give rows that a retry has moved on, and whose inputs changed, back to the run attempt they came from."""
    for part in chunks(keys, _CHUNK):
        connection.execute(
            sa.update(steps)
            .where(
                steps.c.run_id == claim.run_id,
                steps.c.run_attempt == claim.run_attempt,
                steps.c.recorded_attempt < claim.run_attempt,
                steps.c.step_key.in_(part),
            )
            .values(run_attempt=steps.c.run_attempt - 1)
        )


def _insert_joins(connection: Connection, run_id: str, run_attempt: int, plan: graph.Plan) -> None:
    if not plan.joins:
        return
    base = {"run_id": run_id, "run_attempt": run_attempt}
    connection.execute(
        insert(connection, joins).on_conflict_do_nothing(),
        [base | {"join_id": j.id, "parent_id": j.parent, "remaining": j.remaining} for j in plan.joins],
    )
    connection.execute(
        insert(connection, edges).on_conflict_do_nothing(),
        [
            base | {"upstream": m.edge.upstream, "join_id": m.join, "target_id": m.target, "strict": m.edge.strict}
            for m in plan.members
        ],
    )


def chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """The items in lists of at most `size`."""
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def _record(row: Any) -> StepRecord:
    return StepRecord(*row)


def _with_result(found: StepRecord, data: bytes | None) -> StepRecord:
    values = {name: getattr(found, name) for name in StepRecord.__slots__}
    return StepRecord(**(values | {"result": data, "large": False}))


def _insert_of(dialect: str) -> Any:
    values = {
        column.name: sa.bindparam(column.name, type_=column.type) for column in steps.c if column.name in _WRITTEN
    }
    return insert_for(dialect, steps).values(values).on_conflict_do_nothing()


def _record_alone_of(dialect: str) -> Any:
    fenced = FENCE_STATEMENTS["flow"].cte("fenced")
    given: dict[str, Any] = {c.name: sa.bindparam(c.name, type_=c.type) for c in steps.c if c.name in _WRITTEN}
    given["created_at"] = fenced.c.moment
    given["end_time"] = sa.func.coalesce(given["end_time"], fenced.c.moment)
    told = sa.select(fenced.c.state_type).scalar_subquery()
    values = sa.select(*given.values()).select_from(fenced)
    return (
        insert_for(dialect, steps)
        .from_select(list(given), values)
        .on_conflict_do_nothing()
        .returning(told.label("state_type"))
    )


#: What a new row sets; the claim's columns begin as their defaults say.
_WRITTEN = frozenset({
    "run_id", "run_attempt", "step_key", "id", "branch", "position", "sequence", "kind", "name", "path", "options",
    "recorded_attempt", "attempt", "inline", "inputs", "inputs_fingerprint", "queue", "priority", "lease_seconds",
    "version", "child_run_id", "tags", "transaction_key", "claim_number", "created_at", "join_id", "wave", "wave_index",
    "wave_window", "due_at", "announce_at", "announced_at", "worker", "phase", "state_type", "state_name",
    "state_message", "result", "result_blob", "start_time", "end_time", "pending_at", "running_at",
})  # fmt: skip
_INSERT = Prepared(_insert_of)
_RECORD_ALONE = Prepared(_record_alone_of)
_SIZE = sa.func.length(steps.c.result)
_LARGE = sa.or_(steps.c.result_blob.is_not(None), sa.func.coalesce(_SIZE, 0) > EAGER_RESULT_BYTES)
_RECORD_COLUMNS = (
    steps.c.step_key,
    steps.c.branch,
    steps.c.position,
    steps.c.sequence,
    steps.c.kind,
    steps.c.name,
    steps.c.phase,
    steps.c.recorded_attempt,
    steps.c.attempt,
    steps.c.inputs_fingerprint,
    steps.c.state_type,
    steps.c.state_name,
    steps.c.state_message,
    sa.case((_SIZE <= EAGER_RESULT_BYTES, steps.c.result), else_=None).label("result"),
    _LARGE.label("large"),
    steps.c.due_at,
    steps.c.child_run_id,
)
_load = sa.select(*_RECORD_COLUMNS).where(
    steps.c.run_id == sa.bindparam("b_run"), steps.c.run_attempt == sa.bindparam("b_attempt")
)
_LOAD = prepare(_load.order_by(steps.c.sequence))
_LOAD_ONE = prepare(_load.where(steps.c.step_key == sa.bindparam("b_key")))
