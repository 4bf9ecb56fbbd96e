"""Errors as problem details (RFC 9457): `{"type", "title", "status", "detail"}`, plus what the error knows."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from orchestra import errors

MEDIA_TYPE = "application/problem+json"

#: What a problem looks like, as OpenAPI says it.
SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string", "description": "The kind of error."},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What happened, and what to do."},
        "facts": {"type": "array", "description": "What the error is about, where its kind says in which order."},
        "errors": {"type": "array", "description": "Of a request that does not fit: each place and what is wrong."},
    },
    "example": {
        "type": "about:blank",
        "title": "FlowRunNotFound",
        "status": 404,
        "detail": "there is no flow run '5f0c'; `orchestra flow-run ls` lists the recent ones",
        "facts": ["5f0c"],
    },
}

#: The status of an error of ours; the first that fits.
_STATUS: tuple[tuple[type[BaseException], HTTPStatus], ...] = (
    (errors.NotFound, HTTPStatus.NOT_FOUND),
    (errors.Conflict, HTTPStatus.CONFLICT),
    (errors.NotAllowed, HTTPStatus.FORBIDDEN),
    (errors.StoreUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.SchemaMismatch, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.ResultStorageUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    # The database refused for good: what we asked of it is our fault.
    (errors.StoreError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (errors.BrokerUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.NoBroker, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.OrchestraError, HTTPStatus.UNPROCESSABLE_ENTITY),
)


def problem(status: int, title: str, detail: str, **more: Any) -> Response:
    """An answer that says what went wrong.

    Args:
        more: Further members, as JSON.
    """
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    return Response(json.dumps(body), status, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer errors of ours, and requests that do not fit, with problem details; those of HTTP are `rendering`'s."""
    app.add_exception_handler(errors.OrchestraError, _of_ours)
    app.add_exception_handler(RequestValidationError, _of_request)


def status_of(error: BaseException) -> HTTPStatus:
    """The status that tells an error of ours."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def _of_ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.OrchestraError)
    return problem(status_of(error), type(error).__name__, str(error), facts=_facts(error))


def _facts(error: errors.OrchestraError) -> list[Any]:
    """What an error's constructor takes, as pickle has it, where JSON can hold that: a client raises the same again."""
    made = error.__reduce__()
    given = made[1] if isinstance(made, tuple) else ()
    try:
        json.dumps(given, allow_nan=False)
    except (TypeError, ValueError):
        return []
    return list(given)


def _of_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Without what was given: it may hold a secret, or be no JSON.
    found = [{"loc": list(each["loc"]), "msg": each["msg"], "type": each["type"]} for each in error.errors()]
    said = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found[:5])
    return problem(422, "Invalid request", said, errors=found)


def of_http(request: Request, error: Exception) -> Response:
    """What FastAPI itself refuses, as problem details."""
    assert isinstance(error, HTTPException)
    answer = problem(error.status_code, HTTPStatus(error.status_code).phrase, str(error.detail))
    answer.headers.update(error.headers or {})
    return answer
