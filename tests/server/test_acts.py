"""The one place through which every act of a person goes."""

from __future__ import annotations

import logging

import pytest

from orchestra.errors import FlowRunNotFound, NotAllowed, StoreUnavailable
from orchestra.server.access import LOCAL, Principal, Scope
from orchestra.server.acts import Outcome, perform, perform_each

READER = Principal("api-key", "grafana", Scope.READ)


def test_an_act_is_done_and_noted(caplog: pytest.LogCaptureFixture) -> None:
    """With who did what to which thing."""
    with caplog.at_level(logging.INFO, "orchestra.acts"):
        assert perform(LOCAL, "cancel", "flow run 1", lambda: "Cancelled") == "Cancelled"

    assert "local 'local': cancel flow run 1" in caplog.text


def test_who_may_only_read_does_nothing() -> None:
    """And is told what it would take."""
    done: list[str] = []

    with pytest.raises(NotAllowed, match=r"'grafana' may not cancel flow run 1: this needs the scope 'run'"):
        perform(READER, "cancel", "flow run 1", lambda: done.append("1"))
    with pytest.raises(NotAllowed):
        perform_each(READER, "cancel", "flow run", ["1", "2"], done.append)

    assert done == []


def test_of_many_each_is_told_what_became_of_it() -> None:
    """One that is not there holds up no other."""

    def act(run_id: str) -> None:
        if run_id == "2":
            raise FlowRunNotFound(run_id)

    first, second, third = perform_each(LOCAL, "cancel", "flow run", ["1", "2", "3"], act)

    assert (first, third) == (Outcome("1", True), Outcome("3", True))
    assert not second.done
    assert "there is no flow run '2'" in str(second.detail)


def test_a_database_that_is_away_is_no_outcome_of_one() -> None:
    """All of it is answered with that."""

    def act(run_id: str) -> None:
        raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        perform_each(LOCAL, "cancel", "flow run", ["1", "2"], act)
