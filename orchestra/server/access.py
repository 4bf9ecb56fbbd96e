"""Who asks, and what they may do: every request passes here, and what is not allowed is refused.

One ASGI middleware in front of everything, for http and websocket alike, so that a route that forgets to ask is closed
and not open. What is public is named exactly, by method and path.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import Response

from orchestra.server.problems import problem

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

#: What anybody may ask, as (method, path).
PUBLIC = frozenset({("GET", "/health"), ("GET", "/ready")})
#: Methods that change nothing.
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Scope(enum.StrEnum):
    """What a principal may do; each includes those before it."""

    READ = "read"
    RUN = "run"
    ADMIN = "admin"

    def includes(self, other: Scope) -> bool:
        """Whether who has this scope may do what asks for the other."""
        order = list(Scope)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: `kind` is "local" (loopback without login), "user" or "api-key"."""

    kind: str
    name: str
    scope: Scope


LOCAL = Principal("local", "local", Scope.ADMIN)


class Access:
    """Refuses what is not allowed: an unknown host, another site's form, and who cannot say who they are.

    Args:
        hosts: Names under which we answer, without port, so that no foreign name that resolves to us is (DNS
            rebinding); "*" for any.
        identify: Says who asks, or None.
    """

    def __init__(
        self, app: Any, hosts: frozenset[str], identify: Callable[[HTTPConnection], Awaitable[Principal | None]]
    ) -> None:
        self._app, self._hosts, self._identify = app, hosts, identify

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Let the request pass with `request.state.principal` set, or answer it here."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        refusal = await self._check(HTTPConnection(scope), scope)
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, send)

    async def _check(self, asked: HTTPConnection, scope: Any) -> Response | None:
        if not _is_known(asked.url.hostname or "", self._hosts):
            return problem(400, "Unknown host", "the server does not answer under this name: start it with --host")
        method = scope.get("method", "GET")
        if method not in _SAFE and _is_foreign(asked):
            return problem(403, "Cross-site request", "the request was made by a page of another site")
        principal = await self._identify(asked)
        scope.setdefault("state", {})["principal"] = principal
        if principal is None and (method, scope["path"]) not in PUBLIC:
            return problem(401, "Not logged in", "log in, or send `Authorization: Bearer KEY`")
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_known(name: str, hosts: frozenset[str]) -> bool:
    return "*" in hosts or name.lower() in hosts or is_loopback(name)


def _is_foreign(asked: HTTPConnection) -> bool:
    """Whether a browser says that another site's page sent this; programs say neither header."""
    site = asked.headers.get("sec-fetch-site")
    if site is not None and site not in {"same-origin", "none"}:
        return True
    origin = asked.headers.get("origin")
    return origin is not None and origin != f"{asked.url.scheme.replace('ws', 'http')}://{asked.url.netloc}"
