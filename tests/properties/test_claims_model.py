"""Claims, completions and parks against a small model: who holds what, and when a parked run is due again."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings, stateful
from hypothesis import strategies as st

from orchestra import serializers
from orchestra.errors import ClaimLost
from orchestra.states import StateType
from orchestra.store import claims, due, journal, runs, settle, waits
from orchestra.store.claims import Claim
from orchestra.store.database import Database, create_schema
from orchestra.store.journal import Ending, NewStep
from orchestra.store.tables import Kind, Phase, flow_runs, steps
from orchestra.store.waits import Park
from tests.exploring import tries

pytestmark = pytest.mark.slow

KEYS = st.integers(0, 7)


@dataclass
class Row:
    """What the model knows of a run or a step."""

    phase: Phase = Phase.READY
    number: int = 0
    lapses: int = 0
    lapsed: bool = False

    @property
    def claimable(self) -> bool:
        return self.phase is Phase.READY or (self.phase is Phase.CLAIMED and self.lapsed)

    def claim(self) -> None:
        self.lapses += self.phase is Phase.CLAIMED
        self.phase, self.number, self.lapsed = Phase.CLAIMED, self.number + 1, False

    def held_by(self, claim: Claim) -> bool:
        return self.phase is Phase.CLAIMED and self.number == claim.number

    def release(self, phase: Phase, *, progress: bool = True) -> None:
        self.phase, self.lapsed = phase, False
        self.lapses = 0 if progress else self.lapses


@dataclass
class Wait:
    """What a parked run waits for."""

    needed: set[str]
    left: int
    open: set[str] = field(default_factory=set)


@lru_cache(maxsize=1)
def template() -> Path:
    """A SQLite file with the schema."""
    path = Path(tempfile.mkdtemp()) / "template.db"
    database = Database(f"sqlite:///{path}")
    create_schema(database)
    database.close()
    return path


class Claims(stateful.RuleBasedStateMachine):
    """One run with a few steps; any number of workers, of which some are slow."""

    made = stateful.Bundle("made")
    held_runs = stateful.Bundle("held_runs")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        shutil.copy(template(), f"{self.folder}/orchestra.db")
        self.database = Database(f"sqlite:///{self.folder}/orchestra.db")
        new = runs.NewRun(flow_name="etl", path="flows:etl", name="a", parameters=serializers.encode({}), queue="q")
        runs.create(self.database, new)
        self.run_id, self.run, self.steps, self.wait = new.id, Row(), {}, None

    def teardown(self) -> None:
        self.database.close()
        shutil.rmtree(self.folder)

    # -- what workers do ---------------------------------------------------------------------------------------------

    @stateful.rule(target=held_runs)
    def claim_run(self) -> Any:
        """A message for the run arrives."""
        self._set(flow_runs, flow_runs.c.phase == Phase.READY, due_at=0.0)
        claimed = claims.claim_run(self.database, self.run_id)
        assert (claimed is not None) == self.run.claimable
        if claimed is None:
            return stateful.multiple()
        self.run.claim()
        self.wait = None
        return claimed.claim

    @stateful.precondition(lambda self: self.steps)
    @stateful.rule(target=made, key=KEYS)
    def claim_step(self, key: int) -> Any:
        """A message for a step arrives, perhaps not the first one."""
        name = self._key(key)
        claimed = claims.claim_step(self.database, self.run_id, 1, name)
        assert (claimed is not None) == self.steps[name].claimable
        if claimed is None:
            return stateful.multiple()
        self.steps[name].claim()
        return claimed.claim

    @stateful.rule(claim=held_runs, count=st.integers(1, 3))
    def dispatch(self, claim: Claim, count: int) -> None:
        """The body submits tasks."""
        new = [self._new(len(self.steps) + number) for number in range(count)]
        if not self.run.held_by(claim):
            with pytest.raises(ClaimLost):
                journal.record(self.database, claim, new, window=lambda queue: 16, dispatched=True)
            return
        announced = journal.record(self.database, claim, new, window=lambda queue: 16, dispatched=True)
        assert [each.step_key for each in announced] == [step.key for step in new]
        self.run.lapses, self.run.lapsed = 0, False
        self.steps |= {step.key: Row() for step in new}

    @stateful.rule(claim=made, succeeds=st.booleans())
    def complete(self, claim: Claim, succeeds: bool) -> None:
        """A task ends, perhaps on a worker that lost its claim long ago."""
        ending = Ending(StateType.COMPLETED if succeeds else StateType.FAILED, "Ended", result=serializers.encode(1))
        row = self.steps[claim.step_key or ""]
        if row.held_by(claim):
            announced = settle.complete(self.database, claim, ending)
            row.release(Phase.DONE)
            assert [each.kind for each in announced] == ["flow"] * self._wakes(claim.step_key or "")
        elif row.phase is Phase.DONE and row.number == claim.number:
            # Its own write, repeated: the answer had been lost.
            assert settle.complete(self.database, claim, ending) == []
        else:
            with pytest.raises(ClaimLost):
                settle.complete(self.database, claim, ending)

    @stateful.rule(claim=made)
    def retry_later(self, claim: Claim) -> None:
        """A task fails and is to be tried again."""
        row = self.steps[claim.step_key or ""]
        if row.held_by(claim):
            settle.retry_later(self.database, claim, delay=0.0, attempt=2, message=None)
            row.release(Phase.READY)
        elif row.number != claim.number:
            with pytest.raises(ClaimLost):
                settle.retry_later(self.database, claim, delay=0.0, attempt=2, message=None)

    @stateful.rule(claim=st.one_of(made, held_runs))
    def give_back(self, claim: Claim) -> None:
        """A worker shuts down in order."""
        row = self.run if claim.kind == "flow" else self.steps[claim.step_key or ""]
        assert claims.give_back(self.database, claim) == row.held_by(claim)
        if row.held_by(claim):
            row.release(Phase.READY, progress=False)

    @stateful.rule(claim=held_runs, keys=st.sets(KEYS, min_size=1), first=st.booleans())
    def park(self, claim: Claim, keys: set[int], first: bool) -> None:
        """The body waits for all of some steps, or for the first of them."""
        if not self.steps:
            return
        names = {self._key(key) for key in keys}
        wanted = Park(tuple(sorted(names)), 1 if first else len(names))
        open_ = {name for name, row in self.steps.items() if row.phase is not Phase.DONE}
        if not self.run.held_by(claim):
            self._park_too_late(claim, wanted)
            return
        parked = waits.park(self.database, claim, wanted, window=lambda queue: 16).parked
        assert parked == bool(names <= open_ if first else names & open_)
        self.run.lapses, self.run.lapsed = 0, False
        if parked:
            self.run.release(Phase.WAITING)
            self.wait = Wait(names & open_, 1 if first else len(names & open_), open_)

    def _park_too_late(self, claim: Claim, wanted: Park) -> None:
        if self.run.number == claim.number and self.run.phase in (Phase.WAITING, Phase.READY):
            assert waits.park(self.database, claim, wanted, window=lambda queue: 16).parked
            return
        with pytest.raises(ClaimLost):
            waits.park(self.database, claim, wanted, window=lambda queue: 16)

    # -- what time and the sweeper do --------------------------------------------------------------------------------

    @stateful.precondition(lambda self: self.steps)
    @stateful.rule(key=KEYS)
    def lapse_step(self, key: int) -> None:
        """A worker died, or is cut off."""
        name = self._key(key)
        self._set(steps, steps.c.step_key == name, steps.c.phase == Phase.CLAIMED, lease_until=1.0)
        self.steps[name].lapsed = self.steps[name].phase is Phase.CLAIMED

    @stateful.rule()
    def lapse_run(self) -> None:
        """The same, of a segment."""
        self._set(flow_runs, flow_runs.c.phase == Phase.CLAIMED, lease_until=1.0)
        self.run.lapsed = self.run.phase is Phase.CLAIMED

    @stateful.rule()
    def sweep(self) -> None:
        """After a long time, exactly what may be claimed is announced again."""
        self._set(steps, steps.c.phase == Phase.READY, announce_at=1.0)
        self._set(steps, steps.c.phase == Phase.CLAIMED, announce_at=1.0)
        self._set(flow_runs, due_at=1.0, announce_at=1.0)
        owed = {name for name, row in self.steps.items() if row.claimable}
        owed |= {"the run"} if self.run.claimable else set()

        found = [each.step_key or "the run" for each in due.take_due(self.database)]
        assert sorted(found) == sorted(owed)
        assert due.take_due(self.database) == []

    @stateful.invariant()
    def rows_are_as_the_model_says(self) -> None:
        """Phase, claim number and lapses of each row."""
        columns = (flow_runs.c.phase, flow_runs.c.claim_number, flow_runs.c.lapses)
        run = self.database.read(lambda connection: connection.execute(sa.select(*columns)).one())
        assert tuple(run) == (self.run.phase, self.run.number, self.run.lapses)
        query = sa.select(steps.c.step_key, steps.c.phase, steps.c.claim_number, steps.c.lapses)
        found = {row.step_key: tuple(row)[1:] for row in self.database.read(lambda c: c.execute(query).all())}
        assert found == {name: (row.phase, row.number, row.lapses) for name, row in self.steps.items()}

    # -- small parts -------------------------------------------------------------------------------------------------

    def _wakes(self, name: str) -> bool:
        """Whether the end of this step makes the parked run READY, or due at once."""
        if self.wait is None:
            return False
        self.wait.open.discard(name)
        self.wait.left -= name in self.wait.needed
        self.wait.needed.discard(name)
        if self.run.phase is Phase.READY:
            return not self.wait.open
        if self.run.phase is Phase.WAITING and (self.wait.left <= 0 or not self.wait.open):
            self.run.phase = Phase.READY
            return True
        return False

    def _key(self, number: int) -> str:
        return list(self.steps)[number % len(self.steps)]

    def _new(self, number: int) -> NewStep:
        return NewStep(f"main/t-{number}", "main", number, number, Kind.TASK, f"t-{number}", "m:t", queue="q")

    def _set(self, table: sa.Table, *where: Any, **values: Any) -> None:
        statement = sa.update(table).where(*where).values(**values)
        self.database.write(lambda connection: connection.execute(statement).rowcount)


TestClaims = Claims.TestCase
TestClaims.settings = settings(max_examples=tries(20), stateful_step_count=30, deadline=None)
