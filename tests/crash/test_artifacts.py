"""SIGKILL around artifacts: each is there once, and its id is the one that the body got."""

from __future__ import annotations

import pytest

from orchestra.store.tables import artifact_collections, artifacts
from tests.crash import flows
from tests.crash.conftest import RECOVERY, Arena
from tests.crash.test_failpoints import ON_ARTIFACTS

pytestmark = pytest.mark.services

#: How many numbers are shown.
COUNT = 3


#: Each point, and at which visit the worker is killed: in the flow's body, in a task's, and after replays.
KILLS = [(ON_ARTIFACTS[0], 1), *((ON_ARTIFACTS[1], nth) for nth in (1, 2, 6))]


@pytest.mark.parametrize(("point", "nth"), KILLS)
def test_an_artifact_is_there_once_though_its_maker_is_killed(arena: Arena, point: str, nth: int) -> None:
    """Just before it is written, and just after, before the next step."""
    arena.arm(f"{point}=kill::{nth}")

    handle = flows.showing.delay(COUNT)
    made = handle.result(timeout=RECOVERY + 20)

    assert arena.visited(point) > nth
    found = arena.rows(artifacts, artifacts.c.flow_run_id == handle.id)
    of_flow = {row.id: row.data for row in found if row.key == "of-a-flow"}
    assert of_flow == {each: f'"{number}"' for number, each in enumerate(made)}
    of_tasks = sorted(int(row.data.strip('"')) for row in found if row.key == "of-a-task")
    assert of_tasks == [*range(COUNT), *range(100, 100 + COUNT)]
    (latest,) = arena.rows(artifact_collections, artifact_collections.c.key == "of-a-flow")
    assert latest.latest_id == made[-1]
