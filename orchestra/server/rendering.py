"""How pages are made: templates with everything escaped, the few words they share, and errors as pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse

from orchestra import clock
from orchestra.accounts import Scope
from orchestra.errors import OrchestraError
from orchestra.server import flower, markdown, problems
from orchestra.server.access import Principal

#: The parts of the view, as the navigation lists them.
PARTS = (
    ("Dashboard", "/"),
    ("Runs", "/runs"),
    ("Flows", "/flows"),
    ("Deployments", "/deployments"),
    ("Work pools", "/work-pools"),
    ("Workers", "/workers"),
    ("Artifacts", "/artifacts"),
    ("Events", "/events"),
    ("Limits", "/limits"),
)
#: The key, after g, of each part whose first letter is another one's.
_KEYS = {"Deployments": "p", "Work pools": "q"}
#: Longest value shown in one line, in characters.
_SHORT = 120


def render(request: Request, template: str, *, status: int = 200, **context: Any) -> Response:
    """A page of a template.

    Args:
        status: Of the answer.
        context: What the template is told, beside the request.
    """
    principal: Principal | None = getattr(request.state, "principal", None)
    may = Scope.READ if principal is None else principal.scope
    shared: dict[str, Any] = {
        "request": request,
        "parts": [(name, path, _KEYS.get(name, name[0].lower())) for name, path in PARTS],
        "principal": principal,
        "may_run": may.includes(Scope.RUN),
        "may_admin": may.includes(Scope.ADMIN),
        "link": _linker(request),
        "flower": partial(flower.url_for, request),
    }
    text = _templates.get_template(template).render(shared | context)
    return HTMLResponse(text, status, headers={"Cache-Control": "no-store"})


class PageRoute(APIRoute):
    """A route whose errors are pages for people, where the API answers with problem details."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI's, with errors turned into pages."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except OrchestraError as error:
                status = problems.status_of(error)
                return error_page(request, status, _words(type(error).__name__), str(error))
            except RequestValidationError as error:
                said = "; ".join(f"{each['loc'][-1]}: {each['msg']}" for each in error.errors()[:5])
                return error_page(request, 422, "This address cannot be read", said)
            except HTTPException as error:
                if error.status_code == 401:
                    raise
                return error_page(request, error.status_code, "Not possible", str(error.detail))

        return handle


def error_page(request: Request, status: int, title: str, detail: str) -> Response:
    """What went wrong, as a page."""
    return render(request, "error.html", status=status, title=title, detail=detail, code=int(status))


def install(app: FastAPI) -> None:
    """Let browsers have a page where there is none at an address; programs still get problem details."""
    app.add_exception_handler(HTTPException, _of_http)


def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if not wants_page(request):
        return problems.of_http(request, error)
    return error_page(request, error.status_code, "Not possible", str(error.detail))


def wants_page(request: Request) -> bool:
    """Whether a browser asks for a page, and no program for JSON."""
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api")


def _words(name: str) -> str:
    """`FlowRunNotFound` as "Flow run not found"."""
    spaced = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
    return spaced[:1].upper() + spaced[1:]


# -- addresses ---------------------------------------------------------------------------------------------------


def _linker(request: Request) -> Callable[..., str]:
    """`link(name=value)` is this page with other parameters: None leaves one out, a list gives several."""
    given: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        if value:
            given.setdefault(name, []).append(value)

    def link(path: str | None = None, /, *, toggle: tuple[str, str] | None = None, **changes: Any) -> str:
        wanted = dict(given)
        for name, value in changes.items():
            values = value if isinstance(value, list) else [value]
            wanted[name] = [str(each) for each in values if each is not None]
        if toggle is not None:
            name, value = toggle
            there = wanted.get(name, [])
            wanted[name] = [each for each in there if each != value] if value in there else [*there, value]
        pairs = [(name, value) for name, values in wanted.items() for value in values]
        return (path or request.url.path) + (f"?{urlencode(pairs)}" if pairs else "")

    return link


def query(**parameters: Any) -> str:
    """`?a=1&b=2`, without what is empty; lists give several."""
    pairs: list[tuple[str, str]] = []
    for name, value in parameters.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        pairs.extend((name, str(each)) for each in values if each not in (None, "", False))
    return f"?{urlencode(pairs)}" if pairs else ""


# -- words of templates ------------------------------------------------------------------------------------------


def duration(seconds: float | None) -> str:
    """A time span as people say it: "<1 ms", "340 ms", "4.2 s", "3 m 05 s", "2 h 10 m", "3 d 4 h"."""
    if seconds is None:
        return ""
    if seconds < 0.001:
        return "<1 ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} m" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def moment(value: datetime | float | None) -> Markup:
    """An instant as an element that the browser shows in the zone that was chosen; UTC without scripts."""
    if value is None:
        return Markup("")
    when = clock.to_datetime(value) if isinstance(value, (int, float)) else value
    shown = when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    return Markup('<time datetime="{}">{} UTC</time>').format(when.isoformat(timespec="milliseconds"), shown)


def as_json(value: Any) -> str:
    """A value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def one_line(value: Any) -> str:
    """A value as JSON in one line, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…"


def shown_result(value: Any) -> Mapping[str, Any] | None:
    """An exception as `previews` shows it, or None where a value is none."""
    is_error = isinstance(value, dict) and set(value) == {"type", "message", "traceback"}
    return value if is_error else None


#: Where the pages of orchestra's own things are, by what the ids of their resources begin with.
_PAGES = {
    "orchestra.flow-run.": "/runs/",
    "orchestra.task-run.": "/task-runs/",
    "orchestra.deployment.": "/deployments/",
    "orchestra.artifact.": "/artifacts/",
}


def resource_page(resource_id: str) -> str:
    """The address of the page of an event's resource; empty where there is none."""
    found = (page + resource_id[len(kind) :] for kind, page in _PAGES.items() if resource_id.startswith(kind))
    return next(found, "")


def plural(count: int, word: str, many: str | None = None) -> str:
    """ "1 run", "2 runs", "1,000 runs"."""
    return f"{count:,} {word if count == 1 else many or f'{word}s'}"


_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
_templates.filters |= {
    "duration": duration,
    "moment": moment,
    "pretty": as_json,
    "one_line": one_line,
    "plural": plural,
    "markdown": markdown.as_html,
}
_templates.globals |= {"shown_error": shown_result, "query": query, "resource_page": resource_page}
