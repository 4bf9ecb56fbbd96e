"""The reference of the REST API as a page, made of the OpenAPI document: readable without scripts of other sites."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from fastapi import APIRouter, Request, Response

from orchestra.server.dependencies import Reader
from orchestra.server.rendering import PageRoute, render

router = APIRouter(route_class=PageRoute)

#: Most values of an enumeration that are named.
_MOST = 12


@dataclass(frozen=True, slots=True)
class Field:
    """One thing that an operation takes."""

    name: str
    #: query, path, header or body.
    place: str
    type: str
    required: bool
    description: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that can be asked of the API."""

    tag: str
    method: str
    path: str
    description: str
    fields: tuple[Field, ...]
    #: A body as it may be sent, as JSON; empty: none is known.
    example: str


@router.get("/docs")
def show(request: Request, who: Reader) -> Response:
    """Every operation, by what it is about."""
    found = sorted(operations(request.app.openapi()), key=lambda each: each.tag)
    groups = [(tag, list(some)) for tag, some in groupby(found, lambda each: each.tag)]
    return render(request, "docs.html", groups=groups, base=f"{request.url.scheme}://{request.url.netloc}")


def operations(document: Mapping[str, Any]) -> Iterator[Operation]:
    """The operations of an OpenAPI document, in its order."""
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, given in methods.items():
            body = given.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            shape = _resolved(body, schemas)
            examples = shape.get("examples", [])
            yield Operation(
                tag=given.get("tags", ["other"])[0],
                method=method.upper(),
                path=path,
                description=given.get("description", given.get("summary", "")),
                fields=(*map(_parameter, given.get("parameters", ())), *_members(shape)),
                example=json.dumps(examples[0]) if examples else "",
            )


def _parameter(given: Mapping[str, Any]) -> Field:
    schema = given.get("schema", {})
    return Field(
        given["name"], given["in"], type_of(schema), given.get("required", False), given.get("description", "")
    )


def _members(shape: Mapping[str, Any]) -> Iterator[Field]:
    required = shape.get("required", ())
    for name, schema in shape.get("properties", {}).items():
        yield Field(name, "body", type_of(schema), name in required, schema.get("description", ""))


def _resolved(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a reference means, also of a body that may be left out."""
    for each in (schema, *schema.get("anyOf", ())):
        if "$ref" in each:
            found: Mapping[str, Any] = schemas[each["$ref"].rpartition("/")[2]]
            return found
    return schema


def type_of(schema: Mapping[str, Any]) -> str:
    """What a value may be, in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(map(type_of, choices)))
    if values := schema.get("enum"):
        return ", ".join(map(str, values[:_MOST])) + (", …" if len(values) > _MOST else "")
    if schema.get("type") == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type") or "any JSON")
