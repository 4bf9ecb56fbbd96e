"""Drives durable runs in this process, message by message, without a broker: for tests of the engine's rules.

The engine, the store and the database are the real ones; only the carrier is a list.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from orchestra import clock, serializers
from orchestra.engine.heartbeat import Heart
from orchestra.engine.segment import run_segment
from orchestra.engine.step import run_step
from orchestra.engine.values import state_of
from orchestra.states import State
from orchestra.store import due, runs
from orchestra.store.announcements import Announcement
from orchestra.store.database import Database
from orchestra.store.runs import NewRun
from orchestra.store.tables import Phase


class ListCarrier:
    """A carrier whose messages wait in a list."""

    default_queue = "default"

    def __init__(self, queues: Sequence[str] = ("default",), slots: int = 2) -> None:
        self.queues = frozenset(queues)
        self.messages: list[Announcement] = []
        self.stops = False
        self._slots = slots

    def announce(self, announcements: Sequence[Announcement]) -> None:
        self.messages.extend(announcements)

    def later(self, announcement: Announcement) -> None:
        self.messages.append(announcement)

    def route(self, path: str) -> tuple[str | None, int | None]:
        return None, None

    def slots(self, queue: str) -> int:
        return self._slots

    def stopping(self) -> bool:
        return self.stops


class Driver:
    """Starts runs and carries their messages, one at a time, in the order given by `pick`."""

    def __init__(self, database: Database, *, pick: Callable[[int], int] = lambda count: 0, **carrier: Any) -> None:
        self.database = database
        self.carrier = ListCarrier(**carrier)
        self.heart = Heart(lambda: database)
        self.segments = 0
        self._pick = pick

    def submit(self, flow: Any, **parameters: Any) -> str:
        """Write a run of `flow`; its message waits."""
        spec = flow.spec
        new = NewRun(
            flow_name=spec.name,
            path=spec.path,
            name="a-run",
            parameters=serializers.encode(parameters),
            queue=spec.queue or "default",
            timeout_seconds=spec.timeout_seconds,
        )
        created = runs.create(self.database, new)
        self.carrier.announce(created.announcements)
        return new.id

    def step(self) -> bool:
        """Carry one message; false where none is left."""
        messages = self.carrier.messages
        if not messages:
            return False
        while not (due_now := [each for each in messages if each.due_at <= clock.now()]):
            time.sleep(0.001)
        message = due_now[self._pick(len(due_now)) % len(due_now)]
        messages.remove(message)
        if message.kind == "flow":
            self.segments += 1
            run_segment(self.database, message.run_id, self.carrier, self.heart)
        else:
            assert message.step_key is not None
            run_step(
                self.database, message.run_id, message.run_attempt, message.step_key, self.carrier, self.heart
            )
        return True

    def sweep(self) -> None:
        """Do what the sweeper does, once."""
        for found in (due.complete_due, due.take_due, due.recount):
            self.carrier.announce(found(self.database))

    def run(self, flow: Any, *, messages: int = 10_000, **parameters: Any) -> State[Any]:
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
        row = self.row(run_id)
        assert row["phase"] == Phase.DONE, dict(row)
        data = runs.result_of(self.database, row)
        return state_of(row["state_type"], row["state_name"], row["state_message"], data)

    def row(self, run_id: str) -> Any:
        """The run's row."""
        return runs.read(self.database, run_id)


@contextlib.contextmanager
def counting(calls: list[Any]) -> Iterator[list[Any]]:
    """A list of effects, emptied before and after."""
    calls.clear()
    yield calls
    calls.clear()
