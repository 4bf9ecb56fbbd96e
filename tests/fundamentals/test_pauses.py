"""Pauses: a flow waits for a person."""

from __future__ import annotations

import threading

import pytest

from orchestra import flow, pause_flow_run, resume_flow_run, runtime
from orchestra.errors import Conflict, PauseTimeout
from tests.helpers import wait_until


def test_a_paused_flow_goes_on_when_it_is_resumed() -> None:
    """`resume_flow_run` may be called from anywhere, with the run's id."""
    ids: list[str | None] = []

    @flow
    def work() -> str:
        ids.append(runtime.flow_run.id)
        pause_flow_run(timeout=30)
        return "approved"

    def approve() -> bool:
        try:
            resume_flow_run(str(ids[0]))
        except (IndexError, Conflict):
            return False
        return True

    person = threading.Thread(target=wait_until, args=(approve, "the run to be paused"))
    person.start()

    assert work() == "approved"
    person.join()


def test_a_pause_that_nobody_ends_fails_the_flow() -> None:
    """`timeout` is in seconds."""

    @flow
    def work() -> None:
        pause_flow_run(timeout=0.01)

    with pytest.raises(PauseTimeout, match="not resumed within"):
        work()
