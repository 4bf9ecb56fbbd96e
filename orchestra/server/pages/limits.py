"""Concurrency limits: who has their slots, who waits; and changing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from starlette.responses import RedirectResponse

from orchestra.accounts import Scope
from orchestra.concurrency import limits
from orchestra.server import acts
from orchestra.server.announcing import announce
from orchestra.server.dependencies import Admin, Db, Reader
from orchestra.server.rendering import PageRoute, query, render

router = APIRouter(route_class=PageRoute)


@router.get("/limits")
def show(request: Request, db: Db, who: Reader, name: str = "") -> Response:
    """All of them; of one that is named, who has its slots and who waits."""
    return render(
        request,
        "limits.html",
        limits=limits.list_limits(),
        name=name,
        holders=limits.read_holders(name)[:200] if name else [],
    )


@router.post("/limits")
def create(db: Db, who: Admin, name: Annotated[str, Form()], limit: Annotated[int, Form(ge=0)]) -> Response:
    """Make one."""
    _change(who, "create", name, lambda: limits.create_limit(name, limit))
    return RedirectResponse("/limits?done=changed", 303)


@router.post("/limits/change")
def change(db: Db, who: Admin, name: Annotated[str, Form()], limit: Annotated[int, Form(ge=0)]) -> Response:
    """Give one another number of slots; who has some keeps them."""
    _change(who, "change", name, lambda: limits.update_limit(name, limit=limit, announce=announce))
    return RedirectResponse(f"/limits{query(name=name, done='changed')}", 303)


@router.post("/limits/active")
def set_active(db: Db, who: Admin, name: Annotated[str, Form()], active: Annotated[bool, Form()]) -> Response:
    """Let one limit nothing for now, or limit again."""
    verb = "enable" if active else "disable"
    _change(who, verb, name, lambda: limits.update_limit(name, active=active, announce=announce))
    return RedirectResponse(f"/limits{query(name=name, done='changed')}", 303)


@router.post("/limits/delete")
def delete(db: Db, who: Admin, name: Annotated[str, Form()]) -> Response:
    """Delete one: who waits goes on."""
    _change(who, "delete", name, lambda: limits.delete_limit(name, announce=announce))
    return RedirectResponse("/limits?done=deleted", 303)


def _change(who: Admin, verb: str, name: str, act: Callable[[], object]) -> None:
    acts.perform(who, verb, f"limit {name}", act, needs=Scope.ADMIN)
