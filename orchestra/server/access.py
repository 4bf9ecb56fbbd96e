"""Who asks, and what they may do: every request passes here, and what is not allowed is refused.

One ASGI middleware in front of everything, for http and websocket alike, so that a route that forgets to ask is closed
and not open. What is public is named exactly, by method and path.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response

from orchestra.accounts import Scope
from orchestra.names import is_loopback
from orchestra.server.problems import problem

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

#: What anybody may ask, as (method, path); the static files come to it.
PUBLIC = frozenset({("GET", "/health"), ("GET", "/ready"), ("GET", "/login"), ("POST", "/login")})
#: The cookie of a session.
COOKIE = "orchestra_session"
#: What a proxy adds to a request that it passes on.
_OF_PROXIES = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
#: Methods that change nothing.
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


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
        public: What anybody may ask.
        identify: Says who asks, or None.
    """

    def __init__(
        self,
        app: Any,
        hosts: frozenset[str],
        public: frozenset[tuple[str, str]],
        identify: Callable[[HTTPConnection], Awaitable[Principal | None]],
    ) -> None:
        self._app, self._hosts, self._public, self._identify = app, hosts, public, identify

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
        if not _is_known(_name_of(asked), self._hosts):
            told = "the server does not answer under this name: start it with --allow-host NAME, or with --host"
            return problem(400, "Unknown host", told)
        method = scope.get("method", "GET")
        if method not in _SAFE and _is_foreign(asked):
            return problem(403, "Cross-site request", "the request was made by a page of another site")
        principal = await self._identify(asked)
        scope.setdefault("state", {})["principal"] = principal
        if principal is not None or (method, scope["path"]) in self._public:
            return None
        if method == "GET" and "text/html" in asked.headers.get("accept", ""):
            return RedirectResponse(f"/login?{urlencode({'next': _relative(asked)})}", 303)
        said = problem(401, "Not logged in", "log in at /login, or send `Authorization: Bearer KEY`")
        said.headers["www-authenticate"] = "Bearer"
        return said


def _relative(asked: HTTPConnection) -> str:
    return asked.url.path + (f"?{asked.url.query}" if asked.url.query else "")


def is_from_here(asked: HTTPConnection) -> bool:
    """Whether a program of this machine asks, and no proxy for somebody else."""
    if any(name in asked.headers for name in _OF_PROXIES):
        return False
    try:
        came = ipaddress.ip_address(asked.client.host if asked.client else "")
    except ValueError:
        # By a socket in the file system, or in this process.
        return True
    mapped = getattr(came, "ipv4_mapped", None)
    return bool((mapped or came).is_loopback)


def is_local_path(path: str) -> bool:
    """Whether a browser sent there stays with us: `//host` and `/\\host` are other hosts to it."""
    return path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()


def _name_of(asked: HTTPConnection) -> str:
    """The name under which we are asked; empty where it is none, for which the URL would have our own address."""
    given = asked.headers.get("host")
    if given is not None and given.lower() != asked.url.netloc.lower():
        return ""
    return asked.url.hostname or ""


def _is_known(name: str, hosts: frozenset[str]) -> bool:
    return "*" in hosts or name.lower() in hosts or is_loopback(name)


def _is_foreign(asked: HTTPConnection) -> bool:
    """Whether another site's page may have sent this.

    Every browser says where it comes from, by one of two headers. Programs say neither, and send no cookie either: a
    cookie without them is nobody's who should have it.
    """
    site = asked.headers.get("sec-fetch-site")
    if site is not None and site not in {"same-origin", "none"}:
        return True
    origin = asked.headers.get("origin")
    if site is None and origin is None:
        return COOKIE in asked.cookies
    return origin is not None and origin != f"{asked.url.scheme.replace('ws', 'http')}://{asked.url.netloc}"
