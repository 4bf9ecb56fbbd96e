"""How a server's API is asked: requests, pages, and its problems as the errors they were there."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar, cast
from urllib.parse import quote

import httpx2
from pydantic import TypeAdapter

from orchestra import errors
from orchestra.errors import OrchestraError, StoreUnavailable
from orchestra.store.queries import Page, full_page

T = TypeVar("T")

#: Seconds that an answer may take.
_PATIENCE = 65.0
#: Most records that the server gives at once.
MOST = 200
#: What is raised for a status where the server does not name an error of ours.
_BY_STATUS: dict[int, type[OrchestraError]] = {
    401: errors.ConfigurationError,
    403: errors.ConfigurationError,
    404: errors.NotFound,
    409: errors.Conflict,
    413: errors.ParameterError,
    422: errors.ParameterError,
}


class Caller:
    """Asks one server.

    Raises:
        StoreUnavailable: (each method) The server, or its database, does not answer.
    """

    def __init__(self, url: str, key: str = "") -> None:
        """Ask the server at `url`, as `http://host:4200` or `http://host:4200/api`, as who has this key."""
        self.url = url.rstrip("/").removesuffix("/api") + "/api"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = _client(self.url, tuple(headers.items()))

    def _get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return self._ask("GET", path, params=given_of(params or {})).json()

    def _post(self, path: str, body: Any = None) -> Any:
        return self._ask("POST", path, json=body).json()

    def _bytes(self, path: str) -> bytes | None:
        answer = self._ask("GET", path)
        return None if answer.status_code == 204 else answer.content

    def _ask(self, method: str, path: str, **given: Any) -> httpx2.Response:
        try:
            answer = self._http.request(method, f"{self.url}/{path}", **given)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise StoreUnavailable(
                f"the API at {self.url} does not answer ({error or type(error).__name__}): see that the server runs "
                "(`orchestra server status` on its host), and that ORCHESTRA_API_URL is right"
            ) from error
        if not answer.is_success:
            raise error_of(answer, self.url)
        return answer

    def _page(self, noun: str, shape: type[T], wanted: Mapping[str, Any], limit: int, after: str | None) -> Page[T]:
        """A page of as many records as asked for, by as many requests as that takes."""

        def ask(most: int, after: str | None) -> Page[T]:
            page = self._get(noun, {**wanted, "limit": min(MOST, most), "after": after})
            return Page(tuple(read_all(shape, page["items"])), page["next"])

        return full_page(ask, limit, after)

    def _found(
        self, noun: str, shape: type[T], body: dict[str, Any], sort: str, limit: int | None, offset: int
    ) -> Iterator[T]:
        return (read(shape, each) for each in self._pages(noun, body, sort, limit, offset))

    def _pages(self, noun: str, body: dict[str, Any], sort: str, limit: int | None, offset: int) -> Iterator[Any]:
        left = limit
        while left is None or left > 0:
            most = MOST if left is None else min(MOST, left)
            page = self._post(f"{noun}/filter", {**body, "sort": sort, "limit": most, "offset": offset})
            yield from page
            if len(page) < most:
                return
            offset, left = offset + most, None if left is None else left - most


@lru_cache(maxsize=4)
def _client(url: str, headers: tuple[tuple[str, str], ...]) -> httpx2.Client:
    return httpx2.Client(headers=dict(headers), timeout=_PATIENCE)


@lru_cache(maxsize=64)
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def read(shape: type[T], found: Any) -> T:
    """JSON as a record."""
    record: T = _adapter(cast("Hashable", shape)).validate_python(found)
    return record


def read_all(shape: type[T], found: Any) -> list[T]:
    """A list in JSON as records."""
    return [read(shape, each) for each in found]


def path_of(*parts: str) -> str:
    """A path below the API, of parts that may hold any letter."""
    return "/".join(quote(part, safe="") for part in parts)


def given_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """What of the parameters is given at all."""
    return {name: each for name, each in params.items() if each is not None}


def error_of(answer: httpx2.Response, url: str) -> OrchestraError:
    """The error that the server met, as it would be raised here."""
    try:
        problem = answer.json()
        title, detail, facts = problem["title"], str(problem["detail"]), problem.get("facts", [])
    except (ValueError, KeyError, TypeError):
        return StoreUnavailable(
            f"{url} answers {answer.status_code}, and is no API of orchestra: see ORCHESTRA_API_URL"
        )
    kind = getattr(errors, str(title), None)
    if isinstance(kind, type) and issubclass(kind, OrchestraError):
        return _made(kind, facts, detail)
    if answer.status_code == 401:
        detail = f"{detail}: set ORCHESTRA_API_KEY"
    return _BY_STATUS.get(answer.status_code, StoreUnavailable if answer.status_code >= 500 else OrchestraError)(detail)


def _made(kind: type[OrchestraError], facts: list[Any], detail: str) -> OrchestraError:
    try:
        return kind(*facts) if facts else kind(detail)
    except TypeError:
        # Another version's, which has other facts.
        return OrchestraError(detail)
