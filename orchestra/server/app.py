"""The application: API, pages and static files behind one guard, with strict headers on every answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from orchestra.server import announcing, api, metrics, pages, problems, rendering, warming
from orchestra.server.access import PUBLIC, Access
from orchestra.server.doorkeeper import Doorkeeper
from orchestra.server.requests import Requests
from orchestra.store.database import database

_STATIC = Path(__file__).parent / "static"

_DESCRIPTION = """
Flows, flow runs, deployments and what belongs to them, by Prefect's field names.

Lists give `{"items": [...], "next": ...}`: hand `next` as `after` to get the next page. `POST .../filter` searches by
filters of Prefect's form. Errors are problem details (RFC 9457). Send `Idempotency-Key` with what starts a run
or makes an artifact, and repeat it as often as you like.
"""

_HEADERS = {
    # Scripts, styles and pictures come from us alone, nothing is inline, and nobody puts us into a frame.
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: https:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def create_app(*, hosts: Iterable[str] = (), warm: bool = False) -> FastAPI:
    """The ASGI application over the database of the settings, which it opens when it starts.

    Without `hosts` it is open to this machine as long as there are neither users nor API keys.

    Args:
        hosts: Names besides those of loopback under which it answers; "*" for any. With them, everybody has to log in.
        warm: Look at its own pages once it has started, so that their first views are as quick as all others; for a
            process that does nothing else.
    """
    names = frozenset(hosts)
    app = _Application(
        title="orchestra",
        description=_DESCRIPTION,
        version=version("celery-orchestra"),
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=_lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    problems.install(app)
    rendering.install(app)
    app.include_router(api.health)
    app.include_router(metrics.router)
    app.include_router(api.router, prefix="/api")
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    app.include_router(pages.router, include_in_schema=False)
    app.state.doorkeeper = Doorkeeper(always=bool(names))
    app.state.is_warmed = warm
    app.add_middleware(Requests)
    app.add_middleware(Access, hosts=names, public=PUBLIC | _static_files(), identify=app.state.doorkeeper.identify)
    app.add_middleware(StrictHeaders)
    return app


class _Application(FastAPI):
    """Knows how a problem looks."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        document = super().openapi()
        document["components"]["schemas"]["Problem"] = problems.SCHEMA
        return document


def _static_files() -> frozenset[tuple[str, str]]:
    """Each of them by its name: the login page needs some, and none holds a secret."""
    files = (path.relative_to(_STATIC).as_posix() for path in _STATIC.rglob("*") if path.is_file())
    return frozenset(("GET", f"/static/{name}") for name in files)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.database = database()
    # Hints for live pages travel on the broker where the database carries none.
    announcing.carrier()
    with warming.warming(app) if app.state.is_warmed else nullcontext():
        yield


class StrictHeaders:
    """Puts the headers on every answer that let a browser do no more than needed."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass on, with the headers added to what is answered."""

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                own = ((name.lower().encode(), value.encode()) for name, value in _HEADERS.items())
                message["headers"] = [*message["headers"], *(each for each in own if each[0] not in given)]
            await send(message)

        await self._app(scope, receive, with_headers)
