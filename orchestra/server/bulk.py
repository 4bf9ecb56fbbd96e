"""One act on all flow runs that a filter finds: run by run, a page at a time, with what became of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from orchestra.engine import operations
from orchestra.server import announcing
from orchestra.server.access import Principal
from orchestra.server.acts import Outcome, perform_each
from orchestra.states import FINAL, StateType
from orchestra.store import places, search
from orchestra.store.database import Database
from orchestra.store.search import Selection, Test

Verb = Literal["cancel", "retry", "delete"]

#: Most runs that one request acts on.
MOST = 500


def fitting(verb: Verb) -> tuple[Test, ...]:
    """The tests that leave out the runs to which this cannot be done, or need not be."""
    if verb == "cancel":
        return (Test("state_type", "not_any", sorted(FINAL | {StateType.CANCELLING})),)
    ended = FINAL - {StateType.COMPLETED} if verb == "retry" else FINAL
    return (Test("state_type", "any", sorted(ended)),)


def act(
    db: Database, who: Principal, verb: Verb, wanted: Selection, *, limit: int = MOST, after: str | None = None
) -> tuple[list[Outcome], str | None]:
    """Do it to each of the runs that are meant, the newest first; gives what became of each, and how to go on.

    Each is an act of its own: what was done stays done whatever becomes of the rest, and repeating it is safe.

    Args:
        limit: Most runs that are acted on.
        after: What the call before gave to go on with.

    Raises:
        NotAllowed: Who asks may not; nothing was done.
        ParameterError: `after` is none that a call gave.
    """
    found = search.page_of_run_ids(db, wanted, limit=limit + 1, after=places.read(after))
    ids = [place.key for place in found[:limit]]
    outcomes = perform_each(who, verb, "flow run", ids, act_of(db, verb))
    return outcomes, str(found[limit - 1]) if len(found) > limit else None


def act_of(db: Database, verb: Verb) -> Callable[[str], object]:
    """What does this to the flow run with an id."""
    if verb == "cancel":
        return lambda run_id: operations.cancel(db, run_id, announcing.announce)
    if verb == "retry":
        return lambda run_id: operations.retry(db, run_id, announcing.announce)
    return lambda run_id: operations.delete(db, run_id)
