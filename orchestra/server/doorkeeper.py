"""Who it is that asks: by an API key, by the session of a browser, or as the one person on this machine."""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict, deque

from anyio import CapacityLimiter, to_thread
from starlette.requests import HTTPConnection, Request

from orchestra import accounts, clock
from orchestra.accounts import Scope
from orchestra.server.access import COOKIE, LOCAL, Principal, is_from_here
from orchestra.store import access
from orchestra.store.database import Database

logger = logging.getLogger("orchestra.server")

#: For how long it is believed that nobody has to log in, in seconds.
_BELIEVED = 2.0
#: Passwords that are checked at once.
_AT_ONCE = 2


class Doorkeeper:
    """Knows who asks.

    Args:
        always: Whether everybody has to say who they are; else only once there are users or API keys.
    """

    def __init__(self, *, always: bool) -> None:
        self._always = always
        self._open_until = 0.0
        self.throttle = Throttle()
        #: Each hash of a password takes tens of megabytes and a core.
        self.hashing = CapacityLimiter(_AT_ONCE)

    async def identify(self, asked: HTTPConnection) -> Principal | None:
        """Who asks; None where they have to say it and did not, or what they said opens nothing."""
        database: Database = asked.app.state.database
        kind, _, key = asked.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return await to_thread.run_sync(_by_key, database, key.strip())
        if (token := asked.cookies.get(COOKIE)) and (known := await to_thread.run_sync(_by_session, database, token)):
            return known
        return LOCAL if is_from_here(asked) and not await self.asks(database) else None

    async def asks(self, database: Database) -> bool:
        """Whether one has to log in. A first user or key counts within two seconds."""
        if self._always:
            return True
        if clock.monotonic() < self._open_until:
            return False
        if await to_thread.run_sync(access.is_any, database):
            return True
        self._open_until = clock.monotonic() + _BELIEVED
        return False


def _by_key(database: Database, key: str) -> Principal | None:
    found = accounts.key_of(database, key)
    return None if found is None else Principal("api-key", found.name, Scope(found.scope))


def _by_session(database: Database, token: str) -> Principal | None:
    found = accounts.logged_in(database, token)
    return None if found is None else Principal("user", found.name, Scope(found.scope))


class Throttle:
    """Counts what was tried and not found right a minute back, by whom; of the last few thousand of them."""

    #: Failures a minute, of one address and of one name from wherever.
    MOST_OF_ADDRESS, MOST_OF_NAME = 5, 20
    _WINDOW, _MOST_KNOWN = 60.0, 10_000

    def __init__(self) -> None:
        self._failures: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def wait(self, request: Request, name: str) -> float:
        """Seconds until they may try again; 0: now."""
        mine, of_name = self._both(request, name)
        return max(self._left(mine, self.MOST_OF_ADDRESS), self._left(of_name, self.MOST_OF_NAME))

    def begin(self, request: Request, name: str) -> float:
        """Count a login as failed before it is looked at, so that many at once are no way around; gives which it is."""
        moment = clock.monotonic()
        for each in self._both(request, name):
            each.append(moment)
        return moment

    def succeeded(self, request: Request, name: str, begun: float) -> None:
        """Do not count one that was right."""
        for each in self._both(request, name):
            with contextlib.suppress(ValueError):
                each.remove(begun)

    def _both(self, request: Request, name: str) -> tuple[deque[float], deque[float]]:
        return self._of("address", address(request)), self._of("name", name)

    def _of(self, kind: str, who: str) -> deque[float]:
        key = (kind, accounts.digest(who))
        found = self._failures.setdefault(key, deque())
        self._failures.move_to_end(key)
        while len(self._failures) > self._MOST_KNOWN:
            self._failures.popitem(last=False)
        while found and found[0] < clock.monotonic() - self._WINDOW:
            found.popleft()
        return found

    def _left(self, failures: deque[float], most: int) -> float:
        return failures[-most] + self._WINDOW - clock.monotonic() if len(failures) >= most else 0.0


def address(request: HTTPConnection) -> str:
    """Where a request comes from."""
    return request.client.host if request.client else "unknown"
