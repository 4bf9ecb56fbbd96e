"""For how long the worker's parent renews the claims of a child that is alive but silent."""

from __future__ import annotations

from orchestra.celery.sweeper import Patience
from orchestra.store.claims import Claim

LEASE, LIMIT = 30.0, 600.0


def claim(number: int = 1) -> Claim:
    """A claim of one owner."""
    return Claim("step", "run", 1, "main/work-0", "host:1:2/a", number, LEASE, 0.0)


def test_a_silent_claim_is_renewed_until_it_was_silent_for_the_limit() -> None:
    """It looks fresh between two renewals; that does not count as a heartbeat."""
    patience = Patience(LIMIT)
    half = LEASE / 2

    renewed = [patience.renewable([claim()] if tick % 2 == 0 else [], tick * half) != [] for tick in range(44)]

    assert renewed[0:40:2] == [True] * 20
    assert renewed[40::2] == [False, False]


def test_a_silent_claim_does_not_use_up_the_patience_of_another() -> None:
    """Each claim is counted from its own first silence."""
    patience = Patience(LIMIT)
    for tick in range(41):
        patience.renewable([claim(1)], tick * LEASE / 2)

    assert patience.renewable([claim(1), claim(2)], LIMIT + 1) == [claim(2)]


def test_a_heartbeat_between_two_silences_begins_the_patience_anew() -> None:
    """A claim that did not come near its end for a lease was renewed by its owner."""
    patience = Patience(LIMIT)
    patience.renewable([claim()], 0.0)

    assert patience.renewable([claim()], LIMIT + 1) == [claim()]
