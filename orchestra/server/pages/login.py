"""Log in and out."""

from __future__ import annotations

import logging
import math
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from orchestra import accounts
from orchestra.server.access import COOKIE, is_local_path
from orchestra.server.dependencies import Db
from orchestra.server.doorkeeper import Doorkeeper, address
from orchestra.server.rendering import render

router = APIRouter()
logger = logging.getLogger("orchestra.server")


@router.get("/login")
async def login_form(request: Request, next: str = "/") -> Response:
    """The form."""
    return _form(request, next)


@router.post("/login")
async def login(
    request: Request,
    db: Db,
    name: Annotated[str, Form(max_length=128)],
    password: Annotated[str, Form(max_length=accounts.LONGEST_PASSWORD)],
    next: Annotated[str, Form()] = "/",
) -> Response:
    """Begin a session, and go on to where one wanted to go."""
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    if seconds := doorkeeper.throttle.wait(request, name):
        said = f"Too many failed logins. Try again in {math.ceil(seconds)} s."
        answer = _form(request, next, name, said, 429)
        answer.headers["retry-after"] = str(math.ceil(seconds))
        return answer
    begun = doorkeeper.throttle.begin(request, name)
    token = await to_thread.run_sync(accounts.log_in, db, name, password, limiter=doorkeeper.hashing)
    if token is None:
        logger.warning("a login as %r from %s failed", name, address(request))
        return _form(request, next, name, "Name or password is wrong.", 401)
    doorkeeper.throttle.succeeded(request, name, begun)
    answer = RedirectResponse(next if is_local_path(next) else "/", 303)
    answer.set_cookie(
        COOKIE,
        token,
        max_age=int(accounts.SESSION_SECONDS),
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/logout")
async def logout(request: Request, db: Db) -> Response:
    """End the session."""
    if token := request.cookies.get(COOKIE):
        await to_thread.run_sync(accounts.log_out, db, token)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE)
    return answer


def _form(request: Request, target: str, name: str = "", said: str = "", status: int = 200) -> Response:
    return render(request, "login.html", status=status, target=target, name=name, said=said)
