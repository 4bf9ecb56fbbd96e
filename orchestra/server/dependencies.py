"""What routes ask for: the database, and that who asks may do what they ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, HTTPException, Request

from orchestra.accounts import Scope
from orchestra.server.access import Principal
from orchestra.store.database import Database


def _database(request: Request) -> Database:
    found: Database = request.app.state.database
    return found


def _principal(request: Request) -> Principal:
    found: Principal | None = request.state.principal
    if found is None:
        raise HTTPException(401, "log in, or send `Authorization: Bearer KEY`")
    return found


def hidden_kinds(who: Principal) -> tuple[str, ...]:
    """The kinds of things whose events only admins see, as they alone see these things."""
    return () if who.scope.includes(Scope.ADMIN) else ("orchestra.user", "orchestra.api-key")


Db = Annotated[Database, Depends(_database)]
Asker = Annotated[Principal, Depends(_principal)]


def require(scope: Scope) -> Callable[[Principal], Principal]:
    """A dependency that refuses with 403 who has less than this scope."""

    def check(principal: Asker) -> Principal:
        if not principal.scope.includes(scope):
            raise HTTPException(403, f"this needs the scope {scope.value!r}, and yours is {principal.scope.value!r}")
        return principal

    return check


def acting(request: Request, principal: Asker) -> None:
    """Refuses every call that is no reading to who may only read: a route that forgets to ask is closed, not open.

    Raises:
        HTTPException: 403, before what is asked for is looked at.
    """
    is_search = request.method == "POST" and request.url.path.rpartition("/")[2] in _SEARCHES
    require(Scope.READ if request.method in {"GET", "HEAD"} or is_search else Scope.RUN)(principal)


#: What is asked by POST for the size of its filters alone: the last part of its path.
_SEARCHES = frozenset({"filter", "count"})

Reader = Annotated[Principal, Depends(require(Scope.READ))]
Runner = Annotated[Principal, Depends(require(Scope.RUN))]
Admin = Annotated[Principal, Depends(require(Scope.ADMIN))]
