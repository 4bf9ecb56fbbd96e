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


Db = Annotated[Database, Depends(_database)]
Asker = Annotated[Principal, Depends(_principal)]


def require(scope: Scope) -> Callable[[Principal], Principal]:
    """A dependency that refuses with 403 who has less than this scope."""

    def check(principal: Asker) -> Principal:
        if not principal.scope.includes(scope):
            raise HTTPException(403, f"this needs the scope {scope.value!r}, and yours is {principal.scope.value!r}")
        return principal

    return check


Reader = Annotated[Principal, Depends(require(Scope.READ))]
Runner = Annotated[Principal, Depends(require(Scope.RUN))]
Admin = Annotated[Principal, Depends(require(Scope.ADMIN))]
