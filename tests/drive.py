"""Drives durable runs in this process, message by message, without a broker: for tests of the engine's rules.

The engine, the store and the database are the real ones; only the carrier is a list.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import sqlalchemy as sa

from orchestra import clock, serializers
from orchestra.context import tags_context
from orchestra.engine.definitions import encoded_options
from orchestra.engine.heartbeat import Heart
from orchestra.engine.owed import run_hooks
from orchestra.engine.segment import run_segment
from orchestra.engine.step import run_step
from orchestra.engine.values import state_of
from orchestra.errors import StoreUnavailable
from orchestra.runners.carrier import RanInline
from orchestra.states import State
from orchestra.store import due, journal, runs, slots
from orchestra.store.announcements import Announcement
from orchestra.store.claims import Claim
from orchestra.store.database import Database
from orchestra.store.journal import StepRecord
from orchestra.store.runs import NewRun
from orchestra.store.tables import Phase, flow_runs, owed_hooks, queue_marks, schedules, steps

T = TypeVar("T")


class Killed(BaseException):
    """What a process that a test kills dies of."""


class Mortal:
    """A database as a process sees it that may be killed just before or just after a transaction, or be cut off.

    Once dead it reads and writes nothing more, whatever the code above does with the exception.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.dialect, self.url = database.dialect, database.url
        #: Writes until the death; None: it lives on.
        self.writes_left: int | None = None
        self.after_commit = False
        #: Reads and writes until one at which the database is away; None: it never is.
        self.accesses_left: int | None = None

    @property
    def dead(self) -> bool:
        """Whether the process is dead."""
        return self.writes_left is not None and self.writes_left <= 0

    def kill_at(self, write: int, *, after_commit: bool) -> None:
        """Die at the write of that number, from 1: just before it, or just after its commit."""
        self.writes_left, self.after_commit = write, after_commit

    def cut_off_at(self, access: int) -> None:
        """Have the database away at the read or write of that number, from 1, for longer than it is tried."""
        self.accesses_left = access

    def revive(self) -> None:
        """A new process, which nobody kills or cuts off."""
        self.writes_left = self.accesses_left = None

    def _access(self) -> None:
        if self.dead:
            raise Killed
        if self.accesses_left is not None:
            self.accesses_left -= 1
            if self.accesses_left == 0:
                raise StoreUnavailable("the database is away")

    def write(self, work: Callable[[Any], T], *, durable: bool = False, relaxed: bool = False) -> T:
        """As `Database.write`, if alive."""
        return self._write(lambda: self._database.write(work, durable=durable, relaxed=relaxed))

    def write_alone(self, work: Callable[[Any], T]) -> T:
        """As `Database.write_alone`, if alive."""
        return self._write(lambda: self._database.write_alone(work))

    def _write(self, write: Callable[[], T]) -> T:
        self._access()
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.dead and not self.after_commit:
                raise Killed
        done = write()
        if self.dead:
            raise Killed
        return done

    def read(self, work: Callable[[Any], T]) -> T:
        """As `Database.read`, if alive."""
        self._access()
        return self._database.read(work)

    def now(self) -> float:
        """As `Database.now`."""
        return self._database.now()


class ListCarrier:
    """A carrier whose messages wait in a list."""

    default_queue = "default"
    is_watched = False

    def __init__(self, queues: Sequence[str] = ("default",), slots: int = 2) -> None:
        self.queues = frozenset(queues)
        self.messages: list[Announcement] = []
        self.stops = False
        #: The queues of versions on which other workers listen.
        self.versions: set[str] = set()
        self._slots = slots

    def announce(self, announcements: Sequence[Announcement]) -> None:
        self.messages.extend(announcements)

    def later(self, announcement: Announcement) -> None:
        self.messages.append(announcement)

    def route(self, path: str) -> tuple[str | None, int | None]:
        return None, None

    def check_queue(self, name: str) -> None:
        pass

    def slots(self, queue: str) -> int:
        return self._slots if "@" not in queue or queue in self.versions else 0

    def stopping(self) -> bool:
        return self.stops

    def tell(self, ran: RanInline) -> None:
        pass


class StillHeart(Heart):
    """A heartbeat without a thread: what runs here takes less than a lease."""

    @contextlib.contextmanager
    def hold(self, claim: Claim) -> Iterator[None]:
        yield

    def mark(self, queue: str, announced_at: float | None) -> None:
        pass


class Driver:
    """Starts runs and carries their messages, one at a time, in the order given by `pick`."""

    def __init__(self, database: Database, *, pick: Callable[[int], int] = lambda count: 0, **carrier: Any) -> None:
        self.database = database
        #: What the workers see of it; a test may kill them there.
        self.workers_database: Any = Mortal(database)
        self.carrier = ListCarrier(**carrier)
        self.heart = StillHeart()
        self.segments = 0
        self.pick = pick

    def submit(self, flow: Any, /, *, run_id: str | None = None, **parameters: Any) -> str:
        """Write a run of `flow`; its message waits."""
        spec = flow.spec
        new = NewRun(
            flow_name=spec.name,
            path=spec.path,
            options=encoded_options(spec),
            name="a-run",
            parameters=serializers.encode(parameters),
            queue=spec.queue or "default",
            timeout_seconds=spec.timeout_seconds,
            version=spec.version,
            tags=sorted(tags_context.get()),
            **({"id": run_id} if run_id else {}),
        )
        created = runs.create(self.database, new)
        self.carrier.announce(created.announcements)
        return new.id

    def step(self) -> bool:
        """Carry one message that is due; false where there is none."""
        messages = self.carrier.messages
        now = clock.now()
        due_now = [message for message in messages if message.due_at <= now]
        if not due_now:
            return False
        message = due_now[self.pick(len(due_now)) % len(due_now)]
        messages.remove(message)
        self.deliver(message)
        return True

    def deliver(self, message: Announcement) -> None:
        """Do what a worker does with a message."""
        if message.kind == "flow":
            self.segments += 1
            run_segment(self.workers_database, message.run_id, self.carrier, self.heart)
            return
        assert message.step_key is not None
        if message.kind == "hooks":
            place = message.run_id, message.run_attempt, message.step_key
            run_hooks(self.workers_database, *place, self.carrier, self.heart)
            return
        run_step(self.workers_database, message.run_id, message.run_attempt, message.step_key, self.carrier, self.heart)

    def sweep(self) -> None:
        """Do what the sweeper does, once."""
        for found in (due.complete_due, slots.sweep, due.take_due, due.recount):
            self.carrier.announce(found(self.database))

    def run(self, flow: Any, /, *, messages: int = 10_000, **parameters: Any) -> State[Any]:
        """Run a flow to its end, sweeping only when nothing else is there to do."""
        run_id = self.submit(flow, **parameters)
        return self.finish(run_id, messages=messages)

    def finish(self, run_id: str, *, messages: int = 10_000) -> State[Any]:
        """Carry messages until the run has ended; gives its final state."""
        for _ in range(messages):
            if not self.step():
                if self.row(run_id)["phase"] == Phase.DONE:
                    break
                self.sweep()
                time.sleep(0.001)
        return self.final(run_id)

    def settle(self) -> None:
        """Carry messages until none is due, sweeping once nothing is left; timers are not waited for."""
        while self.step() or self._swept():
            pass

    def _swept(self) -> bool:
        self.sweep()
        return self.step()

    def elapse(self, seconds: float = 86_400.0) -> None:
        """As if that much time had passed for everything that is due later, and for deadlines."""

        def work(connection: sa.Connection) -> None:
            for table in (steps, flow_runs, owed_hooks):
                for column in (table.c.due_at, table.c.announce_at):
                    later = sa.and_(table.c.phase == Phase.READY, column.is_not(None))
                    connection.execute(sa.update(table).where(later).values({column: column - seconds}))
                connection.execute(sa.update(table).values(announced_at=table.c.announced_at - seconds))
            marks = queue_marks.c
            values = {marks.announced_at: marks.announced_at - seconds, marks.claimed_at: marks.claimed_at - seconds}
            connection.execute(sa.update(queue_marks).values(values))
            later = flow_runs.c.deadline_at.is_not(None)
            connection.execute(sa.update(flow_runs).where(later).values(deadline_at=flow_runs.c.deadline_at - seconds))

        self.database.write(work)
        self.carrier.messages[:] = [replace(each, due_at=each.due_at - seconds) for each in self.carrier.messages]

    def elapse_schedules(self, seconds: float) -> None:
        """As if that much time had passed since the schedules were made."""
        column = schedules.c
        values = {"fired_at": column.fired_at - seconds, "next_at": column.next_at - seconds}
        self.database.write(lambda connection: connection.execute(sa.update(schedules).values(**values)).rowcount)

    def end_timers(self, run_id: str) -> None:
        """Let the sleeps, pauses and timeouts of a run be over, and nothing else."""
        timers = sa.and_(steps.c.run_id == run_id, steps.c.kind.in_(["sleep", "pause"]), steps.c.phase == Phase.READY)
        statement = sa.update(steps).where(timers).values(due_at=0.0, announce_at=0.0)
        self.database.write(lambda connection: connection.execute(statement).rowcount)
        self.carrier.announce(due.complete_due(self.database))

    def lapse(self) -> None:
        """Let every lease lapse, as if the workers had been dead for long enough, and start new ones."""
        self.workers_database.revive()
        for table in (steps, flow_runs, owed_hooks):
            statement = sa.update(table).where(table.c.phase == Phase.CLAIMED).values(lease_until=0.0, announce_at=0.0)
            self.database.write(lambda connection, statement=statement: connection.execute(statement).rowcount)

    def final(self, run_id: str) -> State[Any]:
        """The final state of a run that has ended."""
        row = self.row(run_id)
        assert row["phase"] == Phase.DONE, dict(row)
        data = runs.result_of(self.database, row)
        return state_of(row["state_type"], row["state_name"], row["state_message"], data)

    def row(self, run_id: str) -> Any:
        """The run's row."""
        return runs.read(self.database, run_id)

    def steps(self, run_id: str, run_attempt: int = 1) -> list[StepRecord]:
        """The journal of a run attempt, in the order of asking."""
        return journal.load(self.database, run_id, run_attempt)


def emptied(database: Database) -> Database:
    """A database without the runs that were in it: nobody goes on with what an example that failed has left."""
    database.write(lambda connection: connection.execute(sa.delete(flow_runs)).rowcount)
    return database


@contextlib.contextmanager
def counting(calls: list[Any]) -> Iterator[list[Any]]:
    """A list of effects, emptied before and after."""
    calls.clear()
    yield calls
    calls.clear()
