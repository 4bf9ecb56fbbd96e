"""What every request is held to: an id by which the log knows it, a largest body, a longest time, and no bare error."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from typing import Any

from starlette.exceptions import HTTPException

from orchestra import clock
from orchestra.names import visible
from orchestra.server.problems import problem

logger = logging.getLogger("orchestra.requests")

#: Largest body of a request, in bytes.
MOST_BYTES = 1024 * 1024
#: Seconds within which an answer begins; one that has begun, as a stream, may go on.
LONGEST = 60.0
#: An id that a proxy or client may give; any other is replaced.
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADER = b"x-request-id"


class Requests:
    """Holds each request to that. One ASGI middleware within the guard."""

    def __init__(self, app: Any) -> None:
        self._app, self._longest = app, LONGEST

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, and answer it here where that fails."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, receive, send)
        scope.setdefault("state", {})["request_id"] = request.id
        refusal = request.refusal()
        if refusal is not None:
            await refusal(scope, receive, request.send)
        else:
            await self._within_time(request)
        request.log()

    async def _within_time(self, request: _Request) -> None:
        work = asyncio.ensure_future(self._answer(request))
        try:
            await asyncio.wait({work}, timeout=self._longest)
            if not work.done() and not request.has_begun:
                # What runs in a thread goes on to its end; nobody is told of it.
                await request.close(problem(504, "Too slow", f"there was no answer within {self._longest:g} s"))
                work.cancel()
            await work
        except asyncio.CancelledError:
            # Of the server, which ends; or ours of just now.
            work.cancel()
            if not request.is_closed:
                raise

    async def _answer(self, request: _Request) -> None:
        try:
            await self._app(request.scope, request.receive, request.send)
        # The last place before uvicorn, which would answer in plain text and without the request's id.
        except Exception:
            logger.exception("request %s: %s %s failed", request.id, request.method, visible(request.path))
            if request.has_begun:
                raise
            told = f"the server failed; its log has more under the request id {request.id}"
            await problem(500, "Internal Server Error", told)(request.scope, request.receive, request.send)


class _Request:
    """One request on its way."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.method, self.path = scope["method"], scope["path"]
        headers = dict(scope["headers"])
        given = headers.get(_HEADER, b"").decode("latin-1")
        self.id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        self.length = headers.get(b"content-length", b"0")
        self._is_form = b"form" in headers.get(b"content-type", b"").lower()
        self.has_begun = self.is_closed = False
        self._status = 0
        self._read = 0
        self._started_at = clock.monotonic()

    def refusal(self) -> Any:
        """The answer to what is not looked at any further; None: it is."""
        if b"%00" in self.scope["query_string"] or "\0" in self.path:
            return problem(422, "Invalid request", "a NUL is no part of any name")
        if not self.length.isdigit() or int(self.length) > MOST_BYTES:
            return _too_large()
        return None

    async def receive(self) -> Any:
        """The next part of the body, as long as it is not too large, and no form has a NUL, which is no text."""
        message = await self._receive()
        if self._is_form and any(nul in message.get("body", b"") for nul in (b"\0", b"%00")):
            raise HTTPException(422, "a NUL is no part of any text")
        self._read += len(message.get("body", b""))
        if self._read > MOST_BYTES:
            raise HTTPException(413, _TOO_LARGE)
        return message

    async def send(self, message: Any) -> None:
        """A part of the answer, with the id; nothing more once we have answered ourselves."""
        if not self.is_closed:
            await self._pass_on(message)

    async def close(self, answer: Any) -> None:
        """Answer in the place of the application, which is not heard any more."""
        self.is_closed = True
        await answer(self.scope, self._receive, self._pass_on)

    async def _pass_on(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.has_begun, self._status = True, message["status"]
            message = {**message, "headers": [*message["headers"], (_HEADER, self.id.encode())]}
        await self._send(message)

    def log(self) -> None:
        """One line of who asked for what, and how long it took."""
        who = self.scope.get("state", {}).get("principal")
        took = 1000 * (clock.monotonic() - self._started_at)
        name = getattr(who, "name", "-")
        logger.info("%s %s %s %d %.0f ms %r", self.id, self.method, visible(self.path), self._status, took, name)


_TOO_LARGE = f"the body is larger than {MOST_BYTES:,} bytes"


def _too_large() -> Any:
    return problem(413, "Content Too Large", _TOO_LARGE)
