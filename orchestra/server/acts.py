"""What people do: every change that somebody asks the server for, by the API or by a page, goes through `perform`.

The one place that knows who did what to which thing: it checks what they may do, and it is where roles and an audit
log belong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from orchestra.accounts import Scope
from orchestra.errors import NotAllowed, OrchestraError, StoreUnavailable
from orchestra.names import visible
from orchestra.server.access import Principal

T = TypeVar("T")

logger = logging.getLogger("orchestra.acts")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one of the things that an act was to be done to."""

    id: str
    done: bool
    #: Why it was not; None: it was.
    detail: str | None = None


def perform(who: Principal, verb: str, what: str, act: Callable[[], T], *, needs: Scope = Scope.RUN) -> T:
    """Do what a person asks for; gives what `act` gives.

    `perform(who, "cancel", f"flow run {run_id}", lambda: operations.cancel(db, run_id, announce))`

    Args:
        who: Who asks.
        verb: What they want, as in "cancel".
        what: To what, by its kind and its id or name, as in "flow run 1234".
        act: Does it; safe to repeat where that is.
        needs: What they must be allowed to do.

    Raises:
        NotAllowed: They may not; nothing was done.
        OrchestraError: What `act` raises.
    """
    _check(who, verb, what, needs)
    given = act()
    logger.info("%s %r: %s %s", who.kind, who.name, verb, visible(what))
    return given


def perform_each(
    who: Principal,
    verb: str,
    noun: str,
    ids: Iterable[str],
    act: Callable[[str], object],
    *,
    needs: Scope = Scope.RUN,
) -> list[Outcome]:
    """Do one thing to many, each by itself; one that cannot be done holds up no other.

    Args:
        noun: Of what kind they are, as in "flow run".
        act: Does it to the one with this id.

    Raises:
        NotAllowed: They may not; nothing was done.
        StoreUnavailable: The database went away; what was done before stays done.
    """
    _check(who, verb, f"{noun}s", needs)
    return [_outcome(who, verb, noun, each, act, needs) for each in ids]


def _check(who: Principal, verb: str, what: str, needs: Scope) -> None:
    if not who.scope.includes(needs):
        raise NotAllowed(who.name, verb, what, needs.value)


def _outcome(who: Principal, verb: str, noun: str, id: str, act: Callable[[str], object], needs: Scope) -> Outcome:
    try:
        perform(who, verb, f"{noun} {id}", lambda: act(id), needs=needs)
    except (NotAllowed, StoreUnavailable):
        raise
    except OrchestraError as error:
        return Outcome(id, False, str(error))
    return Outcome(id, True)
