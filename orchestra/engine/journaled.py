"""The journal as a flow body meets it: its steps are asked for, answered, written and read here.

What was asked and is not yet written goes along with the next write, so that a crash leaves no hole. Every write passes
`guard`; once that has found the claim lost, the run cancelled or the database away, every later call of the body does.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestra import clock, graph, identifiers, names, states
from orchestra.context import FlowRunContext, flow_run_context, transaction_here
from orchestra.engine import interrupts
from orchestra.engine.branches import Waiters, current_line
from orchestra.engine.values import ending_of, state_of
from orchestra.errors import (
    Adrift,
    Cancelled,
    CancelRequested,
    ClaimLost,
    DefinitionError,
    Fenced,
    ForeignThread,
    NonDeterministic,
    OrchestraError,
    Parked,
    RunTimeout,
    StoreError,
)
from orchestra.failpoints import failpoint
from orchestra.journal import Asked, Branch, Replay
from orchestra.logging import engine_logger
from orchestra.runners.carrier import Carrier
from orchestra.serializers import is_pickle
from orchestra.specs import FlowSpec
from orchestra.states import State, StateDetails, StateType
from orchestra.store import claims, journal, waits
from orchestra.store.announcements import Announcement
from orchestra.store.claims import Claim, Claimed
from orchestra.store.database import Database
from orchestra.store.joint import Joint
from orchestra.store.journal import Effect, NewStep, StepRecord
from orchestra.store.tables import Kind

T = TypeVar("T")

logger = logging.getLogger("orchestra.engine")

#: For how long a segment may wait in its slot for steps that others work on, per streak of parks, in seconds.
LINGER = 0.05
#: Body code between two journaled steps that takes longer is warned of, in seconds.
SLOW_REPLAY = 1.0
#: Steps named in one look; more are found by the time of their end.
_FEW = 50
#: Clocks of several hosts may differ by this much when steps are found by the time of their end, in seconds.
_OVERLAP = 5.0
#: Observations that hold in their run attempt only: of futures, as a retry runs failed tasks again, and of variables,
#: which people set right before they retry.
_SEEN_ANEW = frozenset({"as_completed", "deadline", "done", "state", "variable", "wait"})


@dataclass(frozen=True, slots=True)
class Awaited:
    """Steps that a branch waits for: all, or the first of them."""

    keys: Sequence[str]
    first: bool

    @property
    def digest(self) -> str:
        """Tells this wait from others at the same position: once over, the same wait is over for good."""
        return identifiers.fingerprint(repr((list(self.keys), self.first)).encode())[:8]


@dataclass(frozen=True, slots=True)
class SegmentStart:
    """What a segment of a flow run begins with."""

    database: Database
    #: The claim on the flow run.
    claimed: Claimed
    flow: FlowSpec
    carrier: Carrier
    #: The journal of its run attempt.
    records: Sequence[StepRecord]
    #: Of the event loop that the body runs in, or would run in.
    waiters: Waiters


class Journaled:
    """The steps of one segment of one flow run."""

    def __init__(self, start: SegmentStart) -> None:
        """Begin a segment."""
        records = start.records
        self.database = start.database
        self.claim: Claim = start.claimed.claim
        self.row = start.claimed.row
        self.flow = start.flow
        self.carrier = start.carrier
        self.context: FlowRunContext
        self.parked = False
        self.replay: Replay[StepRecord] = Replay(records, self.claim.run_attempt)
        self._records: dict[str, StepRecord] = {record.key: record for record in records}
        self._states: dict[str, State[Any]] = {}
        self._unwritten: list[NewStep] = []
        self._open: set[str] = {record.key for record in records if not record.done}
        #: Keeps the transactions of the body, once it has any.
        self._keeper: Any = None
        self._sequence = max((record.sequence for record in records), default=-1) + 1
        self._callbacks: dict[str, list[Callable[[], object]]] = {}
        self._seen_until = clock.now()
        #: The run's deadline on this process's monotonic clock: the database's clock may be another.
        self._deadline = _deadline(start.claimed.row)
        self._linger_until: float | None = None
        self._offered_until = 0.0
        self._timed_out = False
        #: When the journal last answered; then the body's own code runs, again in each replay.
        self._replayed_at: float | None = None
        self._warned_slow = False
        #: What is looked at just now: a look may not ask for steps of its own.
        self._observing: str | None = None
        #: The steps of async inline calls whose bodies run.
        self._inline: set[str | None] = set()
        #: The steps whose values are not held here, but read each time they are asked for.
        self.unheld: set[str] = set()
        #: Set once the database was away: nothing of this segment may be written after that.
        self.broken: StoreError | None = None
        #: Set once replay differed from the journal: a body that swallows it does not go on.
        self.mismatch: NonDeterministic | None = None

    def observe(self, name: str, look: Callable[[], T], effect: Callable[[T], Effect] | None = None) -> T:
        """What `look` gives, journaled: replay gives the same. Written with the next write of the segment.

        Args:
            name: Of the step.
            look: Asked once.
            effect: Gives what is written in the transaction that journals the value, and never without that.

        Raises:
            SerializationError: What it gives cannot be kept.
            Exception: What `look` raises; journaled too.
        """
        self.check(name)
        asked = self._line().ask(names.step_name(name))
        fingerprint = self._of_attempt if name in _SEEN_ANEW else None
        if self._answer(asked, None, fingerprint) is None:
            self._observing = name
            written: tuple[Effect, ...] = ()
            try:
                seen = look()
                written = () if effect is None else (effect(seen),)
                state: State[Any] = State(StateType.COMPLETED, data=seen)
            except StoreError as error:
                # Not what was seen: nothing could be seen.
                self.broken = error
                raise Adrift from error
            except Exception as error:
                state = states.from_exception(error)
            finally:
                self._observing = None
            step = self._plain(asked, Kind.OBSERVATION)
            step.fingerprint, step.effects = fingerprint, written
            step.ending, self._states[asked.key] = ending_of(state, what=f"what {name!r} saw")
            self._unwritten.append(step)
        value: T = self._state(asked.key).result()
        return value

    def act(self, name: str, effect: Effect, value: T, inputs: bytes) -> T:
        """Do something to the database as a step of the journal, and give `value`; replay does it no second time.

        Both are written now, in one transaction: a crash before leaves neither of them, one after both.

        Args:
            name: Of the step.
            effect: What is done; may be repeated.
            value: Journaled with it.
            inputs: By which a retry of the flow tells whether it is to be done anew.

        Raises:
            OrchestraError: What `effect` raises; journaled too, and nothing was done.
        """
        self.check(name)
        self._check_deadline()
        asked = self._line().ask(names.step_name(name))
        if self._answer(asked, inputs) is None:
            step = self._plain(asked, Kind.OBSERVATION)
            step.fingerprint, step.effects = fingerprint_of(inputs), (effect,)
            done: State[Any] = State(StateType.COMPLETED, data=value)
            step.ending, self._states[asked.key] = ending_of(done, what=f"what {name!r} gave")
            self._unwritten.append(step)
            try:
                self._flush(dispatched=any(new.ending is None for new in self._unwritten))
            except OrchestraError as error:
                step.effects = ()
                step.ending, self._states[asked.key] = ending_of(states.from_exception(error), what=name)
        given: T = self._state(asked.key).result()
        return given

    def patched(self, name: str) -> bool:
        """Whether this run goes by the patch of that name, in the calling branch. Once said, it is said so again."""
        self.check("patched")
        branch, patch = self._line(), names.step_name(name)
        if patch not in branch.patches:
            branch.patches[patch] = self._decide_patch(branch.patch(patch))
        return branch.patches[patch]

    def _decide_patch(self, asked: Asked) -> bool:
        known = self.replay.patched(asked)
        if known is None:
            # Written with the next write. Before that nothing was done by it: after a crash it is said anew.
            step = self._plain(asked, Kind.PATCH)
            step.ending, _ = ending_of(State(StateType.COMPLETED, data=True), what="a patch")
            self._unwritten.append(step)
        return known is not False

    def observe_done(self, key: str) -> bool:
        """Whether a submitted step has ended, journaled."""

        def look() -> bool:
            self.dispatch()
            self._refresh([key])
            return self._is_done(key)

        return self.observe("done", look)

    def observe_state(self, key: str) -> State[Any]:
        """The present state of a submitted step, journaled."""

        def look() -> list[Any]:
            self.dispatch()
            self._refresh([key])
            record = self._records.get(key)
            if record is None:
                return ["PENDING", "Pending", None]
            return [record.state_type, record.state_name, record.state_message]

        state_type, name, message = self.observe("state", look)
        if StateType(state_type) in states.FINAL and self._is_done(key):
            return self._state(key)
        return State(StateType(state_type), name, message, state_details=self._details(key))

    def known_state(self, key: str) -> State[Any] | None:
        """The final state of a step, if this segment knows it."""
        return self._state(key) if self._is_done(key) else None

    def when_known(self, key: str, callback: Callable[[], object]) -> None:
        """Call back when this segment learns that the step has ended."""
        if self._is_done(key):
            callback()
        else:
            self._callbacks.setdefault(key, []).append(callback)

    def take_unwritten(self) -> list[NewStep]:
        """The steps not yet written, for the write that ends the segment."""
        unwritten, self._unwritten = self._unwritten, []
        return unwritten

    def reload(self) -> None:
        """Read the whole journal again."""
        run_id, attempt = self.claim.run_id, self.claim.run_attempt
        for record in self._read(lambda: journal.load(self.database, run_id, attempt)):
            self._learn(record)

    @property
    def has_transactions(self) -> bool:
        """Whether the run attempt has opened any, as far as this segment knows."""
        if self._keeper is not None:
            return True
        return any(record.kind == Kind.TRANSACTION for record in self._records.values())

    def next_asked(self, branch: str, position: int) -> int | None:
        """The number of the first step of this run attempt that a branch asked for at a position or behind it.

        None where it never got there.
        """
        found = (
            record
            for record in self._records.values()
            if record.branch == branch
            and record.position >= position
            and record.recorded_attempt == self.claim.run_attempt
        )
        return min((record.sequence for record in found), default=None)

    @property
    def unfinished(self) -> bool:
        """Whether submitted work of the run may not have ended."""
        return bool(self._open)

    def window(self, queue: str) -> int:
        """How many rows of a wave are announced ahead on a queue."""
        return graph.window(self.carrier.slots(queue))

    @property
    def seconds_left(self) -> float | None:
        """Until the run's deadline, 0 after it; None: it has none."""
        return None if self._deadline is None else max(self._deadline - clock.monotonic(), 0.0)

    @property
    def is_late(self) -> bool:
        """Whether the run's deadline has passed, and the body was not told of it."""
        return self.seconds_left == 0.0 and not self._timed_out

    @property
    def is_stopped(self) -> bool:
        """Whether nothing that the body still does counts."""
        return self.parked or self.claim.lost or self.claim.cancelled or bool(self.broken or self.mismatch)

    def dispatch(self) -> None:
        """Write what was submitted, and announce what of it is ready."""
        if any(step.ending is None for step in self._unwritten):
            self._flush(dispatched=True)

    def check(self, what: str) -> None:
        """Whether the body may go on with a call of orchestra.

        Raises:
            Parked: The segment has parked.
            Cancelled: The run is being cancelled.
            Fenced: Another process has claimed the run.
            ForeignThread: The call comes from a thread that the body started.
        """
        self._check_segment()
        self._check_asker(what)
        self._warn_if_slow()
        self._check_transaction()
        if self.carrier.stopping() and not self._inline:
            self._give_back()

    def _check_segment(self) -> None:
        """Whether anything that the body still does counts."""
        if self.parked:
            raise Parked
        if self.claim.lost:
            raise Fenced
        if self.claim.cancelled:
            raise Cancelled
        interrupts.check()
        if self.mismatch is not None:
            raise self.mismatch
        if self.broken is not None:
            raise Adrift

    def _check_asker(self, what: str) -> None:
        """Whether it is this body that asks, in one of its branches, and not within a look."""
        here = flow_run_context.get()
        asking: object = self if here is None else here.runner
        if asking is not self:
            raise DefinitionError(f"{what} was asked of another run than the one whose body this is; hand on results")
        if self._observing is not None:
            raise DefinitionError(f"{what} was called inside of what {self._observing!r} looks at; call it outside")
        line = current_line.get()
        if line is None or line.thread != threading.get_ident():
            raise ForeignThread(what)

    def _check_transaction(self) -> None:
        """Raise what the block around this raised when it was run before, where it did so: it is being rolled back."""
        if self._keeper is not None and (txn := transaction_here()) is not None:
            branch = self._line()
            place = Asked("", branch.id, branch.position)
            self._keeper.check(txn, branch.id, branch.position, self.replay.reaches(place))

    def is_retried_from(self, key: str) -> bool:
        """Whether a person had the run retried from this step, or from a block around what is asked for now."""
        chosen = self.row["retried_from"]
        if chosen is None or chosen == key:
            return chosen is not None
        block = transaction_here()
        while block is not None and block.row_key != chosen:
            block = block.parent
        return block is not None

    def _transaction_key(self) -> str | None:
        """The innermost block that what is asked for now belongs to."""
        txn = transaction_here()
        return None if txn is None else txn.row_key

    def guard(self, write: Callable[[], T]) -> T:
        """Do a write under the claim, not to be interrupted in the middle.

        Raises:
            Fenced: The claim was lost.
            Cancelled: The run is being cancelled.
            Adrift: The database is away.
        """
        if self.parked:
            raise Parked
        if self.broken is not None:
            raise Adrift
        try:
            with interrupts.shielded():
                return write()
        except StoreError as error:
            self.broken = error
            raise Adrift from error
        except CancelRequested as error:
            raise Cancelled from error
        except ClaimLost as error:
            self.claim.lost = True
            logger.warning("%s: what this process did since is not recorded", error)
            raise Fenced from error

    def _warn_if_slow(self) -> None:
        """Say once where a body's own code takes long between journaled steps: every replay does that work again."""
        since, self._replayed_at = self._replayed_at, None
        if since is None or self._warned_slow or clock.monotonic() - since < SLOW_REPLAY:
            return
        self._warned_slow = True
        engine_logger(self.context).warning(
            "the flow body's own code before %s took over %g s and runs again in every replay; make it a task",
            calling_line(),
            SLOW_REPLAY,
        )

    def _give_back(self) -> None:
        """The worker shuts down: what was submitted is written, and the run left to another worker."""
        if self._unwritten:
            self._flush(dispatched=True)
        self.guard(lambda: claims.give_back(self.database, self.claim))
        self.parked = True
        raise Parked

    def _check_deadline(self, wait: Awaited | None = None, *, replayed: bool = False) -> None:
        """Raise the flow's timeout where the body would go on past its deadline, or did when it was first run.

        Args:
            wait: The wait it is raised in, else it is raised before the next step is asked for.
            replayed: Only if it was raised here when this was first run.
        """
        if self._timed_out or self.row["timeout_seconds"] is None:
            return
        name = "timeout" if wait is None else f"timeout-{wait.digest}"
        asked = self._line().peek(name)
        # What was done before the deadline is replayed after it.
        late = self.seconds_left == 0.0 and not self.replay.reaches(asked)
        if not self.replay.holds(asked) and (replayed or not late):
            return
        self._timed_out = True
        self.observe(name, self._raise_timeout)

    def _raise_timeout(self) -> None:
        raise RunTimeout(f"flow {self.flow.name!r} ran longer than its timeout_seconds={self.row['timeout_seconds']:g}")

    def _line(self) -> Branch:
        line = current_line.get()
        assert line is not None
        return line.branch

    @property
    def _of_attempt(self) -> str:
        """The fingerprint of steps that a retry must not take over: what they saw is seen anew."""
        return f"attempt {self.claim.run_attempt}"

    def _answer(
        self, asked: Asked, inputs: bytes | None, fingerprint: str | None = None, upstreams: Sequence[str] = ()
    ) -> StepRecord | None:
        """The record of a step that was asked for before.

        Args:
            upstreams: Steps whose results are among its inputs: where one is run again, so is this.

        Raises:
            NonDeterministic: The journal holds another.
        """
        given = fingerprint or fingerprint_of(inputs)
        try:
            record = self.replay.answer(asked, given, afresh=any(not self._is_moved(key) for key in upstreams))
        except NonDeterministic as error:
            self.mismatch = error
            raise
        if record is None:
            # What an earlier run attempt recorded under this key no longer counts.
            self._records.pop(asked.key, None)
            return None
        self._replayed_at = clock.monotonic()
        own = record.recorded_attempt == self.claim.run_attempt
        if own and given is not None and record.fingerprint not in (None, given):
            logger.warning("step %r is replayed with other inputs than it was run with; its result is kept", asked.key)
        return record

    def _is_moved(self, key: str) -> bool:
        """Whether a step was recorded in an earlier run attempt, and stands."""
        record = self._records.get(key)
        return record is not None and record.recorded_attempt < self.claim.run_attempt

    def _state(self, key: str) -> State[Any]:
        """The final state of a step that has ended; decoded once, unless its task asks not to be held."""
        if (known := self._states.get(key)) is not None:
            return known
        record = self._records[key]
        data = record.result
        if record.large:
            data = self._read(lambda: journal.result_of(self.database, self.claim.run_id, self.claim.run_attempt, key))
        state = state_of(record.state_type, record.state_name, record.state_message, data, self._details(key))
        if key not in self.unheld:
            self._states[key] = state
        return state

    def _is_done(self, key: str) -> bool:
        record = self._records.get(key)
        return key in self._states or (record is not None and record.done)

    def _missing(self, keys: Sequence[str]) -> list[str]:
        return [key for key in dict.fromkeys(keys) if not self._is_done(key)]

    def _satisfied(self, keys: Sequence[str], first: bool) -> bool:
        missing = self._missing(keys)
        return not missing or (first and len(missing) < len(set(keys)))

    def _refresh(self, keys: Sequence[str]) -> None:
        """Read from the journal which of these steps, and which others, have ended."""
        unwritten = {step.key for step in self._unwritten}
        asked = [key for key in keys if key not in unwritten]
        if not asked:
            return
        run_id, attempt = self.claim.run_id, self.claim.run_attempt
        if len(asked) <= _FEW:
            found = self._read(lambda: journal.load_steps(self.database, run_id, attempt, asked))
            ended = any(record.done for record in found)
        else:
            found, ended = [], True
        if (ended and len(self._open) > len(asked)) or len(asked) > _FEW:
            since = self._seen_until - _OVERLAP
            self._seen_until = clock.now()
            found += self._read(lambda: journal.load_done(self.database, run_id, attempt, since))
        for record in found:
            self._learn(record)

    def _learn_all(self, keys: Sequence[str]) -> None:
        """Read these steps by name: finding the ended ones by time may miss some where clocks differ by much."""
        run_id, attempt = self.claim.run_id, self.claim.run_attempt
        for record in self._read(lambda: journal.load_steps(self.database, run_id, attempt, keys)):
            self._learn(record)

    def _learn(self, record: StepRecord) -> None:
        self._records[record.key] = record
        if record.done and record.key in self._open:
            self._open.discard(record.key)
            for callback in self._callbacks.pop(record.key, ()):
                _call_back(callback, record.key)

    def _write(self, steps: list[NewStep], joint: Joint | None = None) -> None:
        """Write ended steps, with all that is not yet written.

        Args:
            joint: The transaction of their body: what is not committed with it never happened.
        """
        self._unwritten += steps
        try:
            self._flush(dispatched=False, joint=joint)
        except BaseException:
            if joint is not None:
                self._unwritten = [step for step in self._unwritten if step not in steps]
            raise

    def _flush(self, *, dispatched: bool, joint: Joint | None = None) -> None:
        with self._handed_over() as unwritten:
            # In an async body an ended step may be written together with what another branch has submitted.
            submitted = dispatched or any(step.ending is None for step in unwritten)
            announcements = self.guard(
                lambda: journal.record(
                    self.database, self.claim, unwritten, window=self.window, dispatched=submitted, joint=joint
                )
            )
        if dispatched:
            self._linger_until = clock.monotonic() + LINGER
        self._announce(announcements)

    @contextmanager
    def _handed_over(self) -> Iterator[list[NewStep]]:
        """The steps not yet written, for a write; they are kept where it fails."""
        unwritten = self.take_unwritten()
        try:
            yield unwritten
        except BaseException:
            self._unwritten = unwritten + self._unwritten
            raise

    def _read(self, look: Callable[[], T]) -> T:
        """Read from the journal.

        Raises:
            Adrift: The database is away.
        """
        try:
            return look()
        except StoreError as error:
            self.broken = error
            raise Adrift from error

    def _announce(self, announcements: Sequence[Announcement]) -> None:
        if announcements:
            failpoint("before_announce")
            self.carrier.announce(announcements)
            failpoint("after_announce")

    def _plain(self, asked: Asked, kind: Kind) -> NewStep:
        name = asked.key.rpartition("/")[2]
        return NewStep(
            asked.key,
            asked.branch,
            asked.position,
            self._next_sequence(),
            kind,
            name,
            transaction=self._transaction_key(),
        )

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _details(self, key: str) -> StateDetails:
        run_id = self.claim.run_id
        return StateDetails(run_id, identifiers.step_id(run_id, self.claim.run_attempt, key))

    def _with_details(self, state: State[Any], key: str) -> State[Any]:
        return State(state.type, state.name, state.message, state.data, state.timestamp, self._details(key))


def _call_back(callback: Callable[[], object], key: str) -> None:
    try:
        callback()
    except Exception:
        logger.exception("a callback of %r raised", key)


def _deadline(row: Mapping[str, Any]) -> float | None:
    if row["deadline_at"] is None or row["deadline_at"] >= waits.NEVER:
        return None
    return float(
        clock.monotonic() + row["deadline_at"] - row.get("claimed_at", row["lease_until"] - row["lease_seconds"])
    )


def fingerprint_of(inputs: bytes | None) -> str | None:
    """A digest of encoded inputs; None for pickles, whose bytes differ between processes for equal values."""
    if inputs is None or is_pickle(inputs):
        return None
    return identifiers.fingerprint(inputs)


def calling_line() -> str:
    """`file:line` of the user's code that called orchestra."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("orchestra."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
